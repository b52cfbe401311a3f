"""The law of the end: every state of a connection, what leads where, and by when (§7).

A table of states and events; how long each state may last; which end counts when there are
several; when our Close is due and what it says; what becomes of the stream. No other module
assigns a state. Nothing here sends anything, calls a handler or reads a clock.

The peer's end, a Close or a violation, is held back while our reader may still answer
what came before it: the answer to the last message would be lost otherwise. That is
bounded. The clock of an answer begins when the reader took its last message, so a reader
that took it long ago holds nothing back.
"""

from __future__ import annotations

from enum import Enum
from types import TracebackType

from koko.core.control import shorten
from koko.core.wire import Role
from koko.errors import Close, CloseError, ErrCloseSent, ProtocolError

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


class StreamAction(Enum):
    """What a face should do to the stream once the owed bytes are written."""

    KEEP = "keep"
    CLOSE = "close"  # close the stream
    # End our half, then discard what comes until the peer ends its own or ``due_at``: closing
    # with unread bytes resets the stream, and the peer would never see why. Or else CLOSE.
    HALF_CLOSE = "half-close"


# Until Python 3.12 State.OPEN is looked up in Python, by a metaclass: ten times the cost of a name.
OPEN, CLOSE_HELD, FAILURE_HELD, CLOSING, ANSWERING, DONE, FAILING, FAILED, CLOSED = State
SENT_CLOSE, GOT_CLOSE, VIOLATION, FAULT, READER_DONE, GOT_EOF = Event
SERVER = Role.SERVER

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
    DONE: {GOT_EOF: CLOSED},
    FAILING: {SENT_CLOSE: FAILED, GOT_EOF: CLOSED},
    FAILED: {GOT_EOF: CLOSED},
    CLOSED: {},
}

HELD = (CLOSE_HELD, FAILURE_HELD)  # the peer's end waits for our reader
MAY_SEND = (OPEN, CLOSE_HELD, FAILURE_HELD)  # messages, pings and pongs
MAY_SEND_CLOSE = (OPEN, CLOSE_HELD, FAILURE_HELD, ANSWERING, FAILING)
CLOSE_DUE = (ANSWERING, FAILING)  # the peer waits for our Close

CLIENT_ACTIONS = {
    **dict.fromkeys(State, StreamAction.KEEP),
    FAILED: StreamAction.HALF_CLOSE,
    CLOSED: StreamAction.CLOSE,
}
SERVER_ACTIONS = {**CLIENT_ACTIONS, DONE: StreamAction.CLOSE}  # §7.1.1: the server closes first

# What the reader is at. Numbers, since each message stores one of them.
WAITING = 0  # it has asked for a message, or never has
WORKING = 1  # it took a message, and has neither sent anything since nor asked for another
ANSWERED = 2  # it took a message and something was sent since, perhaps a part of the answer


class Lifecycle:
    """Where one connection stands, and how it ends.

    Attributes:
        close_timeout: seconds from the peer's end or our Close to the end of the stream.
        since: when the peer's end came or, later, when our Close was sent.
        lost_at: when the stream is given up, None before ``since`` and once it has ended.
        stream_action: what should be done to the stream now.
        peer_end: the peer's Close, or its violation, from when it comes to when it takes effect.
        ending: how the connection ended, None while it has not.
        settled: ``ending`` is final. The first end counts; only the loss of the stream gives
            way, to an end that had come before it and is parsed after it.
        lost: the stream has ended.
        over: nothing that the peer sends from now on can matter.
        sent, received: the Close frames exchanged so far.
    """

    __slots__ = (
        "_actions",
        "_by_peer",
        "_traceback",
        "close_timeout",
        "ending",
        "lost",
        "lost_at",
        "over",
        "peer_end",
        "received",
        "sent",
        "settled",
        "since",
        "state",
        "stream_action",
    )

    def __init__(self, role: Role, close_timeout: float) -> None:
        self.close_timeout = close_timeout
        self.state = OPEN
        self.since = 0.0
        self.lost_at: float | None = None
        self.over = False
        self.peer_end: Close | ProtocolError | None = None
        self.ending: BaseException | None = None
        self.sent: Close | None = None
        self.received: Close | None = None
        self.settled = False
        self.lost = False
        self._actions = SERVER_ACTIONS if role is SERVER else CLIENT_ACTIONS
        self.stream_action = self._actions[OPEN]
        self._by_peer = False  # its Close came before ours
        self._traceback: TracebackType | None = None

    def on(self, event: Event, now: float) -> State:
        """Move to what follows ``event``; one the table does not know is a bug of ours."""
        following = NEXT[self.state].get(event)
        if following is None:
            raise RuntimeError(f"{event.value} cannot happen while {self.state.value}")
        if following in HELD or event is SENT_CLOSE:
            self.since = now
            self.lost_at = now + self.close_timeout
        elif following is CLOSED:
            self.lost_at = None
        self.stream_action = self._actions[following]
        self.state = following  # last: an interrupt before it leaves all to be done again
        return following

    # What happens

    def note_peer_end(self, end: Close | ProtocolError, now: float) -> None:
        """Take note of the peer's Close or violation, the first that comes."""
        if self.settled or self.peer_end is not None:
            return
        event = GOT_CLOSE if isinstance(end, Close) else VIOLATION
        self._by_peer = event is GOT_CLOSE and self.sent is None
        self.peer_end = end
        self.over = True
        if not self.lost:
            self.on(event, now)

    def apply_peer_end(self, now: float) -> CloseError:
        """Let the peer's end take effect and return how the connection ends by it.

        Where our Close is due then (``CLOSE_DUE``) it must be sent.
        """
        end = self.peer_end
        assert end is not None  # or there is nothing to apply
        if self.state in HELD:
            self.on(READER_DONE, now)
        ending: CloseError
        if isinstance(end, Close):
            self.received = end
            ending = CloseError(*end, sent=self.sent, received=end, by_peer=self._by_peer)
        else:
            ending = end
        self.end_with(ending)
        self.peer_end = None
        return ending

    def fault(self, error: BaseException, now: float) -> bool:
        """End with an error of ours; return True if the peer must be told so by a Close."""
        if self.settled or not self.is_fault(error):
            return False
        if isinstance(self.peer_end, Close):
            self.received = self.peer_end
        self.end_with(error)
        told = not self.lost and self.on(FAULT, now) in MAY_SEND_CLOSE
        self.peer_end = None
        return told

    def sent_close(self, close: Close, now: float) -> None:
        """Take note that our Close is on its way."""
        self.on(SENT_CLOSE, now)
        self.sent = close

    def lose(self, why: str, now: float) -> None:
        """Take note that the stream has ended: nothing more can be read from it or written."""
        if self.state is not CLOSED:
            self.on(GOT_EOF, now)
        self.lost = self.over = True
        if self.ending is None:
            self.ending = CloseError(1006, why, sent=self.sent)

    def end_with(self, error: BaseException) -> None:
        """Set how the connection ended, for good."""
        self.ending = error
        self.settled = self.over = True
        self._traceback = error.__traceback__

    # What follows

    def is_fault(self, error: BaseException) -> bool:
        """Return whether a handler that raised ``error`` is to blame for it."""
        # What a handler writes after a Close fails, and that is not its fault.
        return self.state in MAY_SEND or not isinstance(error, CloseError)

    def held_until(self, reader: int, taken_at: float, unread: bool) -> float:
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
        return min(until, self.since + self.close_timeout / 2)

    def raisable(self) -> BaseException:
        """Return ``ending`` to be raised once more; its traceback does not grow by that."""
        assert self.ending is not None  # or there is nothing to raise
        return self.ending.with_traceback(self._traceback)

    def closed_error(self) -> BaseException:
        """Return the error of a write that comes too late."""
        if self.sent is None:
            return self.raisable()
        code, reason = self.received or self.sent
        return ErrCloseSent(
            code, reason, sent=self.sent, received=self.received, by_peer=self._by_peer
        )


def answer_to(ending: CloseError) -> Close:
    """Return the Close that answers the peer's end."""
    if ending.received is None:
        return Close(ending.code, shorten(str(ending)))  # a violation: the peer is told which
    return Close(ending.code, "")  # §5.5.1: the answer typically echoes the code received
