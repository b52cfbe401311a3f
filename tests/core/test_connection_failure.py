"""How a connection fails: the peer breaks the protocol, or the stream is lost."""

from __future__ import annotations

import pytest

from koko.core.connection import StreamAction
from koko.core.deflate import Agreed
from koko.core.lifecycle import State
from koko.errors import CloseError, ProtocolError
from koko.message import Kind
from tests.core.ends import client, ending, said, server

HELLO = said("1 000 0001", b"hello")
CLOSE_1001 = said("1 000 1000", b"\x03\xe9")
VIOLATION = said("1 000 0011")  # a reserved opcode


# The peer breaks the protocol


def test_a_violation_is_told_to_both_sides():
    end = server()
    end.feed(b"\x81\x02hi", 1.0)
    what = "peer sent an unmasked frame; a client must mask every frame (RFC 6455 §5.1)"
    assert end.take_owed() == b"\x88\x4e\x03\xea" + what.encode()
    error = ending(end)
    assert type(error) is ProtocolError
    assert (error.code, error.section, str(error)) == (1002, "RFC 6455 §5.1", what)
    assert error.sent == (1002, what)
    assert error.received is None
    assert not error.ordinary


def test_after_a_violation_our_half_ends_and_the_peers_is_awaited_for_close_timeout():
    end = server(close_timeout=10)
    end.feed(VIOLATION, 1.0)
    assert end.stream_action is StreamAction.HALF_CLOSE
    end.feed(CLOSE_1001 + HELLO, 2.0)
    assert end.due_at == 11
    end.tick(11.0)
    assert end.stream_action is StreamAction.CLOSE
    assert ending(end).code == 1002


def test_messages_before_a_violation_are_read_and_can_be_answered():
    end = server()
    end.feed(HELLO + VIOLATION + HELLO, 1.0)
    assert end.next_message() == "hello"
    end.send(Kind.TEXT, "ho")
    assert end.take_owed() == b"\x81\x02ho"
    assert ending(end).code == 1002
    assert end.take_owed()[:4] == b"\x88\x2e\x03\xea"


def test_a_violation_after_our_close_is_not_answered_with_a_second_one():
    end = server()
    end.start_close(1000, "", 1.0)
    end.take_owed()
    end.feed(VIOLATION, 2.0)
    assert end.owed == []
    assert end.stream_action is StreamAction.HALF_CLOSE
    error = ending(end)
    assert (error.code, error.sent) == (1002, (1000, ""))


def test_the_close_of_a_violation_is_cut_to_125_bytes():
    end = server(Agreed())
    end.feed(said("1 100 0001", b"\x07"), 1.0)  # deflate: a reserved block type
    frame = end.take_owed()
    assert frame[:4] == b"\x88\x7d\x03\xef"
    assert len(frame) == 2 + 125
    assert str(ending(end)).encode().startswith(frame[4:])


def test_the_same_error_is_raised_each_time_without_growing():
    end = server()
    end.feed(VIOLATION, 1.0)
    first = ending(end)
    depth = len(list(iter_traceback(first)))
    assert ending(end) is first
    assert len(list(iter_traceback(first))) == depth


def iter_traceback(error):
    traceback = error.__traceback__
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


# The stream ends


def test_the_end_of_the_stream_without_a_close_is_1006():
    end = server()
    end.feed(HELLO, 1.0)
    end.feed_eof(2.0)
    assert end.state is State.CLOSED
    assert end.stream_action is StreamAction.CLOSE
    assert end.next_message() == "hello"
    error = ending(end)
    assert error.code == 1006
    assert not error.ordinary
    assert str(error).startswith(
        "connection lost; the peer's stream ended without a Close, last heard"
    )
    assert ending(end) is error


def test_the_end_of_the_stream_is_told_once():
    end = server()
    end.feed_eof(1.0, "the connection broke: reset")
    end.feed_eof(2.0)
    end.feed(HELLO, 3.0)
    assert str(ending(end)).startswith("connection lost; the connection broke: reset, last heard ")


def test_a_write_after_the_stream_was_lost_says_so():
    end = server()
    end.feed_eof(1.0)
    with pytest.raises(CloseError) as raised:
        end.send(Kind.TEXT, "x")
    assert raised.value is end.ending


def test_a_close_that_came_before_the_end_of_the_stream_is_how_it_ended():
    end = server()
    end.feed(HELLO + CLOSE_1001, 1.0)
    end.feed_eof(2.0)
    assert end.owed == []
    assert end.next_message() == "hello"
    assert str(ending(end)) == "peer closed with 1001 (going away); we could not answer"


def test_a_violation_that_came_before_the_end_of_the_stream_is_how_it_ended():
    end = server()
    end.feed(HELLO + VIOLATION, 1.0)
    end.feed_eof(2.0)
    assert end.owed == []
    error = ending(end)
    assert (error.code, error.sent) == (1002, None)


def test_a_close_behind_a_backlog_is_how_it_ended_though_the_stream_ended_first():
    end, peer = client(Agreed(), read_limit=None), server(Agreed())
    for _ in range(3):
        peer.send(Kind.BINARY, bytes(1 << 18))
    peer.start_close(1000, "", 1.0)
    end.feed(peer.take_owed(), 1.0)
    end.feed_eof(1.0)
    assert end.ending.code == 1006  # as far as is known
    assert ending(end).code == 1000


def test_what_a_handler_raises_behind_a_backlog_is_raised_though_the_stream_ended_first():
    def fail(payload):
        raise LookupError("own mistake")

    end, peer = client(Agreed(), read_limit=None), server(Agreed())
    end.on_ping = fail
    for _ in range(2):
        peer.send(Kind.BINARY, bytes(200_000))
    peer.start_ping(b"42", 1.0)
    end.feed(peer.take_owed(), 1.0)
    end.feed_eof(1.0)
    assert [len(end.next_message()) for _ in range(2)] == [200_000, 200_000]
    with pytest.raises(LookupError, match="own mistake"):
        end.next_message()
    assert end.owed == []


def test_pings_are_forgotten_when_the_stream_ends():
    end = server()
    ping = end.start_ping(b"42", 1.0)
    end.feed_eof(2.0)
    assert ping.round_trip is None
    assert end.latency is None


# What an interrupt, or a fault at the end, leaves behind


def test_a_fault_after_our_own_close_sends_no_second_one():
    def fail(payload):
        raise LookupError("own mistake")

    end = server()
    end.on_ping = fail
    end.start_close(1000, "", 1.0)
    end.take_owed()
    end.feed(said("1 000 1001", b"?"), 2.0)
    assert isinstance(end.ending, LookupError)
    assert end.owed == []
    assert end.state is State.FAILED


def test_an_interrupt_in_a_close_handler_is_nobodys_fault():
    def interrupted(code, reason):
        raise KeyboardInterrupt

    end = server()
    end.on_close = interrupted
    with pytest.raises(KeyboardInterrupt):
        end.feed(said("1 000 1000", b"\x03\xe8"), 1.0)
    assert end.ending.code == 1000


def test_an_end_of_the_stream_that_was_cut_off_by_an_interrupt_can_be_told_again():
    end = server()
    end.life.state = State.CLOSED  # as far as it had come
    end.feed_eof(1.0)
    assert end.ending.code == 1006


def test_a_message_is_ended_once():
    end = server(write_buffer_size=4)
    message = end.start_message(Kind.BINARY)
    message.add(b"abcdef")
    message.end()
    end.take_owed()
    message.end()
    assert end.owed == []
