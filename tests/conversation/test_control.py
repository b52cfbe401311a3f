"""Pings, pongs and the handlers of control frames."""

from __future__ import annotations

import pytest

from koko import CloseError, ErrCloseSent, Kind
from koko.core.wire import Role
from tests.conversation.conftest import Talk


def test_ping_is_answered_at_once_with_its_own_payload(talk: Talk) -> None:
    us, peer = talk.open()
    call = us.start_recv()
    peer.says("1 000 1001", b"are you there?")
    peer.hears("1 000 1010", b"are you there?")
    assert call.waits


def test_ping_is_answered_while_nobody_receives(talk: Talk) -> None:
    _, peer = talk.open()
    peer.says("1 000 1001", b"busy?")
    talk.clock.advance(0.5)
    peer.hears("1 000 1010", b"busy?")


def test_ping_behind_unread_messages_is_answered(talk: Talk) -> None:
    us, peer = talk.open()
    peer.says("1 000 0001", b"unread")
    peer.says("1 000 1001", b"and?")
    talk.clock.advance(0.5)
    peer.hears("1 000 1010", b"and?")
    assert us.recv() == "unread"


def test_ping_returns_the_round_trip(talk: Talk) -> None:
    us, peer = talk.open()
    assert us.conn.latency is None
    call = us.start_ping()
    payload = peer.hears("1 000 1001").payload
    assert len(payload) > 3
    talk.clock.advance(0.25)
    peer.says("1 000 1010", payload)
    assert call.result() == pytest.approx(0.25)
    assert us.conn.latency == pytest.approx(0.25)


def test_ping_sees_its_pong_while_somebody_receives(talk: Talk) -> None:
    us, peer = talk.open()
    receiving = us.start_recv()
    pinging = us.start_ping(b"p")
    peer.hears("1 000 1001", b"p")
    peer.says("1 000 1010", b"p")
    assert pinging.result() == 0
    assert receiving.waits


def test_ping_alone_keeps_the_messages_that_arrive_meanwhile(talk: Talk) -> None:
    us, peer = talk.open()
    pinging = us.start_ping(b"p")
    peer.says("1 000 0001", b"kept")
    assert pinging.waits
    peer.says("1 000 1010", b"p")
    pinging.result()
    assert us.recv() == "kept"


def test_pong_answers_every_ping_before_it(talk: Talk) -> None:
    us, peer = talk.open()
    first, second, third = (us.start_ping(payload) for payload in (b"1", b"2", b"3"))
    peer.says("1 000 1010", b"2")
    assert first.result() == second.result() == 0
    assert third.waits


def test_pong_that_nobody_asked_for_changes_nothing(talk: Talk) -> None:
    us, peer = talk.open()
    call = us.start_ping(b"mine")
    peer.says("1 000 1010", b"unasked")
    assert call.waits


def test_ping_that_is_not_answered_times_out_and_harms_nothing(talk: Talk) -> None:
    us, peer = talk.open()
    call = us.start_ping(timeout=3)
    talk.clock.advance(3)
    with pytest.raises(TimeoutError, match="no pong came within 3 s"):
        call.result()
    peer.says("1 000 0001", b"go on")
    assert us.recv() == "go on"


def test_ping_ends_with_the_connection(talk: Talk) -> None:
    us, peer = talk.open()
    call = us.start_ping()
    peer.closes(1001, "deploying")
    with pytest.raises(CloseError, match="deploying"):
        call.result()


def test_two_pings_with_one_payload_are_refused(talk: Talk) -> None:
    us, _ = talk.open()
    us.start_ping(b"same")
    with pytest.raises(ValueError, match="already on its way"):
        us.ping(b"same")


def test_pong_of_our_own_is_a_heartbeat(talk: Talk) -> None:
    us, peer = talk.open()
    us.pong(b"tick")
    peer.hears("1 000 1010", b"tick")


# Written by hand


@pytest.mark.parametrize(("kind", "bits"), [(Kind.PING, "1 000 1001"), (Kind.PONG, "1 000 1010")])
def test_write_control_sends_and_does_not_wait(talk: Talk, kind: Kind, bits: str) -> None:
    us, peer = talk.open()
    us.write_control(kind, b"125 bytes".ljust(125))
    peer.hears(bits, b"125 bytes".ljust(125))


def test_write_control_can_begin_the_close(talk: Talk) -> None:
    us, peer = talk.open(Role.SERVER)
    us.write_control(Kind.CLOSE, b"\x03\xe8bye")
    peer.hears_close(1000, "bye")
    peer.closes(1000)
    with pytest.raises(CloseError) as raised:
        us.recv()
    assert not raised.value.by_peer


def test_messages_after_our_close_by_hand_can_still_be_read(talk: Talk) -> None:
    us, peer = talk.open()
    for number in range(20):
        peer.says("1 000 0010", bytes([number]) * 10_000)
    us.write_control(Kind.CLOSE, b"\x03\xe8")
    talk.clock.advance(0.5)
    assert [us.recv()[0] for _ in range(20)] == list(range(20))


@pytest.mark.parametrize(
    ("kind", "payload", "complaint"),
    [
        (Kind.PING, bytes(126), "at most 125 bytes, not 126"),
        (Kind.CLOSE, b"\x03", "two bytes of code"),
        (Kind.CLOSE, b"\x03\xee", "close code 1006 may not be sent"),
        (Kind.TEXT, b"", "is not CLOSE, PING or PONG"),
    ],
)
def test_write_control_refuses_what_may_not_be_sent(
    talk: Talk, kind: Kind, payload: bytes, complaint: str
) -> None:
    us, peer = talk.open()
    with pytest.raises(ValueError, match=complaint):
        us.write_control(kind, payload)
    peer.hears_nothing()


def test_write_control_after_its_deadline_sends_nothing(talk: Talk) -> None:
    us, peer = talk.open()
    with pytest.raises(TimeoutError, match="deadline had passed"):
        us.write_control(Kind.PING, b"late", deadline=talk.clock.seconds - 1)
    peer.hears_nothing()


def test_write_control_waits_for_a_slow_peer_until_its_deadline(talk: Talk) -> None:
    us, peer = talk.open()
    peer.stops_reading()
    us.start_send(bytes(100_000))
    call = us.start_write_control(Kind.PING, b"late", deadline=talk.clock.seconds + 5)
    talk.clock.advance(4.9)
    assert call.waits
    talk.clock.advance(0.2)
    with pytest.raises(TimeoutError):
        call.result()
    peer.reads_on()
    peer.hears("1 000 0010", bytes(100_000))
    peer.hears_nothing()


# Handlers


def test_handlers_are_called_with_what_came(talk: Talk) -> None:
    us, peer = talk.open()
    seen: list[object] = []
    us.conn.ping_handler = lambda payload: seen.append(("ping", payload))
    us.conn.pong_handler = lambda payload: seen.append(("pong", payload))
    us.conn.close_handler = lambda code, reason: seen.append((code, reason))
    us.start_recv()
    peer.says("1 000 1001", b"a")
    peer.says("1 000 1010", b"b")
    peer.closes(3000, "c")
    assert seen == [("ping", b"a"), ("pong", b"b"), (3000, "c")]


def test_ping_handler_stands_in_for_the_answer(talk: Talk) -> None:
    us, peer = talk.open()
    us.conn.ping_handler = lambda payload: us.conn.pong(payload.upper())
    us.start_recv()
    peer.says("1 000 1001", b"louder")
    peer.hears("1 000 1010", b"LOUDER")
    peer.hears_nothing()


def test_close_is_answered_after_its_handler(talk: Talk) -> None:
    us, peer = talk.open()
    heard: list[bytes] = []
    us.conn.close_handler = lambda code, reason: heard.append(bytes(peer.line.written))
    us.start_recv()
    peer.closes(1000)
    assert heard == [b""]
    peer.hears_close(1000)


def test_handler_that_is_none_is_the_default_again(talk: Talk) -> None:
    us, peer = talk.open()
    default = us.conn.ping_handler
    us.conn.ping_handler = print
    assert us.conn.ping_handler is print
    us.conn.ping_handler = None
    assert us.conn.ping_handler == default
    us.start_recv()
    peer.says("1 000 1001", b"x")
    peer.hears("1 000 1010", b"x")


@pytest.mark.parametrize("name", ["ping_handler", "pong_handler", "close_handler"])
def test_reading_a_handler_always_gives_one_that_can_be_called(talk: Talk, name: str) -> None:
    us, _ = talk.open()
    assert callable(getattr(us.conn, name))


@pytest.mark.parametrize(
    ("name", "bits"), [("ping_handler", "1 000 1001"), ("pong_handler", "1 000 1010")]
)
def test_handler_that_raises_ends_the_connection_with_1011_and_raises_to_the_reader(
    talk: Talk, name: str, bits: str
) -> None:
    us, peer = talk.open()

    def fail(payload: bytes) -> None:
        raise ZeroDivisionError(payload)

    setattr(us.conn, name, fail)
    call = us.start_recv()
    peer.says(bits, b"boom")
    with pytest.raises(ZeroDivisionError, match="boom"):
        call.result()
    peer.hears_close(1011)


class Stop(BaseException):
    """As the failures of pytest are, and the exits of programs."""


@pytest.mark.parametrize("opcode", ["1001", "1010"])
@pytest.mark.parametrize("error", [Stop, SystemExit])
def test_handler_may_raise_what_is_no_exception(
    talk: Talk, opcode: str, error: type[BaseException]
) -> None:
    us, peer = talk.open()

    def leave(payload: bytes) -> None:
        raise error(payload)

    us.conn.ping_handler = us.conn.pong_handler = leave
    peer.says(f"1 000 {opcode}", b"boom")
    talk.clock.advance(0.5)
    peer.hears_close(1011)
    with pytest.raises(error, match="boom"):
        us.recv()
    assert type(us.conn.ending) is error


@pytest.mark.parametrize("error", [Stop, SystemExit])
def test_close_handler_may_raise_what_is_no_exception(
    talk: Talk, error: type[BaseException]
) -> None:
    us, peer = talk.open()

    def leave(code: int, reason: str) -> None:
        raise error(reason)

    us.conn.close_handler = leave
    peer.closes(1000, "boom")
    talk.clock.advance(0.5)
    peer.hears_close(1011)
    with pytest.raises(error, match="boom"):
        us.recv()


def test_close_handler_that_raises_does_so_to_the_reader(talk: Talk) -> None:
    us, peer = talk.open()

    def fail(code: int, reason: str) -> None:
        raise ZeroDivisionError(reason)

    us.conn.close_handler = fail
    call = us.start_recv()
    peer.closes(1000, "boom")
    with pytest.raises(ZeroDivisionError, match="boom"):
        call.result()
    peer.hears_close(1011)


def test_ping_handler_that_pongs_too_late_does_no_harm(talk: Talk) -> None:
    us, peer = talk.open(Role.SERVER)
    us.conn.ping_handler = lambda payload: us.conn.pong(payload)
    closing = us.start_close()
    peer.says("1 000 1001", b"crossed with our Close")
    peer.closes(1000)
    closing.result()
    assert us.conn.ending.received == (1000, "")


def test_control_frame_after_our_close_is_refused(talk: Talk) -> None:
    us, _ = talk.open()
    us.start_close()
    with pytest.raises(ErrCloseSent):
        us.pong()
    with pytest.raises(ErrCloseSent):
        us.write_control(Kind.CLOSE, b"\x03\xe8")
