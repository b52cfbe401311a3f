"""The table of the closing handshake: what it knows, and that every way through it ends."""

from __future__ import annotations

import pytest

from koko.core.lifecycle import MAY_SEND, MAY_SEND_CLOSE, NEXT, Event, Lifecycle, State

PATHS = {
    "we close, the peer answers": ["SENT_CLOSE", "GOT_CLOSE", "GOT_EOF"],
    "the peer closes, we answer": ["GOT_CLOSE", "SENT_CLOSE", "GOT_EOF"],
    "the peer breaks the protocol": ["VIOLATION", "SENT_CLOSE", "GOT_EOF"],
    "the peer breaks it after our Close": ["SENT_CLOSE", "VIOLATION", "GOT_EOF"],
    "the stream is lost": ["GOT_EOF"],
    "the stream is lost in place of an answer": ["SENT_CLOSE", "GOT_EOF"],
    "the stream is lost before we answer": ["GOT_CLOSE", "GOT_EOF"],
    "the stream is lost before the peer is told": ["VIOLATION", "GOT_EOF"],
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
def test_every_way_through_the_table_ends_closed(path):
    life = Lifecycle()
    assert life.state is State.OPEN
    for name in path:
        assert life.on(Event[name]) is life.state
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
    assert set(MAY_SEND_CLOSE) == {state for state in State if Event.SENT_CLOSE in NEXT[state]}
    assert MAY_SEND == (State.OPEN,)


def test_an_event_the_table_does_not_know_is_refused_and_changes_nothing():
    life = Lifecycle()
    life.on(Event.GOT_CLOSE)
    with pytest.raises(RuntimeError, match="got Close cannot happen while answering"):
        life.on(Event.GOT_CLOSE)
    assert life.state is State.ANSWERING
