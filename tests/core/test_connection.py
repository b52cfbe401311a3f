"""An open connection: messages in and out, pings, handlers, keepalive, back-pressure.

How it ends is in ``test_connection_close.py`` and ``test_connection_failure.py``.
"""

from __future__ import annotations

import pytest

from koko.core.connection import StreamAction
from koko.core.deflate import Agreed
from koko.core.lifecycle import State
from koko.core.receiver import READ_AHEAD
from koko.errors import CloseError, ErrCloseSent, ErrReadLimit
from koko.message import Kind, PreparedMessage
from tests.core.ends import client, said, server

HELLO = said("1 000 0001", b"hello")
HELLO_DEFLATED = b"\xcaH\xcd\xc9\xc9\x07\x00"  # RFC 7692 §7.2.3.1, with a full flush


def open_messages(end):
    """Read until nothing more has come."""
    return list(iter(end.next_message, None))


# Reading


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


def test_read_limit_can_change_while_the_connection_lives():
    end = server(read_limit=5)
    end.feed(HELLO, 1.0)
    assert end.read_limit == 5
    end.read_limit = 4
    end.feed(HELLO, 2.0)
    assert end.next_message() == "hello"
    with pytest.raises(ErrReadLimit, match=r"at least 5 bytes, read_limit=4"):
        end.next_message()


def test_read_limit_none_is_no_limit():
    end = server(read_limit=4)
    end.read_limit = None
    end.feed(HELLO, 1.0)
    assert end.next_message() == "hello"


@pytest.mark.parametrize("limit", [0, -1])
def test_read_limit_is_above_zero(limit):
    with pytest.raises(ValueError, match=f"read_limit={limit}: a number of bytes above 0"):
        server().read_limit = limit


# Writing


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


# Control frames


def test_pong_repeats_the_ping_payload():
    end = server()
    end.feed(said("1 000 1001", b"42"), 1.0)
    assert end.take_owed() == b"\x8a\x0242"


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


# Handlers


def test_a_ping_handler_stands_in_for_the_pong():
    end, heard = server(), []
    end.on_ping = heard.append
    end.feed(said("1 000 1001", b"42"), 1.0)
    assert heard == [b"42"]
    assert end.owed == []


def test_a_pong_handler_hears_every_pong():
    end, heard = server(), []
    end.on_pong = heard.append
    end.start_ping(b"1", 1.0)
    end.feed(said("1 000 1010", b"1") + said("1 000 1010", b"unasked"), 1.0)
    assert heard == [b"1", b"unasked"]


def fail(*args):
    raise LookupError("a handler's own mistake")


@pytest.mark.parametrize(
    ("handler", "frame"),
    [("on_ping", said("1 000 1001")), ("on_pong", said("1 000 1010"))],
)
def test_what_a_handler_raises_closes_with_1011_and_is_raised_to_the_reader(handler, frame):
    end = server()
    setattr(end, handler, fail)
    end.feed(HELLO + frame, 1.0)
    assert end.take_owed() == b"\x88\x02\x03\xf3"
    assert end.stream_action is StreamAction.HALF_CLOSE
    end.feed(HELLO, 2.0)
    assert end.next_message() == "hello"
    with pytest.raises(LookupError, match="own mistake") as raised:
        end.next_message()
    assert raised.traceback[-1].name == "fail"
    with pytest.raises(ErrCloseSent):
        end.send(Kind.TEXT, "hello")


@pytest.mark.parametrize(
    "behind",
    [said("1 000 1000", b"\x03\xe8"), said("1 000 0011"), said("1 000 1001")],
    ids=["Close", "violation", "ping"],
)
def test_what_comes_in_one_packet_behind_a_fault_of_ours_changes_nothing(behind):
    end = server()
    end.on_ping = fail
    end.feed(said("1 000 1001") + behind, 1.0)
    assert end.take_owed() == b"\x88\x02\x03\xf3"
    assert end.state is State.FAILED
    with pytest.raises(LookupError, match="own mistake"):
        end.next_message()


def test_the_traceback_of_a_fault_does_not_grow_with_each_read():
    end = server()
    end.on_ping = fail
    end.feed(said("1 000 1001"), 1.0)
    lengths = set()
    for _ in range(3):
        with pytest.raises(LookupError) as raised:
            end.next_message()
        lengths.add(len(raised.traceback))
    assert len(lengths) == 1


def test_a_fault_of_a_handler_that_runs_elsewhere_ends_the_connection_at_once():
    end = server()
    end.feed(HELLO, 1.0)
    end.fault(LookupError("late"))
    assert end.take_owed() == b"\x88\x02\x03\xf3"
    assert end.state is State.FAILED


def test_a_ping_handler_may_close():
    end = server()
    end.on_ping = lambda payload: end.start_close(1000, "", 1.0)
    end.feed(said("1 000 1001") + said("1 000 1000", b"\x03\xe8"), 1.0)
    assert end.take_owed() == b"\x88\x02\x03\xe8"
    assert end.state is State.DONE


def test_a_ping_handler_that_is_too_late_to_answer_harms_nothing():
    end = server()
    end.on_ping = lambda payload: end.write_control(Kind.PONG, payload, 1.0)
    end.start_close(1000, "", 1.0)
    end.feed(said("1 000 1001") + said("1 000 1000", b"\x03\xe8"), 1.0)
    with pytest.raises(CloseError, match="we closed with 1000"):
        end.next_message()


def test_an_end_of_its_own_is_a_handlers_fault_while_the_connection_is_open():
    def refuse(payload):
        raise CloseError(1008, "no pings")

    end = server()
    end.on_ping = refuse
    end.feed(said("1 000 1001"), 1.0)
    assert end.take_owed() == b"\x88\x02\x03\xf3"
    with pytest.raises(CloseError, match="no pings"):
        end.next_message()


def test_a_fault_after_the_end_changes_nothing():
    end = server()
    end.feed(said("1 000 1000", b"\x03\xe8"), 1.0)
    end.fault(LookupError("late"))
    assert end.ending.code == 1000


# Keepalive


def test_a_silent_peer_is_pinged_and_then_given_up():
    end = server(ping_interval=20, ping_timeout=10)
    assert end.due_at == 20
    end.tick(20.0)
    assert end.take_owed()[:2] == b"\x89\x04"
    assert end.due_at == 30
    end.tick(30.0)
    assert end.state is State.CLOSED
    assert end.due_at is None
    assert end.stream_action is StreamAction.CLOSE
    with pytest.raises(CloseError) as raised:
        end.next_message()
    assert raised.value.code == 1006
    assert str(raised.value) == (
        "connection lost; no answer to a ping within 10 s, "
        "last heard the opening handshake 30.0 s ago"
    )


def test_the_keepalive_measures_the_latency():
    end = server(ping_interval=20)
    end.tick(20.0)
    end.feed(said("1 000 1010", end.take_owed()[2:]), 20.5)
    assert end.latency == 0.5


@pytest.mark.parametrize(("frame", "what"), [(HELLO, "a message"), (said("1 000 1010"), "a pong")])
def test_any_byte_is_life_and_the_error_says_what_came_last(frame, what):
    end = server(ping_interval=20, ping_timeout=20)
    end.feed(frame, 15.0)
    for due_at in (20.0, 35.0, 55.0):
        assert end.due_at == due_at
        end.tick(due_at)
    assert f"last heard {what} 40.0 s ago" in str(end.ending)


def test_nobody_is_pinged_where_the_interval_is_none():
    end = server(ping_interval=None)
    assert end.due_at is None
    end.tick(1e6)
    assert end.owed == []


def test_a_peer_we_did_not_listen_to_is_not_given_up():
    end = server(ping_interval=20, ping_timeout=20)
    end.tick(20.0)
    end.tick(40.0, listening=False)
    assert end.state is State.OPEN
    assert end.due_at == 60


def test_a_connection_that_is_over_has_nothing_due():
    end = server(ping_interval=20)
    end.feed_eof(1.0)
    end.tick(30.0)
    assert end.owed == []


# Prepared messages


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


def test_a_handler_that_is_interrupted_loses_nothing_of_what_came_with_its_ping():
    end = server()
    pings = []

    def interrupted(payload):
        pings.append(payload)
        raise KeyboardInterrupt

    end.on_ping = interrupted
    with pytest.raises(KeyboardInterrupt):
        end.feed(said("1 000 1001", b"1") + said("1 000 1000", b"\x03\xe8"), 1.0)
    assert pings == [b"1"]
    with pytest.raises(CloseError):
        end.next_message()
    assert end.received == (1000, "")


# What passed


@pytest.mark.parametrize("agreed", [None, Agreed(threshold=0)], ids=["plain", "deflate"])
@pytest.mark.parametrize("make", [server, client])
def test_bytes_are_counted_as_they_pass(make, agreed):
    prepared = PreparedMessage(Kind.TEXT, "hello " * 50)
    for _ in range(2):  # a frame that is shared counts for each who sends it
        end = make(agreed)
        end.send(Kind.TEXT, "hello")
        end.send(Kind.BINARY, bytearray(300))
        end.send_prepared(prepared)
        end.start_ping(b"?", 1.0)
        with_parts = end.start_message(Kind.TEXT)
        with_parts.add(b"in parts")
        with_parts.end()
        end.start_close(1000, "", 1.0)
        assert end.bytes_out == len(end.take_owed())
    end = server(agreed)
    octets = HELLO + said("1 000 1001", b"?")
    for octet in octets:
        end.feed(bytes([octet]), 1.0)
    assert end.bytes_in == len(octets)
