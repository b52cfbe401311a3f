"""The life of a connection, as a table (§7).

Every state a connection can be in, every event that can happen to it, and what
follows. No other module assigns a state; no rule here depends on our role.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    __hash__ = object.__hash__  # Enum's own is written in Python
    OPEN = "open"
    CLOSING = "closing"  # we sent a Close, the peer has not answered
    ANSWERING = "answering"  # the peer sent a Close, we have not answered
    DONE = "done"  # both Closes are out, only the end of the stream remains
    FAILING = "failing"  # the peer broke the protocol, no Close has been sent
    FAILED = "failed"  # it was told so in our Close; no answer is awaited
    CLOSED = "closed"  # nothing more can be read or written


class Event(Enum):
    __hash__ = object.__hash__
    SENT_CLOSE = "sent Close"
    GOT_CLOSE = "got Close"
    VIOLATION = "violation"
    GOT_EOF = "got end of stream"


# Until Python 3.12 State.OPEN is looked up in Python, by a metaclass: ten times the cost of a name.
OPEN, CLOSING, ANSWERING, DONE, FAILING, FAILED, CLOSED = State
SENT_CLOSE, GOT_CLOSE, VIOLATION, GOT_EOF = Event

NEXT: dict[State, dict[Event, State]] = {
    OPEN: {SENT_CLOSE: CLOSING, GOT_CLOSE: ANSWERING, VIOLATION: FAILING, GOT_EOF: CLOSED},
    # §7.1.7: a violation after our Close needs no second one; §5.5.1: at most one is sent.
    CLOSING: {GOT_CLOSE: DONE, VIOLATION: FAILED, GOT_EOF: CLOSED},
    ANSWERING: {SENT_CLOSE: DONE, GOT_EOF: CLOSED},
    # §7.1.1: after both Closes the server closes first; which one we are is the caller's to know.
    DONE: {GOT_EOF: CLOSED},
    FAILING: {SENT_CLOSE: FAILED, GOT_EOF: CLOSED},
    FAILED: {GOT_EOF: CLOSED},
    CLOSED: {},
}

MAY_SEND = (OPEN,)  # messages, pings and pongs
MAY_SEND_CLOSE = (OPEN, ANSWERING, FAILING)


class Lifecycle:
    """Where one connection stands."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state = OPEN

    def on(self, event: Event) -> State:
        """Move to what follows ``event``; one the table does not know is a bug of ours."""
        following = NEXT[self.state].get(event)
        if following is None:
            raise RuntimeError(f"{event.value} cannot happen while {self.state.value}")
        self.state = following
        return following


class Parting(Enum):
    """What a face should do to the stream once the owed bytes are written."""

    STAY = "stay"
    DROP = "drop"  # close the stream
    # End our half, then discard what comes until the peer ends its own or ``due_at``: closing
    # with unread bytes resets the stream, and the peer would never see why. Or else DROP.
    HALF = "half"


STAY, DROP, HALF = Parting
