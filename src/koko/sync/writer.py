"""Writes what the core owes, from any thread: whose turn it is, and what is late.

A thread that wants to write waits for its turn before it owes anything; what it then owes
it writes whole, or else the connection is over. Threads wait here, never with the lock held.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from threading import get_ident
from typing import Protocol

from koko.broadcasting import Patience
from koko.core.connection import Connection
from koko.core.outbox import GATHER
from koko.core.outgoing import Outgoing
from koko.message import Kind
from koko.sync.clock import Clock, earliest
from koko.sync.message_lock import MessageLock
from koko.sync.monitor import FRAME, Monitor, News, Role, Turns
from koko.sync.transport import WRITE, Stream, is_broken

_STUCK = "the peer reads too slowly; nothing was sent"
_BUSY = "another message is still being written; nothing was sent"
_ROOM, _BROKEN = "room", "broken"  # what else than a ticket there is to wait for
_CUT = "a message was cut off in the middle by the timeout of its write"


class Late(TimeoutError):
    """Ours: what a signal handler raises meanwhile may be a ``TimeoutError`` as well."""


class Ends(Protocol):
    """Who ends the connection."""

    closed: bool

    def settle(self) -> None: ...
    def apply_stream_action(self) -> None: ...
    def check_nested(self, verb: str) -> None: ...
    def broken(self, error: OSError) -> None: ...
    def abort(self, why: str) -> None: ...
    def settled_error(self) -> BaseException: ...


class Writer:
    """Who writes, and who waits to.

    Attributes:
        turn: the threads that wait for another's message to be out.
        mute: nothing can be written any more.
        patience: how long broadcasts may still wait for this connection.
    """

    def __init__(
        self,
        core: Connection,
        stream: Stream,
        turns: Turns,
        monitor: Monitor,
        message_lock: MessageLock,
        ends: Ends,
        clock: Clock,
    ) -> None:
        self.message_lock = message_lock
        self.turn = News(clock)
        self.mute = False
        self.patience = Patience()
        self._core = core
        self._stream = stream
        self._turns = turns
        self._monitor = monitor
        self._ends = ends
        self._clock = clock

    # What a Conn calls

    def write(self, timeout: float | None, owe: Callable[..., object], *what: object) -> None:
        """Owe a message and write it, whole, when it is our turn.

        What does not get its turn in time was never owed. What is cut off in the middle
        ends the connection: nothing can be sent behind half a frame.
        """
        if self._monitor.nested:  # the reader that called the handler writes it
            if self.message_lock.holder:
                self.message_lock.defer(partial(owe, *what))
            else:
                owe(*what)
            return
        deadline = None
        if timeout is not None or self._turns.write_deadline is not None:
            deadline = self.write_by(timeout)
        corked = deadline is None and self._turns.corked_by == get_ident()
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
            self._in_turn(None, self._gather)

    def write_rest(self) -> None:
        """Write, whole, what is owed already."""
        self._in_turn(None, int)

    def write_by(self, timeout: float | None) -> float | None:
        """Return when a write that begins now must be done, None for never."""
        if self.too_late:
            raise Late("write_deadline had passed before anything was written")
        return earliest(self._clock.deadline_in(timeout), self._turns.write_deadline)

    @property
    def too_late(self) -> bool:
        """True when no message may begin any more."""
        deadline = self._turns.write_deadline
        return deadline is not None and self._clock.now() >= deadline

    def open_message(self, kind: Kind, timeout: float | None, owner: int) -> Outgoing:
        """Begin a message that is written in parts, when no other is being written."""
        self._ends.check_nested("next_writer")
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
            self._monitor.call(self._ends.apply_stream_action)

    def owe(self, owe: Callable[..., object], *what: object) -> None:
        """Owe something and write what of it leaves at once."""
        if self._monitor.nested:
            owe(*what)
        else:
            self._monitor.call(self._owe, owe, *what)

    # With the lock held

    def flush(self) -> None:
        """Write what is owed as far as it leaves at once."""
        if self.mute:
            return
        turns, stream = self._turns, self._stream
        before = turns.under_way
        if not stream.steady:
            turns.under_way = FRAME
        try:
            # Behind what is stuck nothing is added: the core bounds the pongs that it owes.
            if (not stream.pending or stream.flush()) and self._core.owed:
                stream.write(self._core.owed)
        except OSError as error:
            if not is_broken(error):
                raise
            turns.under_way = before
            self._ends.broken(error)
        turns.under_way = before

    @property
    def has_room(self) -> bool:
        """True when a message that begins now is behind nobody else's."""
        return self._turns.writer is None and not self._stream.pending

    def look_after(self) -> None:
        """End the message of a writer that was collected as garbage."""
        lock = self.message_lock
        if lock.dropped and lock.message is not None:
            self._leave_message(lock.message)

    def _owe(self, owe: Callable[..., object], *what: object) -> None:
        owe(*what)
        self.flush()
        if self._core.ending is not None:
            self._ends.apply_stream_action()

    def _open_message(self, kind: Kind, owner: int) -> object:
        if self._is_another_in_the_way():
            return self.turn.ticket()
        message = self._core.start_message(kind)
        self.message_lock.take(message, owner)
        return message

    def _is_another_in_the_way(self) -> bool:
        self.look_after()
        if not self.message_lock.in_the_way:
            return False
        self.message_lock.check_own()
        return True

    def _end_message(self, message: Outgoing) -> None:
        message.end()
        self._leave_message(message)

    def _leave_message(self, message: Outgoing) -> None:
        if self.message_lock.message is message:
            message.cut(self._clock.now())
            self.message_lock.leave()
            self.turn.tell()

    def _gather(self) -> None:
        self._turns.gathered = 0

    # How a turn is taken: without the lock

    def _in_turn(
        self,
        deadline: float | None,
        owe: Callable[[], object],
        whole: bool = False,
        corked: bool = False,
    ) -> None:
        turns, mine = self._turns, [get_ident()]
        try:
            while ticket := self._monitor.call(self._begin, mine, deadline, owe, whole, corked):
                if ticket is _BROKEN:
                    raise self._ends.settled_error()
                if ticket is not _ROOM:
                    self._wait(ticket, deadline, _BUSY if self.message_lock.holder else _STUCK)
                elif not self._await_room(deadline):
                    self._monitor.call(self._leave_turn, mine)
                    raise Late(_STUCK)
            while turns.writer is mine:
                in_time = self._await_room(deadline)
                if self._monitor.call(self._go_on, mine, in_time):
                    raise self._ends.settled_error() if in_time else self._core.closed_error()
        finally:
            if turns.writer is mine:
                turns.writer = None

    def _await_room(self, deadline: float | None) -> bool:
        try:
            return bool(self._stream.wait(WRITE, self._clock.time_left(deadline)))
        except OSError as error:
            if not is_broken(error):
                raise
            return True  # the write that follows finds out

    def _wait(self, ticket: threading.Lock, deadline: float | None, why: str) -> None:
        if deadline is not None and self._clock.now() >= deadline:
            raise Late(why)
        self.turn.wait(ticket, self._clock.time_left(deadline))

    # How a turn is taken: with the lock

    def _begin(
        self,
        mine: Role,
        deadline: float | None,
        owe: Callable[[], object],
        whole: bool,
        corked: bool,
    ) -> object:
        """Owe something when it is our turn, else return what to wait for."""
        turns = self._turns
        if whole and self.message_lock.holder and self._is_another_in_the_way():
            return self.turn.ticket()
        if turns.writer not in (None, mine) and not self.mute:
            return self.turn.ticket()
        if deadline is not None and self._stream.pending and not self.mute:
            turns.writer = mine
            self._note_room()
            return _ROOM
        over = self._core.ending is not None
        owe()
        if corked:
            turns.gathered += len(self._core.owed[-1])
            if turns.gathered < GATHER:
                return None
            turns.gathered = 0
        self.flush()
        if self.mute and not over:
            self._leave_turn(mine)
            return _BROKEN
        if self._stream.pending and not self.mute:
            turns.writer = mine
        else:
            self._leave_turn(mine)
        return None

    def _go_on(self, mine: Role, in_time: bool) -> bool:
        """Write more of what was owed; True where that is the end, as too late it is."""
        if not in_time:
            self._ends.abort(_CUT)
        else:
            self._note_room()
        if self.mute or not self._stream.pending:
            self._leave_turn(mine)
        return self.mute

    def _leave_turn(self, mine: Role) -> None:
        if self._turns.writer is mine:
            self._turns.writer = None
        self._pass_on()

    def _note_room(self) -> None:
        pending = self._stream.pending
        self.flush()
        if self._stream.pending < pending:
            self._core.keepalive.taken_at = self._clock.now()

    def _pass_on(self) -> None:
        if self._core.ending is not None:
            self._ends.apply_stream_action()
        if self._turns.writer is None:
            self.turn.tell()
