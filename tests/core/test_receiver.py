"""What a reader is given, whole and in pieces; what is skipped, and how much waits for it."""

from __future__ import annotations

import zlib

import pytest

from koko.core.deflate import Agreed
from koko.core.incoming import ALL
from koko.core.receiver import READ_AHEAD
from koko.errors import CloseError
from koko.message import Kind
from tests.core.ends import client, ending, said, server
from tests.wire import compressed, wire

HOLD = 1 << 18


HELLO = said("1 000 0001", b"hello")


def open_messages(end):
    """Read until nothing more has come."""
    return list(iter(end.next_message, None))


def begun(end, octets):
    """Return the message that begins with these bytes, for a reader that waited for it."""
    assert end.next_stream() is None
    end.feed(octets, 1.0)
    return end.next_stream()


# Whole messages


def test_messages_are_read_in_the_order_they_came():
    end = server()
    end.feed(HELLO + said("1 000 0010", b"\xff"), 1.0)
    assert open_messages(end) == ["hello", b"\xff"]


def test_a_frame_may_come_in_pieces():
    end = server()
    end.feed(HELLO[:3], 1.0)
    assert end.next_message() is None
    end.feed(HELLO[3:], 2.0)
    assert end.next_message() == "hello"


def test_a_face_should_stop_reading_when_nobody_takes_what_came():
    end = server()
    end.feed(said("1 000 0010", bytes(READ_AHEAD // 2)), 1.0)
    assert not end.full
    end.feed(said("1 000 0010", bytes(READ_AHEAD // 2)), 1.0)
    assert end.full
    open_messages(end)
    assert not end.full


def test_how_much_is_read_for_nobody_can_be_changed():
    end = server()
    end.read_ahead = 1
    assert not end.full
    end.feed(said("1 000 0010", b"x"), 1.0)
    assert end.full
    assert end.next_message() == b"x"
    assert not end.full


def test_what_the_decoder_holds_back_is_read_message_by_message():
    end = client(Agreed(), read_limit=None)
    peer = server(Agreed())
    for _ in range(3):
        peer.send(Kind.BINARY, bytes(1 << 18))
    end.feed(peer.take_owed(), 1.0)
    assert len(end.inbox) == 1
    assert end.full
    assert [len(message) for message in open_messages(end)] == [1 << 18] * 3
    assert not end.full


def test_what_is_discarded_after_our_close_includes_what_the_decoder_holds_back():
    end = client(Agreed(), read_limit=None)
    peer = server(Agreed())
    for _ in range(3):
        peer.send(Kind.BINARY, bytes(1 << 18))
    end.feed(peer.take_owed(), 1.0)
    end.start_close(1000, "", 1.0)
    assert end.full
    end.discard_new()
    assert not end.full
    assert len(end.next_message()) == 1 << 18  # it had come before our Close
    assert end.next_message() is None


def test_nothing_is_discarded_before_our_close():
    end = server()
    end.discard_new()
    end.feed(HELLO, 1.0)
    assert end.next_message() == "hello"


# Messages in pieces


def test_message_begins_with_its_first_frame():
    end = server()
    stream = begun(end, said("0 000 0001"))
    assert stream.kind is Kind.TEXT
    assert end.read_stream(stream, 10) is None
    end.feed(said("1 000 0000", b"text"), 1.0)
    assert end.read_stream(stream, 10) == b"text"
    assert end.read_stream(stream, 10) == b""
    assert end.next_stream() is None


def test_empty_message_is_read_at_once():
    end = server()
    end.feed(said("1 000 0001") + said("1 000 0001", b"next"), 1.0)
    assert end.read_stream(end.next_stream(), ALL) == b""
    assert end.next_message() == "next"


def test_a_message_that_nobody_takes_to_its_end_stops_the_reading_too():
    end = server(read_limit=None)
    end.feed(said("0 000 0010", bytes(READ_AHEAD)), 1.0)
    assert end.full
    stream = end.next_stream()
    assert end.full
    assert len(end.read_stream(stream, READ_AHEAD)) == READ_AHEAD
    assert not end.full
    end.feed(said("0 000 0000", bytes(READ_AHEAD)), 1.0)
    assert end.full
    stream.close()
    assert not end.full


def test_pings_alone_never_stop_the_reading():
    end = server()
    end.feed(said("1 000 1001", bytes(125)) * 600 + said("1 000 1001", b"half")[:3], 1.0)
    assert not end.full


def test_no_more_than_a_hold_is_inflated_for_a_reader_in_pieces():
    end = client(Agreed(), read_limit=None)
    stream = begun(end, wire("1 100 0010  0 len", compressed(bytes(10_000_000))))
    sizes = []
    while octets := end.read_stream(stream, 1 << 30):
        sizes.append(len(octets))
    assert sum(sizes) == 10_000_000
    assert max(sizes) <= 2 * HOLD  # what had come before it was opened, and as much again


def test_message_that_waited_for_a_reader_in_pieces_is_still_given_whole():
    end = client(Agreed(), read_limit=None)
    assert end.next_stream() is None
    end.feed(wire("1 100 0010  0 len", compressed(bytes(10_000_000))) + b"\x81\x01a", 1.0)
    assert end.full
    assert len(end.next_message()) == 10_000_000
    assert end.next_message() == "a"


def test_reader_of_all_drains_what_is_held_back():
    end = client(Agreed(), read_limit=None)
    stream = begun(end, wire("1 100 0010  0 len", compressed(bytes(1_000_000))))
    assert len(end.read_stream(stream, ALL)) == 1_000_000


@pytest.mark.parametrize("size", [1_000_000, 3 * HOLD])
def test_skipped_message_is_drained_up_to_the_next(size):
    end = client(Agreed(), read_limit=None)
    frame = wire("1 100 0010  0 len", compressed(bytes(size)))
    stream = begun(end, frame + frame + b"\x81\x01a")
    assert end.read_stream(stream, 1) == b"\x00"
    second = end.next_stream()
    assert end.read_stream(second, 1) == b"\x00"
    assert end.next_message() == "a"


def fragments(count, size):
    """Return a compressed message of which a feed ends with the message and with enough."""
    deflate = zlib.compressobj(wbits=-15)
    pieces = [
        deflate.compress(bytes(size)) + deflate.flush(zlib.Z_SYNC_FLUSH) for _ in range(count)
    ]
    pieces[-1] = pieces[-1].removesuffix(b"\x00\x00\xff\xff")
    heads = ["0 100 0010", *["0 000 0000"] * (count - 2), "1 000 0000"]
    return [wire(f"{head}  0 len", piece) for head, piece in zip(heads, pieces, strict=True)]


def test_what_is_held_back_behind_a_skipped_message_is_found():
    first, *rest = fragments(6, 60_000)
    for ask in ("next_message", "next_stream"):
        end = client(Agreed(), read_limit=None)
        begun(end, first)
        assert getattr(end, ask)() is None
        end.feed(b"".join(rest) + b"\x81\x01a", 1.0)
        found = getattr(end, ask)()
        assert (found if ask == "next_message" else end.read_stream(found, ALL)) in ("a", b"a")


def test_what_is_held_back_behind_a_whole_message_is_parsed_when_that_is_taken():
    end = client(read_limit=None)
    end.feed(wire("1 000 0010  0 len", bytes(HOLD)) + b"\x89\x00" + b"\x81\x01a", 1.0)
    assert end.owed == []
    assert len(end.read_stream(end.next_stream(), ALL)) == HOLD
    assert len(end.owed) == 1
    assert end.next_message() == "a"


def test_nothing_is_kept_of_what_is_dropped():
    end = client(Agreed(), read_limit=None)
    bomb = wire("1 100 0010  0 len", compressed(bytes(1_000_000)))
    stream = begun(end, bomb * 3 + bomb[:200])
    assert end.read_stream(stream, 1) == b"\x00"
    end.start_close(1000, "", 1.0)
    end.discard_new()
    assert not end.full
    end.feed(bomb[200:] + b"\x81\x01a\x88\x02\x03\xe8", 1.0)
    assert len(end.inbox) == 0
    assert ending(end).code == 1000


def test_a_close_comes_through_what_is_discarded_and_what_had_come_is_read_first():
    end = client(read_limit=None)
    end.feed(wire("1 000 0010  0 len", bytes(HOLD)) * 3 + b"\x88\x00", 1.0)
    end.start_close(1000, "", 1.0)
    end.discard_new()
    assert end.received == (1005, "")
    assert end.next_message() == bytes(HOLD)
    assert ending(end).code == 1005


def test_nothing_is_given_behind_what_was_discarded():
    end = server(read_limit=None)
    end.feed(said("1 000 0001", b"whole") + said("0 000 0010", b"half"), 1.0)
    end.start_close(1000, "", 1.0)
    end.discard_new()
    for _ in range(20):
        end.feed(said("0 000 0000", bytes(READ_AHEAD)), 1.0)
        assert not end.full
    end.feed(said("1 000 0000") + said("1 000 0001", b"next") + said("0 000 0001", b"x"), 1.0)
    assert end.next_message() == "whole"
    end.discard_new()  # again, in the middle of a message
    assert end.next_message() is None
    assert end.next_stream() is None
    end.feed(said("1 000 0000", b"y") + said("1 000 1000", b"\x03\xe8"), 2.0)
    assert ending(end).code == 1000


def test_a_reader_in_pieces_is_told_the_end_where_the_rest_was_discarded():
    end = server(read_limit=None)
    stream = begun(end, said("0 000 0010", b"half"))
    end.start_close(1000, "", 1.0)
    end.discard_new()
    end.feed(said("1 000 0000", b"the rest"), 1.0)
    assert end.read_stream(stream, 100) == b"half"
    assert end.read_stream(stream, 100) is None
    end.feed(said("1 000 1000", b"\x03\xe8"), 2.0)
    with pytest.raises(CloseError, match="we closed with 1000"):
        end.read_stream(stream, 100)


def test_a_violation_waits_for_the_pieces_before_it():
    end = server()
    stream = begun(end, said("0 000 0010", b"good"))
    end.feed(said("0 000 0010", b"a message inside another"), 1.0)
    assert end.ending is None
    assert end.read_stream(stream, 100) == b"good"
    with pytest.raises(CloseError, match="inside another"):
        end.read_stream(stream, 100)
    with pytest.raises(CloseError, match="inside another"):
        end.next_stream()


def test_message_cut_before_anybody_began_to_read_it_is_never_begun():
    end = server()
    end.feed(said("0 000 0010", b"half") + said("1 000 1000", b"\x03\xe8"), 1.0)
    with pytest.raises(CloseError):
        end.next_stream()
    assert ending(end).code == 1000


def test_reader_that_was_closed_learns_how_the_connection_ended():
    end = server()
    stream = begun(end, said("0 000 0010", b"half"))
    stream.close()
    with pytest.raises(ValueError, match="closed reader"):
        end.read_stream(stream, 1)
    end.feed_eof(1.0)
    with pytest.raises(CloseError):
        end.read_stream(stream, 1)
