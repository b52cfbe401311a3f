"""What a peer that breaks the rules is told, and what the application still gets."""

from __future__ import annotations

import pytest

from koko import CloseError, ProtocolError
from koko.core.wire import Role
from tests.conversation.conftest import Talk
from tests.wire import wire

UNMASKED = wire("1 000 0001  0 0000010", b"hi")
RESERVED = wire("1 000 0011  0 0000000")


def test_good_messages_before_a_violation_are_read_and_can_be_answered(talk: Talk) -> None:
    us, peer = talk.open()
    peer.sends(peer.frame("1 000 0001", b"1") + peer.frame("1 000 0001", b"2") + RESERVED)
    for number in ("1", "2"):
        assert us.recv() == number
        us.send(f"re {number}")
    with pytest.raises(ProtocolError, match="reserved opcode 3"):
        us.recv()
    peer.hears("1 000 0001", b"re 1")
    peer.hears("1 000 0001", b"re 2")
    peer.hears_close(1002)
    peer.hears_nothing()


def test_reader_that_never_comes_back_does_not_keep_a_violation_for_ever(talk: Talk) -> None:
    us, peer = talk.open(close_timeout=10, ping_interval=None)
    peer.sends(peer.frame("1 000 0001", b"1") + RESERVED)
    assert us.recv() == "1"
    talk.clock.advance(10.5)
    peer.hears_close(1002)


def test_violation_is_told_at_once_where_nobody_reads(talk: Talk) -> None:
    us, peer = talk.open()
    peer.sends(RESERVED)
    talk.clock.advance(0.5)
    peer.hears_close(1002)
    with pytest.raises(ProtocolError):
        us.recv()


def test_close_tells_the_peer_what_it_did(talk: Talk) -> None:
    us, peer = talk.open(Role.SERVER)
    call = us.start_recv()
    peer.sends(UNMASKED)
    with pytest.raises(ProtocolError) as raised:
        call.result()
    said = "peer sent an unmasked frame; a client must mask every frame (RFC 6455 §5.1)"
    assert str(raised.value) == said
    assert (raised.value.code, raised.value.section) == (1002, "RFC 6455 §5.1")
    peer.hears_close(1002, said)


def test_nothing_is_parsed_after_a_violation(talk: Talk) -> None:
    us, peer = talk.open()
    call = us.start_recv()
    peer.sends(RESERVED + peer.frame("1 000 1001", b"ping"))
    peer.says("1 000 0001", b"and on it goes")
    peer.hears_close(1002)
    peer.hears_nothing()
    for _ in range(2):
        with pytest.raises(ProtocolError):
            call.result()
        call = us.start_recv()


def test_bad_utf8_fails_at_once_inside_an_unfinished_frame(talk: Talk) -> None:
    us, peer = talk.open()
    call = us.start_recv()
    peer.sends(wire("1 000 0001  0 0010100", b"twenty \xff"))
    with pytest.raises(ProtocolError, match="not UTF-8"):
        call.result()
    peer.hears_close(1007)


def test_no_answer_is_awaited_after_a_violation(talk: Talk) -> None:
    us, peer = talk.open(close_timeout=10)
    us.start_recv()
    peer.sends(RESERVED)
    assert peer.line.ended
    peer.ends()
    talk.clock.advance(0.5)
    assert peer.line.dropped


def test_peer_that_ignores_our_verdict_is_dropped_in_time(talk: Talk) -> None:
    us, peer = talk.open(close_timeout=10)
    us.start_recv()
    peer.sends(RESERVED)
    for _ in range(20):
        peer.sends(bytes(10_000))
    assert not peer.line.dropped
    talk.clock.advance(10.5)
    assert peer.line.dropped


def test_violation_after_our_close_needs_no_second_one(talk: Talk) -> None:
    us, peer = talk.open()
    call = us.start_close(1000)
    peer.hears_close(1000)
    peer.sends(RESERVED)
    peer.hears_nothing()
    peer.ends()
    call.result()


def test_nothing_can_be_sent_after_a_violation(talk: Talk) -> None:
    us, peer = talk.open()
    us.start_recv()
    peer.sends(RESERVED)
    with pytest.raises(CloseError):
        us.send("but")
