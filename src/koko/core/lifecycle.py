"""The life of a connection, as a table, and how long each part of its end may take (§7).

Every state a connection can be in, every event that can happen to it, what follows, and
by when. No other module assigns a state; no rule here depends on our role.

The peer's end, a Close or a violation, is held back while our reader may still answer
what came before it: the answer to the last message would be lost otherwise. That is
bounded. The clock of an answer begins when the reader took its last message, so a reader
that took it long ago holds nothing back.
"""

from __future__ import annotations

from enum import Enum

ANSWER_TIME = 0.25  # seconds a reader may take to begin the answer to its last message
REST_TIME = 0.1  # seconds for the rest of an answer of which something was sent
UNREAD_TIME = 1.0  # seconds in which the next unread message must be taken


class State(Enum):
    __hash__ = object.__hash__  # Enum's own is written in Python
    OPEN = "open"
    CLOSE_HELD = "closed by the peer"  # its Close has come, messages before it may be answered
    FAILURE_HELD = "broken by the peer"  # the same, for a violation
    CLOSING = "closing"  # we sent a Close, the peer has not answered
    ANSWERING = "answering"  # the peer's Close has taken effect, we have not answered
    DONE = "done"  # both Closes are out, only the end of the stream remains
    FAILING = "failing"  # the connection has failed, no Close has been sent
    FAILED = "failed"  # the peer was told so in our Close; no answer is awaited
    CLOSED = "closed"  # nothing more can be read or written


class Event(Enum):
    __hash__ = object.__hash__
    SENT_CLOSE = "sent Close"
    GOT_CLOSE = "got Close"
    VIOLATION = "violation"
    FAULT = "fault of ours"
    READER_DONE = "reader done"  # it asked for more, its time was over, or we close ourselves
    GOT_EOF = "got end of stream"


# Until Python 3.12 State.OPEN is looked up in Python, by a metaclass: ten times the cost of a name.
OPEN, CLOSE_HELD, FAILURE_HELD, CLOSING, ANSWERING, DONE, FAILING, FAILED, CLOSED = State
SENT_CLOSE, GOT_CLOSE, VIOLATION, FAULT, READER_DONE, GOT_EOF = Event

NEXT: dict[State, dict[Event, State]] = {
    OPEN: {
        SENT_CLOSE: CLOSING,
        GOT_CLOSE: CLOSE_HELD,
        VIOLATION: FAILURE_HELD,
        FAULT: FAILING,
        GOT_EOF: CLOSED,
    },
    CLOSE_HELD: {READER_DONE: ANSWERING, FAULT: ANSWERING, GOT_EOF: CLOSED},
    FAILURE_HELD: {READER_DONE: FAILING, FAULT: FAILING, GOT_EOF: CLOSED},
    # §7.1.7: a violation after our Close needs no second one; §5.5.1: at most one is sent.
    # No answer can be sent any more, so nothing is held back.
    CLOSING: {GOT_CLOSE: DONE, VIOLATION: FAILED, FAULT: FAILED, GOT_EOF: CLOSED},
    ANSWERING: {SENT_CLOSE: DONE, GOT_EOF: CLOSED},
    # §7.1.1: after both Closes the server closes first; the caller knows our role.
    DONE: {GOT_EOF: CLOSED},
    FAILING: {SENT_CLOSE: FAILED, GOT_EOF: CLOSED},
    FAILED: {GOT_EOF: CLOSED},
    CLOSED: {},
}

HELD = (CLOSE_HELD, FAILURE_HELD)  # the peer's end waits for our reader
MAY_SEND = (OPEN, CLOSE_HELD, FAILURE_HELD)  # messages, pings and pongs
MAY_SEND_CLOSE = (OPEN, CLOSE_HELD, FAILURE_HELD, ANSWERING, FAILING)

# What the reader is at. Numbers, since each message stores one of them.
WAITING = 0  # it has asked for a message, or never has
WORKING = 1  # it took a message, and has neither sent anything since nor asked for another
ANSWERED = 2  # it took a message and something was sent since, perhaps a part of the answer


class Lifecycle:
    """Where one connection stands, and since when its end has been on the way.

    Attributes:
        since: when the peer's end came or, later, when our Close was sent.
    """

    __slots__ = ("since", "state")

    def __init__(self) -> None:
        self.state = OPEN
        self.since = 0.0

    def on(self, event: Event, now: float) -> State:
        """Move to what follows ``event``; one the table does not know is a bug of ours."""
        following = NEXT[self.state].get(event)
        if following is None:
            raise RuntimeError(f"{event.value} cannot happen while {self.state.value}")
        if following in HELD or event is SENT_CLOSE:
            self.since = now
        self.state = following
        return following

    def held_until(self, reader: int, taken_at: float, unread: bool, close_timeout: float) -> float:
        """Return when the peer's end takes effect, whatever our reader does.

        ``taken_at`` is when it took its last message; ``unread`` whether there are more.
        """
        if unread:
            until = max(self.since, taken_at) + UNREAD_TIME
        elif reader == WAITING:
            return self.since
        elif reader == WORKING:
            until = taken_at + ANSWER_TIME
        else:  # not renewed by what it sends: it may send for ever
            until = max(self.since, taken_at) + REST_TIME
        return min(until, self.since + close_timeout / 2)


class StreamAction(Enum):
    """What a face should do to the stream once the owed bytes are written."""

    KEEP = "keep"
    CLOSE = "close"  # close the stream
    # End our half, then discard what comes until the peer ends its own or ``due_at``: closing
    # with unread bytes resets the stream, and the peer would never see why. Or else CLOSE.
    HALF_CLOSE = "half-close"
