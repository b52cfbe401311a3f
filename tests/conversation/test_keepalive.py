"""Who is silent is asked, who stays silent is given up; who was only unheard is not."""

from __future__ import annotations

import pytest

from koko import CloseError
from tests.conversation.conftest import Talk
from tests.conversation.peer import Peer


def answers(peer: Peer) -> None:
    peer.says("1 000 1010", peer.hears("1 000 1001").payload)


def test_silent_peer_is_pinged_after_the_interval(talk: Talk) -> None:
    _, peer = talk.open(ping_interval=20)
    talk.clock.advance(19.5)
    peer.hears_nothing()
    talk.clock.advance(1)
    answers(peer)
    talk.clock.advance(19)
    peer.hears_nothing()


@pytest.mark.parametrize("ping_timeout", [2, 20, None])
def test_pings_leave_every_interval_whatever_the_timeout(
    talk: Talk, ping_timeout: float | None
) -> None:
    _, peer = talk.open(ping_interval=2, ping_timeout=ping_timeout)
    for _ in range(5):
        talk.clock.advance(2.5 if talk.face == "sync" else 2.1)  # the housekeeper's round
        answers(peer)
        peer.hears_nothing()


def test_peer_that_dies_after_a_pong_is_given_up_interval_and_timeout_after_it(talk: Talk) -> None:
    us, peer = talk.open(ping_interval=20, ping_timeout=20)
    talk.clock.advance(20.5)
    answers(peer)
    talk.clock.advance(39.5)
    assert us.conn.ending is None
    talk.clock.advance(1)
    assert peer.line.dropped
    assert "last heard a pong 40." in str(us.conn.ending)


def test_dead_peer_is_noticed_while_the_application_does_something_else(talk: Talk) -> None:
    us, peer = talk.open(ping_interval=20, ping_timeout=20)
    talk.clock.advance(41)
    assert peer.line.dropped
    with pytest.raises(CloseError) as raised:
        us.send("hello?")
    assert str(raised.value) == (
        "connection lost; no answer to a ping within 20 s, "
        "last heard the opening handshake 40.0 s ago"
    )


def test_peer_that_is_given_up_is_told_why_in_case_it_only_hangs(talk: Talk) -> None:
    us, peer = talk.open(ping_interval=20, ping_timeout=20)
    talk.clock.advance(40.5)
    peer.hears("1 000 1001")
    peer.hears_close(1011, "keepalive ping timeout")
    assert peer.line.dropped
    assert us.conn.ending.sent is None  # it is no part of a closing handshake
    assert not us.conn.ending.ordinary


def test_peer_that_takes_nothing_is_told_nothing(talk: Talk) -> None:
    us, peer = talk.open(ping_interval=20, ping_timeout=20)
    peer.stops_reading()
    us.start_send(bytes(200_000))
    talk.clock.advance(61)
    assert peer.line.dropped
    assert b"keepalive" not in peer.line.written


@pytest.mark.parametrize(
    ("pieces", "what"),
    [
        ([("0 000 0001", b"hel")], "a part of a message"),
        ([("0 000 0001", b"hel"), ("1 000 1001", b"?")], "a ping"),
        ([("0 000 0001", b"hel"), ("1 000 0000", b"lo")], "a message"),
        ([("1 000 1001", b"?"), ("0 000 0001", b"hel")], "a part of a message"),
    ],
)
def test_error_says_what_was_heard_last_whole_or_not(
    talk: Talk, pieces: list[tuple[str, bytes]], what: str
) -> None:
    us, peer = talk.open(ping_interval=20, ping_timeout=20)
    for bits, payload in pieces:
        peer.says(bits, payload)
        talk.clock.advance(0.6)  # and it is read
    talk.clock.advance(41)
    assert f"last heard {what} 40." in str(us.conn.ending)


def test_error_knows_of_half_a_frame(talk: Talk) -> None:
    us, peer = talk.open(ping_interval=20, ping_timeout=20)
    talk.clock.advance(5)
    peer.sends(peer.frame("1 000 0001", b"half a frame")[:5])
    talk.clock.advance(41)
    assert "last heard a part of a message 40." in str(us.conn.ending)


def test_error_about_a_peer_that_talks_knows_of_no_silence(talk: Talk) -> None:
    us, peer = talk.open(ping_interval=20, ping_timeout=20)
    peer.stops_reading()
    us.start_send(bytes(200_000))
    for _ in range(7):
        talk.clock.advance(10)
        peer.says("1 000 1001", b"still here")
    assert "the peer took none of the" in str(us.conn.ending)
    assert "did not listen" not in str(us.conn.ending)


def test_receiver_of_a_dead_peer_is_woken(talk: Talk) -> None:
    us, peer = talk.open(ping_interval=20, ping_timeout=20)
    talk.clock.advance(10)
    peer.says("1 000 1001", b"")
    call = us.start_recv()
    talk.clock.advance(41)
    with pytest.raises(CloseError, match="no answer to a ping within 20 s, last heard a ping"):
        call.result()


def test_writer_to_a_dead_peer_is_woken(talk: Talk) -> None:
    us, peer = talk.open(ping_interval=20, ping_timeout=20)
    peer.stops_reading()
    us.start_send(bytes(200_000))
    waiting = us.start_send("behind it")
    talk.clock.advance(45)
    with pytest.raises(CloseError):
        waiting.result()


def test_peer_that_talks_and_takes_nothing_is_given_up(talk: Talk) -> None:
    us, peer = talk.open(ping_interval=20, ping_timeout=20)
    us.start_recv()
    peer.stops_reading()
    us.start_send(bytes(200_000))
    waiting = us.start_send("behind it")
    for _ in range(7):
        talk.clock.advance(10)
        peer.says("1 000 1010", b"still here")
    assert peer.line.dropped
    with pytest.raises(CloseError, match="the peer took none of the .* that wait for it within 40"):
        waiting.result()


def test_peer_whose_messages_we_cannot_take_because_it_takes_none_is_given_up(talk: Talk) -> None:
    us, peer = talk.open(ping_interval=20, ping_timeout=20)
    peer.stops_reading()
    us.start_send(bytes(200_000))
    waiting = us.start_send("behind it")  # a handler that echoes does not receive meanwhile
    for number in range(20):
        peer.says("1 000 0010", bytes([number]) * 10_000)
    talk.clock.advance(100)
    assert peer.line.unheard
    assert peer.line.dropped
    with pytest.raises(CloseError, match="the peer took none of the"):
        waiting.result()


def test_silent_peer_that_reads_slowly_is_kept(talk: Talk) -> None:
    us, peer = talk.open(ping_interval=20, ping_timeout=20)
    peer.stops_reading()
    us.start_send(bytes(200_000))
    waiting = us.start_send("behind it")
    for _ in range(10):
        talk.clock.advance(15)
        peer.reads_a_little(1000)
    assert us.conn.ending is None
    peer.reads_on()
    waiting.result()


def test_peer_that_takes_nothing_is_kept_where_nobody_is_given_up(talk: Talk) -> None:
    us, peer = talk.open(ping_interval=20, ping_timeout=None)
    peer.stops_reading()
    us.start_send(bytes(200_000))
    waiting = us.start_send("behind it")
    talk.clock.advance(300)
    assert waiting.waits
    peer.reads_on()
    waiting.result()


def test_any_byte_from_the_peer_is_life(talk: Talk) -> None:
    _, peer = talk.open(ping_interval=20, ping_timeout=20)
    talk.clock.advance(21)
    peer.hears("1 000 1001")
    talk.clock.advance(15)
    peer.sends(peer.frame("1 000 0001", b"half a frame")[:5])
    talk.clock.advance(15)
    assert not peer.line.dropped
    peer.hears_nothing()


def test_peer_that_talks_is_never_pinged(talk: Talk) -> None:
    us, peer = talk.open(ping_interval=20)
    for _ in range(5):
        talk.clock.advance(19)
        peer.says("1 000 0001", b"still here")
        assert us.recv() == "still here"
    peer.hears_nothing()


def test_pings_of_the_keepalive_measure_the_latency(talk: Talk) -> None:
    us, peer = talk.open(ping_interval=20)
    us.start_recv()
    talk.clock.advance(20.5)
    ping = peer.hears("1 000 1001")
    talk.clock.advance(0.25)
    peer.says("1 000 1010", ping.payload)
    assert 0.25 <= us.conn.latency <= 0.75


def test_no_interval_means_no_ping(talk: Talk) -> None:
    _, peer = talk.open(ping_interval=None)
    talk.clock.advance(100)
    peer.hears_nothing()
    assert not peer.line.dropped


def test_no_timeout_means_that_nobody_is_given_up(talk: Talk) -> None:
    _, peer = talk.open(ping_interval=20, ping_timeout=None)
    talk.clock.advance(63)
    for _ in range(3):
        peer.hears("1 000 1001")
    peer.hears_nothing()
    assert not peer.line.dropped


def test_nobody_is_given_up_for_what_came_while_we_were_too_busy_to_listen(talk: Talk) -> None:
    us, peer = talk.open(ping_interval=20, ping_timeout=20)
    talk.clock.advance(20.5)
    ping = peer.hears("1 000 1001")
    talk.clock.oversleep(60)
    peer.says("1 000 1010", ping.payload)
    talk.clock.advance(5)
    assert not peer.line.dropped
    assert us.conn.ending is None


def test_error_says_for_how_long_we_did_not_listen(talk: Talk) -> None:
    us, peer = talk.open(ping_interval=20, ping_timeout=20)
    talk.clock.advance(20.5)
    peer.hears("1 000 1001")
    talk.clock.oversleep(60)
    talk.clock.advance(25)
    assert peer.line.dropped
    assert "this process did not listen" in str(us.conn.ending)


def test_peer_that_we_do_not_read_is_not_held_to_be_silent(talk: Talk) -> None:
    us, peer = talk.open(ping_interval=20, ping_timeout=20)
    for number in range(20):
        peer.says("1 000 0010", bytes([number]) * 10_000)
    talk.clock.advance(300)
    assert peer.line.unheard
    assert not peer.line.dropped
    assert us.conn.ending is None
    assert [us.recv()[0] for _ in range(20)] == list(range(20))
