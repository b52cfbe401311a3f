"""A goodbye takes tenths of a second, whatever the application is at, and loses nothing."""

from __future__ import annotations

import pytest

from koko import CloseError, ErrCloseSent
from koko.core.wire import Role
from tests.conversation.conftest import Talk

# Seconds; on threads a Close is noticed by a look twice a second.
SOON = {"aio": 0.3, "sync": 0.8}
UNREAD = {"aio": 1.2, "sync": 1.6}


def test_an_application_that_took_its_message_long_ago_holds_no_close_back(talk: Talk) -> None:
    us, peer = talk.open(close_timeout=10, ping_interval=None)
    peer.says("1 000 0001", b"go")
    us.recv()
    talk.clock.advance(5)
    peer.closes(1000)
    talk.clock.advance(SOON[talk.face])
    peer.hears_close(1000)


def test_an_application_that_only_sends_learns_of_a_close_at_once(talk: Talk) -> None:
    us, peer = talk.open(close_timeout=10, ping_interval=None)
    peer.says("1 000 0001", b"go")
    us.recv()
    us.send("tick")
    talk.clock.advance(5)
    peer.closes(1000)
    us.send("tick")
    talk.clock.advance(SOON[talk.face])
    with pytest.raises(ErrCloseSent, match="peer closed with 1000"):
        us.send("tick")
    for _ in range(2):
        peer.hears("1 000 0001", b"tick")
    peer.hears_close(1000)


def test_a_message_that_nobody_takes_holds_a_close_back_for_a_second(talk: Talk) -> None:
    us, peer = talk.open(close_timeout=10, ping_interval=None)
    peer.says("1 000 0001", b"unread")
    peer.closes(1000)
    talk.clock.advance(UNREAD[talk.face])
    peer.hears_close(1000)
    assert us.recv() == "unread"
    with pytest.raises(ErrCloseSent):
        us.send("an answer that comes too late")
    with pytest.raises(CloseError, match="peer closed with 1000"):
        us.recv()


def test_an_answer_in_two_parts_arrives_whole_with_a_close_between_them(talk: Talk) -> None:
    us, peer = talk.open(close_timeout=10, ping_interval=None)
    peer.says("1 000 0001", b"go")
    us.recv()
    us.send("part 1")
    peer.closes(1000)
    talk.clock.advance(0.05)
    us.send("part 2")
    with pytest.raises(CloseError):
        us.recv()
    peer.hears("1 000 0001", b"part 1")
    peer.hears("1 000 0001", b"part 2")
    peer.hears_close(1000)


def test_each_message_can_be_answered_while_they_are_being_taken(talk: Talk) -> None:
    us, peer = talk.open(close_timeout=10, ping_interval=None)
    for word in (b"one", b"two", b"three"):
        peer.says("1 000 0001", word)
    peer.closes(1000)
    for word in ("one", "two", "three"):
        assert us.recv() == word
        talk.clock.advance(0.1)
        us.send(word)
        talk.clock.advance(0.5 if word != "three" else 0)
    with pytest.raises(CloseError):
        us.recv()
    for word in (b"one", b"two", b"three"):
        peer.hears("1 000 0001", word)
    peer.hears_close(1000)


def test_what_was_received_before_our_own_close_can_be_read_after_it(talk: Talk) -> None:
    us, peer = talk.open(Role.SERVER)
    peer.says("1 000 0001", b"one")
    peer.says("1 000 0001", b"two")
    closing = us.start_close(1000)
    peer.closes(1000)
    closing.result()
    assert [us.recv(), us.recv()] == ["one", "two"]
    with pytest.raises(CloseError, match="we closed with 1000"):
        us.recv()


def test_nothing_is_given_behind_a_gap_where_too_much_comes_while_we_close(talk: Talk) -> None:
    us, peer = talk.open(Role.SERVER)
    for number in range(20):
        peer.says("1 000 0010", bytes([number]) * 10_000)
    closing = us.start_close()
    for number in range(20, 40):
        peer.says("1 000 0010", bytes([number]) * 10_000)
    peer.closes(1000)
    closing.result()
    read = []
    with pytest.raises(CloseError, match="we closed with 1000"):
        while True:
            read.append(us.recv()[0])
    assert read == list(range(len(read)))
    assert read


def test_a_ping_on_its_way_is_told_how_the_connection_ended(talk: Talk) -> None:
    us, peer = talk.open(close_timeout=10, ping_interval=None)
    pinging = us.start_ping()
    peer.closes(1000, "bye")
    talk.clock.advance(SOON[talk.face])
    with pytest.raises(CloseError, match="peer closed with 1000") as raised:
        pinging.result()
    assert type(raised.value) is CloseError
