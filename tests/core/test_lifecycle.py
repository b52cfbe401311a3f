"""The table of the closing handshake: what it knows, and that every way through it ends."""

from __future__ import annotations

import pytest

from koko.core.lifecycle import (
    ANSWER_TIME,
    ANSWERED,
    HELD,
    MAY_SEND,
    MAY_SEND_CLOSE,
    NEXT,
    REST_TIME,
    UNREAD_TIME,
    WAITING,
    WORKING,
    Event,
    Lifecycle,
    State,
)
from koko.core.wire import Role

PATHS = {
    "we close, the peer answers": ["SENT_CLOSE", "GOT_CLOSE", "GOT_EOF"],
    "the peer closes, we answer": ["GOT_CLOSE", "READER_DONE", "SENT_CLOSE", "GOT_EOF"],
    "the peer breaks the protocol": ["VIOLATION", "READER_DONE", "SENT_CLOSE", "GOT_EOF"],
    "a handler fails": ["FAULT", "SENT_CLOSE", "GOT_EOF"],
    "a handler fails while the peer's Close waits": ["GOT_CLOSE", "FAULT", "SENT_CLOSE", "GOT_EOF"],
    "the peer breaks it after our Close": ["SENT_CLOSE", "VIOLATION", "GOT_EOF"],
    "the stream is lost": ["GOT_EOF"],
    "the stream is lost in place of an answer": ["SENT_CLOSE", "GOT_EOF"],
    "the stream is lost before our reader is done": ["GOT_CLOSE", "GOT_EOF"],
    "the stream is lost before we answer": ["GOT_CLOSE", "READER_DONE", "GOT_EOF"],
    "the stream is lost before the peer is told": ["VIOLATION", "GOT_EOF"],
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
def test_every_way_through_the_table_ends_closed(path):
    life = Lifecycle(Role.SERVER, close_timeout=10)
    assert life.state is State.OPEN
    for name in path:
        assert life.on(Event[name], 1.0) is life.state
    assert life.state is State.CLOSED


def test_every_state_has_a_row_and_is_reached():
    assert set(NEXT) == set(State)
    assert {State.OPEN}.union(*(row.values() for row in NEXT.values())) == set(State)


def test_the_stream_can_be_lost_in_every_state_but_the_last():
    assert all(NEXT[state][Event.GOT_EOF] is State.CLOSED for state in State if NEXT[state])
    assert [state for state in State if not NEXT[state]] == [State.CLOSED]


def test_no_way_through_the_table_sends_two_closes():
    def most(state):
        return max(
            ((event is Event.SENT_CLOSE) + most(after) for event, after in NEXT[state].items()),
            default=0,
        )

    assert most(State.OPEN) == 1  # and no way goes on for ever, or this would not end


def test_a_close_may_be_sent_exactly_where_the_table_knows_it():
    known = {state for state in State if Event.SENT_CLOSE in NEXT[state]}
    assert set(MAY_SEND_CLOSE) == known | set(HELD)  # where our own Close ends the holding back
    assert set(MAY_SEND) == {State.OPEN, *HELD}


def test_the_peers_end_is_held_back_only_where_an_answer_can_be_sent():
    assert all(Event.READER_DONE in NEXT[state] for state in HELD)
    assert [state for state in State if Event.READER_DONE in NEXT[state]] == list(HELD)
    assert set(HELD) < set(MAY_SEND)


def test_an_event_the_table_does_not_know_is_refused_and_changes_nothing():
    life = Lifecycle(Role.SERVER, close_timeout=10)
    life.on(Event.GOT_CLOSE, 1.0)
    with pytest.raises(RuntimeError, match="got Close cannot happen while closed by the peer"):
        life.on(Event.GOT_CLOSE, 1.0)
    assert life.state is State.CLOSE_HELD


# How long the peer's end, which came at 100, is held back; close_timeout is 10

HELD_UNTIL = {
    "a reader that waits has nothing to answer": (WAITING, 50, False, 100),
    "a reader that never came, and nothing is unread": (WAITING, 0, False, 100),
    "the answer to the last message may begin": (WORKING, 99.9, False, 99.9 + ANSWER_TIME),
    "a message that was taken long ago is answered or never is": (WORKING, 50, False, 50.25),
    "an answer that has begun may end": (ANSWERED, 99.9, False, 100 + REST_TIME),
    "one that sends for ever has no longer": (ANSWERED, 50, False, 100 + REST_TIME),
    "the last message was taken after the Close": (ANSWERED, 102, False, 102 + REST_TIME),
    "something is unread": (WAITING, 50, True, 100 + UNREAD_TIME),
    "something is unread, and one was taken since": (WORKING, 103, True, 103 + UNREAD_TIME),
    "nobody takes longer than half of close_timeout": (WORKING, 104.9, True, 105),
}


@pytest.mark.parametrize("case", HELD_UNTIL.values(), ids=HELD_UNTIL.keys())
def test_the_peers_end_is_held_back_until(case):
    reader, taken_at, unread, until = case
    life = Lifecycle(Role.SERVER, close_timeout=10)
    life.on(Event.GOT_CLOSE, 100.0)
    assert life.held_until(reader, taken_at, unread) == until
