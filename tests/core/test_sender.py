"""What is sent: whole and prepared messages, pings, pongs and Closes written by hand."""

from __future__ import annotations

import pytest

from koko.core.deflate import Agreed
from koko.errors import ErrCloseSent
from koko.message import Kind, PreparedMessage
from tests.core.ends import client, said, server

HELLO_DEFLATED = b"\xcaH\xcd\xc9\xc9\x07\x00"  # RFC 7692 §7.2.3.1, with a full flush


def open_messages(end):
    """Read until nothing more has come."""
    return list(iter(end.next_message, None))


def test_messages_are_owed_as_one_piece():
    end = server()
    end.send(Kind.TEXT, "hello")
    assert end.owed == [b"\x81\x05hello"]
    end.send(Kind.BINARY, memoryview(b"\xff"))
    assert end.take_owed() == b"\x81\x05hello\x82\x01\xff"
    assert end.take_owed() == b""


def test_bytes_given_as_text_are_sent_as_they_are():
    end = server()
    end.send(Kind.TEXT, b"hello")
    assert end.take_owed() == b"\x81\x05hello"


def test_messages_are_compressed_once_that_was_agreed_and_it_pays():
    end = server(Agreed(threshold=5))
    assert end.write_compression
    end.send(Kind.TEXT, "hello")
    end.send(Kind.TEXT, "hell")
    end.write_compression = False
    end.send(Kind.TEXT, "hello")
    assert end.owed == [b"\xc1\x07" + HELLO_DEFLATED, b"\x81\x04hell", b"\x81\x05hello"]
    peer = client(Agreed())
    peer.feed(end.take_owed(), 1.0)
    assert open_messages(peer) == ["hello", "hell", "hello"]


def test_compression_level_can_change_while_the_connection_lives():
    end = server(Agreed(level=1))
    assert end.compression_level == 1
    end.compression_level = 9
    assert end.compression_level == 9


def test_compression_level_means_nothing_where_no_compression_was_agreed():
    end = server()
    end.compression_level = 9
    assert end.compression_level is None


@pytest.mark.parametrize("agreed", [Agreed(), None])
def test_compression_level_is_checked_whatever_was_agreed(agreed):
    with pytest.raises(ValueError, match="compression level 10"):
        server(agreed).compression_level = 10


def test_a_prepared_message_is_one_frame_for_all_servers():
    prepared = PreparedMessage(Kind.TEXT, "hello")
    one, other = server(), server(Agreed())
    one.send_prepared(prepared)
    other.send_prepared(prepared)
    assert one.owed == [b"\x81\x05hello"]
    assert one.owed[0] is other.owed[0]


def test_nothing_prepared_is_sent_after_a_close():
    end = server()
    end.start_close(1000, "", 1.0)
    with pytest.raises(ErrCloseSent):
        end.send_prepared(PreparedMessage(Kind.TEXT, "hello"))


# Control frames


@pytest.mark.parametrize(("kind", "frame"), [(Kind.PING, b"\x89\x01x"), (Kind.PONG, b"\x8a\x01x")])
def test_control_frames_can_be_written_by_hand(kind, frame):
    end = server()
    end.write_control(kind, bytearray(b"x"), 1.0)
    assert end.take_owed() == frame


def test_a_close_can_be_written_by_hand():
    end = server()
    end.write_control(Kind.CLOSE, b"\x03\xe8bye", 1.0)
    assert end.take_owed() == b"\x88\x05\x03\xe8bye"
    assert end.sent == (1000, "bye")


def test_only_control_frames_are_written_as_such():
    with pytest.raises(ValueError, match="kind 1 is not CLOSE, PING or PONG"):
        server().write_control(1, b"", 1.0)


def test_a_ping_knows_its_round_trip_when_its_pong_has_come():
    end, told = server(), []
    ping = end.start_ping(b"42", 1.0)
    ping.on_pong = lambda: told.append(ping.round_trip)
    assert end.take_owed() == b"\x89\x0242"
    assert end.latency is None
    end.feed(said("1 000 1010", b"42"), 1.25)
    assert told == [0.25]
    assert end.latency == 0.25


def test_pings_without_a_payload_are_told_apart():
    end = server()
    assert end.start_ping(None, 1.0).payload != end.start_ping(None, 1.0).payload


def test_the_same_ping_is_not_sent_twice_at_a_time():
    end = server()
    end.start_ping(b"42", 1.0)
    with pytest.raises(ValueError, match="payload b'42' is already on its way"):
        end.start_ping(b"42", 1.0)
    end.feed(said("1 000 1010", b"42"), 1.25)
    end.start_ping(b"42", 2.0)
