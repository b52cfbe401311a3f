"""Writes what threads send: one thread at a time, whole messages, in time or not at all.

A thread that wants to write waits for its turn before it owes anything. What it then owes
it writes whole, or else the connection ends. Threads wait here, never with the lock held.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from threading import get_ident

from koko.broadcasting import Patience
from koko.core.lifecycle import State
from koko.core.outbox import GATHER
from koko.core.outgoing import Outgoing
from koko.message import Kind
from koko.sync.clock import earliest
from koko.sync.link import Link
from koko.sync.monitor import Monitor, Role
from koko.sync.transport import WRITE, is_broken

_STUCK = "the peer reads too slowly; nothing was sent"
_BUSY = "another message is still being written; nothing was sent"
_ROOM, _BROKEN = "room", "broken"  # what ``_begin`` returns beside a ticket
_CUT = "a message was cut off in the middle by the timeout of its write"


class Late(TimeoutError):
    """Ours: what a signal handler raises meanwhile may be a ``TimeoutError`` as well."""


class Writer:
    """The verbs that send, and how a thread waits to write.

    Attributes:
        patience: how long broadcasts may still wait for this connection.
    """

    def __init__(self, link: Link, monitor: Monitor) -> None:
        self.patience = Patience()
        self._link = link
        self._monitor = monitor
        self._lock = link.message_lock
        self._clock = link.clock

    # What a Conn calls

    def write(self, timeout: float | None, owe: Callable[..., object], *what: object) -> None:
        """Owe a message and write it, whole, when it is our turn.

        A message whose turn does not come in time was never owed. One that is cut off in
        the middle ends the connection: nothing can be sent behind half a frame.
        """
        if self._monitor.nested:  # the reader that called the handler writes it
            if self._lock.message is not None:
                self._lock.defer(partial(owe, *what))
            else:
                owe(*what)
            return
        deadline = None
        if timeout is not None or self._lock.deadline is not None:
            deadline = self.write_by(timeout)
        corked = deadline is None and self._link.turns.corked_by == get_ident()
        self._in_turn(deadline, partial(owe, *what), whole=True, corked=corked)

    def write_between(
        self, deadline: float | None, owe: Callable[..., object], *what: object
    ) -> None:
        """Owe control frames, or a part of the message being written, and write them."""
        if self._monitor.nested:
            owe(*what)
        else:
            self._in_turn(deadline, partial(owe, *what))

    def write_gathered(self) -> None:
        """Write, whole, what was gathered."""
        if not self._monitor.nested:
            self._in_turn(None, self._end_gathering)

    def write_rest(self) -> None:
        """Write, whole, what is owed already."""
        self._in_turn(None, int)

    def write_by(self, timeout: float | None) -> float | None:
        """Return when a write that begins now must be done, None for never."""
        if self.too_late:
            raise Late("write_deadline had passed before anything was written")
        return earliest(self._clock.deadline_in(timeout), self._lock.deadline)

    @property
    def too_late(self) -> bool:
        """True when no message may begin any more."""
        deadline = self._lock.deadline
        return deadline is not None and self._clock.now() >= deadline

    def open_message(self, kind: Kind, timeout: float | None, owner: int) -> Outgoing:
        """Begin a message that is written in parts, when no other is being written."""
        self._monitor.check_nested("next_writer")
        deadline = self.write_by(timeout)
        while True:
            begun = self._monitor.call(self._open_message, kind, owner)
            if isinstance(begun, Outgoing):
                return begun
            self._wait(begun, deadline, _BUSY)

    def end_message(self, message: Outgoing) -> None:
        """Owe the end of a message that was written in parts, let others send, and write it."""
        self.write_between(self.write_by(None), self._end_message, message)

    def leave_message(self, message: Outgoing) -> None:
        """Let others send; a message that is not whole ends the connection if it had begun."""
        nested = self._monitor.nested
        self._monitor.call(self._leave_message, message)
        if not nested:
            self._monitor.call(self._link.apply_stream_action)

    def owe(self, owe: Callable[..., object], *what: object) -> None:
        """Owe something and write what of it leaves at once."""
        if self._monitor.nested:
            owe(*what)
        else:
            self._monitor.call(self._owe, owe, *what)

    # With the lock held

    def _owe(self, owe: Callable[..., object], *what: object) -> None:
        owe(*what)
        self._link.flush()
        if self._link.core.ending is not None:
            self._link.apply_stream_action()

    def _open_message(self, kind: Kind, owner: int) -> object:
        if self._must_wait():
            return self._lock.waiting.ticket()
        message = self._link.core.start_message(kind)
        self._lock.pass_to(message, owner)
        return message

    def _must_wait(self) -> bool:
        self._lock.leave_dropped(self._clock.now())
        return self._lock.locked()

    def _end_message(self, message: Outgoing) -> None:
        message.end()
        self._leave_message(message)

    def _leave_message(self, message: Outgoing) -> None:
        self._lock.leave(message, self._clock.now())

    def _end_gathering(self) -> None:
        self._link.gathered = 0

    # How a turn is taken: without the lock

    def _in_turn(
        self,
        deadline: float | None,
        owe: Callable[[], object],
        whole: bool = False,
        corked: bool = False,
    ) -> None:
        turns, mine = self._link.turns, [get_ident()]
        try:
            while ticket := self._monitor.call(self._begin, mine, deadline, owe, whole, corked):
                if ticket is _BROKEN:
                    raise self._settled_error()
                if ticket is not _ROOM:
                    self._wait(ticket, deadline, _STUCK if self._lock.message is None else _BUSY)
                elif not self._await_room(deadline):
                    self._monitor.call(self._leave_turn, mine)
                    raise Late(_STUCK)
            while turns.writer is mine:
                in_time = self._await_room(deadline)
                if self._monitor.call(self._go_on, mine, in_time):
                    raise self._settled_error() if in_time else self._link.core.closed_error()
        finally:
            if turns.writer is mine:
                turns.writer = None

    def _await_room(self, deadline: float | None) -> bool:
        try:
            return bool(self._link.stream.wait(WRITE, self._clock.time_left(deadline)))
        except OSError as error:
            if not is_broken(error):
                raise
            return True  # the write that follows finds out

    def _wait(self, ticket: threading.Lock, deadline: float | None, why: str) -> None:
        if deadline is not None and self._clock.now() >= deadline:
            raise Late(why)
        self._lock.waiting.wait(ticket, self._clock.time_left(deadline))

    def _settled_error(self) -> BaseException:
        """Return how it ended; a thread that reads finds out what the peer said last."""
        link = self._link
        self._monitor.give_time(
            lambda: link.turns.reader is None or link.core.state is State.CLOSED, link.news
        )
        self._monitor.call(link.abort, link.why)
        return link.core.closed_error()

    # How a turn is taken: with the lock

    def _begin(
        self,
        mine: Role,
        deadline: float | None,
        owe: Callable[[], object],
        whole: bool,
        corked: bool,
    ) -> object:
        """Owe something if it is our turn, else return what to wait for."""
        link, turns = self._link, self._link.turns
        if whole and self._lock.message is not None and self._must_wait():
            return self._lock.waiting.ticket()
        if turns.writer not in (None, mine) and not link.mute:
            return self._lock.waiting.ticket()
        if deadline is not None and link.stream.pending and not link.mute:
            turns.writer = mine
            self._note_room()
            return _ROOM
        over = link.core.ending is not None
        owe()
        if corked:
            link.gathered += len(link.core.owed[-1])
            if link.gathered < GATHER:
                return None
            link.gathered = 0
        link.flush()
        if link.mute and not over:
            self._leave_turn(mine)
            return _BROKEN
        if link.stream.pending and not link.mute:
            turns.writer = mine
        else:
            self._leave_turn(mine)
        return None

    def _go_on(self, mine: Role, in_time: bool) -> bool:
        """Write more of what was owed; return True if the connection has ended."""
        link = self._link
        if not in_time:
            link.abort(_CUT)
        else:
            self._note_room()
        if link.mute or not link.stream.pending:
            self._leave_turn(mine)
        return link.mute

    def _leave_turn(self, mine: Role) -> None:
        link, turns = self._link, self._link.turns
        if turns.writer is mine:
            turns.writer = None
        if link.core.ending is not None:
            link.apply_stream_action()
        if turns.writer is None:
            self._lock.waiting.tell()

    def _note_room(self) -> None:
        stream = self._link.stream
        pending = stream.pending
        self._link.flush()
        if stream.pending < pending:
            self._link.core.keepalive.taken_at = self._clock.now()
