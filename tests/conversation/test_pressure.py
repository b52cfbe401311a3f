"""Who is faster than the other waits: nothing piles up on either side."""

from __future__ import annotations

import pytest

from koko import CloseError, ErrCloseSent
from tests.conversation.conftest import Talk

KIB = 1024


def test_unread_messages_stop_the_reading_at_about_64_kib(talk: Talk) -> None:
    us, peer = talk.open()
    for number in range(16):
        peer.says("1 000 0010", bytes([number]) * 16 * KIB)
    talk.clock.advance(1)
    taken = 16 * len(peer.frame("1 000 0010", bytes(16 * KIB))) - peer.line.unheard
    assert 64 * KIB <= taken <= 96 * KIB
    assert [us.recv()[0] for _ in range(16)] == list(range(16))
    assert not peer.line.unheard


def test_large_message_is_read_beyond_that_for_who_waits_for_it(talk: Talk) -> None:
    us, peer = talk.open()
    call = us.start_recv()
    peer.says("1 000 0010", bytes(500 * KIB))
    assert call.result() == bytes(500 * KIB)


def test_large_message_is_not_lost_when_nobody_waits_at_first(talk: Talk) -> None:
    us, peer = talk.open()
    peer.says("1 000 0010", bytes(500 * KIB))
    talk.clock.advance(1)
    assert us.recv() == bytes(500 * KIB)


def test_pings_are_answered_again_once_somebody_reads(talk: Talk) -> None:
    us, peer = talk.open()
    for _ in range(8):
        peer.says("1 000 0010", bytes(16 * KIB))
    peer.says("1 000 1001", b"behind them")
    talk.clock.advance(1)
    peer.hears_nothing()
    for _ in range(8):
        us.recv()
    us.start_recv()
    peer.hears("1 000 1010", b"behind them")


def test_who_holds_a_large_message_can_still_ping(talk: Talk) -> None:
    us, peer = talk.open()
    call = us.start_recv()
    peer.says("1 000 0010", bytes(500 * KIB))
    call.result()
    pinging = us.start_ping(b"p")
    peer.says("1 000 1010", b"p")
    pinging.result()


def test_slow_peer_makes_send_wait(talk: Talk) -> None:
    us, peer = talk.open()
    peer.stops_reading()
    first = us.start_send(bytes(100 * KIB))
    second = us.start_send("second")
    assert second.waits
    peer.reads_on()
    first.result()
    second.result()
    peer.hears("1 000 0010", bytes(100 * KIB))
    peer.hears("1 000 0001", b"second")


def test_send_that_times_out_has_sent_nothing_and_harms_nothing(talk: Talk) -> None:
    us, peer = talk.open()
    peer.stops_reading()
    first = us.start_send(bytes(100 * KIB))
    second = us.start_send("too late", timeout=5)
    talk.clock.advance(4.9)
    assert second.waits
    talk.clock.advance(0.2)
    with pytest.raises(TimeoutError, match="the peer reads too slowly; nothing was sent"):
        second.result()
    peer.reads_on()
    first.result()
    us.send("in time", timeout=5)
    peer.hears("1 000 0010", bytes(100 * KIB))
    peer.hears("1 000 0001", b"in time")


def test_writer_that_waits_is_told_when_the_connection_ends(talk: Talk) -> None:
    us, peer = talk.open()
    peer.stops_reading()
    us.start_send(bytes(100 * KIB))
    waiting = us.start_send("never")
    us.start_recv()
    peer.breaks()
    with pytest.raises(CloseError, match="reset by peer"):
        waiting.result()


def test_writer_that_waits_is_told_when_we_close(talk: Talk) -> None:
    us, peer = talk.open()
    peer.stops_reading()
    us.start_send(bytes(100 * KIB))
    waiting = us.start_send("never")
    us.start_close()
    peer.reads_on()
    with pytest.raises(ErrCloseSent):
        waiting.result()
    peer.hears("1 000 0010", bytes(100 * KIB))
    peer.hears_close(1000)


def test_peer_that_pings_and_never_reads_is_owed_a_bounded_number_of_pongs(talk: Talk) -> None:
    us, peer = talk.open()
    peer.stops_reading()
    us.start_send(bytes(100 * KIB))
    us.start_recv()
    for number in range(0, 1000, 100):
        pings = (b"%d" % payload for payload in range(number, number + 100))
        peer.sends(b"".join(peer.frame("1 000 1001", payload) for payload in pings))
    peer.reads_on()
    peer.hears("1 000 0010", bytes(100 * KIB))
    pongs = []
    while peer.line.written:
        pongs.append(peer.hears("1 000 1010").payload)
    assert len(pongs) <= 64
    assert pongs[-1] == b"999"
