"""How conversations end: the closing handshake, its bounds, and ends without one."""

from __future__ import annotations

from typing import Any

import pytest

from koko import CloseError, ErrCloseSent, Kind, PreparedMessage
from koko.core.wire import Role
from tests.conversation.conftest import Talk

# The peer closes


def test_close_is_answered_with_the_code_it_received(talk: Talk) -> None:
    us, peer = talk.open()
    call = us.start_recv()
    peer.closes(1001, "deploying")
    peer.hears_close(1001, "")
    with pytest.raises(CloseError) as raised:
        call.result()
    error = raised.value
    assert (error.code, error.reason, error.by_peer) == (1001, "deploying", True)
    assert (error.sent, error.received) == ((1001, ""), (1001, "deploying"))
    assert str(error) == "peer closed with 1001 (going away) 'deploying'; we answered 1001"


def test_close_without_a_code_is_answered_without_one(talk: Talk) -> None:
    us, peer = talk.open()
    call = us.start_recv()
    peer.says("1 000 1000")
    peer.hears("1 000 1000", b"")
    with pytest.raises(CloseError) as raised:
        call.result()
    assert raised.value.code == 1005


def test_close_is_answered_while_nobody_receives(talk: Talk) -> None:
    us, peer = talk.open()
    peer.closes(1000)
    talk.clock.advance(0.5)
    peer.hears_close(1000)
    with pytest.raises(CloseError):
        us.send("too late")


def test_close_is_answered_soon_where_the_last_message_was_read_long_ago(talk: Talk) -> None:
    us, peer = talk.open(close_timeout=10, ping_interval=None)
    peer.says("1 000 0001", b"the answer to a question of ours")
    us.recv()
    talk.clock.advance(5)
    peer.closes(1001)
    talk.clock.advance(1.5)
    peer.hears_close(1001)


def test_server_ends_the_stream_first_once_both_closes_are_out(talk: Talk) -> None:
    us, peer = talk.open(Role.SERVER)
    us.start_recv()
    peer.closes(1000)
    peer.hears_close(1000)
    assert peer.is_left
    assert not us.start_wait_closed().waits


def test_client_lets_the_server_end_the_stream_but_not_for_ever(talk: Talk) -> None:
    us, peer = talk.open(Role.CLIENT, close_timeout=10)
    us.start_recv()
    peer.closes(1000)
    assert not peer.is_left
    talk.clock.advance(10.5)
    assert peer.is_left


def test_messages_before_a_close_can_be_read_and_answered(talk: Talk) -> None:
    us, peer = talk.open()
    peer.sends(peer.frame("1 000 0001", b"last words") + peer.frame("1 000 1000", b"\x03\xe8"))
    assert us.recv() == "last words"
    us.send("understood")
    with pytest.raises(CloseError):
        us.recv()
    peer.hears("1 000 0001", b"understood")
    peer.hears_close(1000)


def test_every_later_call_says_how_it_ended(talk: Talk) -> None:
    us, peer = talk.open()
    us.start_recv()
    peer.closes(3000, "enough")
    for _ in range(2):
        with pytest.raises(CloseError, match="enough"):
            us.recv()
        with pytest.raises(ErrCloseSent, match="enough"):
            us.send("more")
    assert us.conn.ending.code == 3000


def test_reading_on_after_the_end_is_the_same_error_each_time_and_no_panic(talk: Talk) -> None:
    us, peer = talk.open()
    peer.ends()
    errors = []
    for _ in range(1001):
        with pytest.raises(CloseError) as raised:
            us.recv()
        errors.append(raised.value)
    assert {(type(error), error.code, str(error)) for error in errors} == {
        (CloseError, 1006, str(errors[0]))
    }


# We close


def test_our_close_ends_when_the_peer_has_answered(talk: Talk) -> None:
    us, peer = talk.open(Role.SERVER)
    call = us.start_close(1000, "bye")
    peer.hears_close(1000, "bye")
    assert call.waits
    peer.closes(1000)
    call.result()
    ending = us.conn.ending
    assert (ending.sent, ending.received, ending.by_peer) == ((1000, "bye"), (1000, ""), False)
    assert str(ending) == "we closed with 1000 (normal) 'bye'; peer answered 1000"


def test_client_that_closes_waits_for_the_end_of_the_stream(talk: Talk) -> None:
    us, peer = talk.open(Role.CLIENT)
    call = us.start_close()
    peer.closes(1000)
    assert call.waits
    peer.ends()
    call.result()
    assert us.conn.ending.received == (1000, "")


def test_peer_that_never_answers_close_is_dropped(talk: Talk) -> None:
    us, peer = talk.open(close_timeout=10)
    call = us.start_close(1000)
    peer.hears_close(1000)
    talk.clock.advance(9)
    assert call.waits
    talk.clock.advance(1.5)
    call.result()
    assert peer.line.dropped
    assert us.conn.ending.received is None
    assert str(us.conn.ending) == (
        "connection lost; we had sent 1000 (normal); no answer within 10 s, "
        "last heard the opening handshake 10.0 s ago"
    )


def test_close_can_be_given_a_time_of_its_own(talk: Talk) -> None:
    us, _ = talk.open(close_timeout=10)
    call = us.start_close(timeout=2)
    talk.clock.advance(2.5)
    call.result()


def test_second_close_may_be_less_patient_than_the_first(talk: Talk) -> None:
    us, peer = talk.open(close_timeout=10)
    first = us.start_close()
    second = us.start_close(timeout=2)
    talk.clock.advance(2.5)
    second.result()
    first.result()
    assert peer.line.dropped


def test_messages_that_arrive_while_we_close_do_not_hold_it_up(talk: Talk) -> None:
    us, peer = talk.open(Role.SERVER)
    for _ in range(20):
        peer.says("1 000 0010", bytes(10_000))
    call = us.start_close()
    for _ in range(20):
        peer.says("1 000 0010", bytes(10_000))
    assert call.waits
    peer.closes(1000)
    call.result()
    assert us.conn.ending.received == (1000, "")


def test_close_is_idempotent(talk: Talk) -> None:
    us, peer = talk.open(Role.SERVER)
    first = us.start_close(1000)
    second = us.start_close(1011, "another opinion")
    peer.hears_close(1000)
    peer.hears_nothing()
    peer.closes(1000)
    first.result()
    second.result()
    us.close()


def test_both_sides_may_close_at_once(talk: Talk) -> None:
    us, peer = talk.open(Role.SERVER)
    peer.closes(1001)
    us.close(1000)
    assert us.conn.ending.received == (1001, "")


def test_nothing_is_sent_after_our_close(talk: Talk) -> None:
    us, peer = talk.open()
    us.start_close(1000)
    with pytest.raises(ErrCloseSent, match="nothing can be sent after a Close"):
        us.send("one more thing")
    peer.hears_close(1000)
    peer.hears_nothing()


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("send", ["text"]),
        ("write_message", [Kind.BINARY, b"bytes"]),
        ("write_json", [{}]),
        ("write_prepared", [PreparedMessage(Kind.TEXT, "text")]),
        ("write_control", [Kind.PING]),
        ("write_control", [Kind.CLOSE, b"\x03\xe8"]),
        ("pong", []),
        ("ping", []),
    ],
)
def test_nothing_goes_out_by_any_verb_after_our_close(
    talk: Talk, verb: str, arguments: Any
) -> None:
    us, peer = talk.open()
    us.start_close(1000)
    for _ in range(3):
        with pytest.raises(ErrCloseSent):
            getattr(us, verb)(*arguments)
    peer.hears_close(1000)
    peer.hears_nothing()


def test_receiver_is_woken_by_our_own_close(talk: Talk) -> None:
    us, peer = talk.open(Role.SERVER)
    receiving = us.start_recv()
    us.start_close(1000)
    peer.says("1 000 0001", b"crossed with our Close")
    assert receiving.result() == "crossed with our Close"
    receiving = us.start_recv()
    peer.closes(1000)
    with pytest.raises(CloseError, match="we closed with 1000"):
        receiving.result()


def test_close_bounds_a_peer_that_does_not_even_read(talk: Talk) -> None:
    us, peer = talk.open(close_timeout=10)
    peer.stops_reading()
    sending = us.start_send(bytes(200_000))
    waiting = us.start_send("behind it")
    closing = us.start_close()
    talk.clock.advance(10.5)
    closing.result()
    assert peer.line.dropped
    for call in (sending, waiting):
        assert not call.waits
    with pytest.raises(CloseError):
        waiting.result()


@pytest.mark.parametrize(
    ("code", "reason", "complaint"),
    [
        (1006, "", "1006 may not be sent"),
        (999, "", "999 may not be sent"),
        (1000, "ä" * 62, "at most 123 bytes"),
    ],
)
def test_close_refuses_what_may_not_be_sent(
    talk: Talk, code: int, reason: str, complaint: str
) -> None:
    us, peer = talk.open()
    with pytest.raises(ValueError, match=complaint):
        us.close(code, reason)
    us.send("unharmed")
    peer.hears("1 000 0001", b"unharmed")


def test_close_with_1005_sends_no_code(talk: Talk) -> None:
    us, peer = talk.open()
    us.start_close(1005)
    peer.hears("1 000 1000", b"")


# Blocks


@pytest.mark.parametrize(
    ("kind", "args", "code"), [(ValueError, ("ours",), 1011), (CloseError, (1001, "another"), 1000)]
)
def test_block_that_fails_closes_and_raises(
    talk: Talk, kind: type[Exception], args: tuple[Any, ...], code: int
) -> None:
    us, peer = talk.open(Role.SERVER)
    error = kind(*args)
    call = us.start_leave(error)
    peer.hears_close(code)
    peer.closes(code)
    with pytest.raises(kind) as raised:
        call.result()
    assert raised.value is error


def test_block_that_ends_closes_with_1000(talk: Talk) -> None:
    us, peer = talk.open(Role.SERVER)
    call = us.start_leave()
    peer.hears_close(1000)
    peer.closes(1000)
    call.result()


# Ends without a Close


def test_stream_that_ends_without_a_close_is_1006(talk: Talk) -> None:
    us, peer = talk.open()
    call = us.start_recv()
    peer.ends()
    with pytest.raises(CloseError) as raised:
        call.result()
    error = raised.value
    assert (error.code, error.sent, error.received) == (1006, None, None)
    assert str(error) == (
        "connection lost; the peer's stream ended without a Close, "
        "last heard the opening handshake 0.0 s ago"
    )
    assert peer.is_left


def test_messages_before_the_end_of_the_stream_are_read_first(talk: Talk) -> None:
    us, peer = talk.open()
    peer.says("1 000 0001", b"last words")
    peer.ends()
    assert us.recv() == "last words"
    with pytest.raises(CloseError, match="without a Close"):
        us.recv()


def test_close_before_the_end_of_the_stream_counts(talk: Talk) -> None:
    us, peer = talk.open()
    peer.says("1 000 0001", b"unread")
    peer.closes(3000, "bye")
    peer.ends()
    assert us.recv() == "unread"
    with pytest.raises(CloseError) as raised:
        us.recv()
    assert raised.value.received == (3000, "bye")


def test_reset_says_what_the_system_said(talk: Talk) -> None:
    us, peer = talk.open()
    call = us.start_recv()
    peer.breaks()
    with pytest.raises(
        CloseError, match="the connection broke: Connection reset by peer"
    ) as raised:
        call.result()
    assert raised.value.code == 1006


def test_abort_says_nothing_and_wakes_the_receiver(talk: Talk) -> None:
    us, peer = talk.open()
    call = us.start_recv()
    us.abort()
    with pytest.raises(CloseError, match="we dropped it"):
        call.result()
    assert peer.line.dropped
    peer.hears_nothing()
    us.close()
    us.abort()


def test_wait_closed_ends_with_the_connection_whoever_ends_it(talk: Talk) -> None:
    us, peer = talk.open(Role.SERVER)
    with pytest.raises(TimeoutError, match="not over within 0 s"):
        us.wait_closed(timeout=0)
    call = us.start_wait_closed()
    peer.closes(1000)
    call.result()
