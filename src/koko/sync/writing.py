"""Writes what the core owes, from any thread: whose turn it is, and what is late.

The writing half of ``Driver``. A thread that wants to write waits for its turn before it
owes anything; what it then owes it writes whole, or else the connection is over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property, partial
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING

from koko.core.outbox import GATHER
from koko.core.outgoing import Outgoing
from koko.message import Kind
from koko.sync.locks import retake
from koko.sync.reflex import Reflex
from koko.sync.transport import WRITE, deadline_in, earliest, time_left


class Writing(Reflex):
    """Who writes, and who waits to."""

    if TYPE_CHECKING:  # what it stands on

        def part(self) -> None: ...
        def abort(self, why: str) -> None: ...
        def _break(self, error: OSError) -> None: ...
        def _settled_error(self) -> BaseException: ...
        def _not_now(self, verb: str) -> RuntimeError: ...

    # What a Conn calls

    def write(self, timeout: float | None, owe: Callable[..., object], *what: object) -> None:
        """Owe a message and write it, whole, when it is our turn.

        What does not get its turn in time was never owed. What is cut off in the middle
        ends the connection: nothing can be sent behind half a frame.
        """
        with self.lock:
            if self.handling:  # the reader that called the handler writes it
                if self.message_lock.holder:
                    self.message_lock.defer(partial(owe, *what))
                else:
                    owe(*what)
                return
            deadline = None
            if timeout is not None or self.write_deadline is not None:
                deadline = self.write_by(timeout)
            if self.message_lock.holder:
                self.message_lock.wait(deadline)
            if deadline is None and self.corked_by == get_ident():
                owe(*what)
                self._gathered += len(self.core.owed[-1])
                if self._gathered >= GATHER:
                    self.write_gathered()
            else:
                self._write(deadline, owe, *what)

    def write_between(
        self, deadline: float | None, owe: Callable[..., object], *what: object
    ) -> None:
        """Owe control frames, or a part of the message being written, and write them."""
        with self.lock:
            if self.handling:
                owe(*what)
            else:
                self._write(deadline, owe, *what)

    def write_by(self, timeout: float | None) -> float | None:
        """Return when a write that begins now must be done, None for never."""
        if self.too_late:
            raise TimeoutError("write_deadline had passed before anything was written")
        return earliest(deadline_in(timeout), self.write_deadline)

    @property
    def too_late(self) -> bool:
        """True when no message may begin any more."""
        deadline = self.write_deadline
        return deadline is not None and monotonic() >= deadline

    def open_message(self, kind: Kind, timeout: float | None) -> Outgoing:
        """Begin a message that is written in parts, when no other is being written."""
        with self.lock:
            if self.handling:
                raise self._not_now("next_writer")
            self.message_lock.wait(self.write_by(timeout))
            message = self.core.start_message(kind)
            self.message_lock.take(message)
            return message

    def leave_message(self, message: Outgoing, whole: bool) -> None:
        """Let others send; a message that is not whole ends the connection if it had begun."""
        with self.lock:
            if self.message_lock.message is not message:
                return
            if not whole:
                message.cut(monotonic())
            self.message_lock.leave()
            if not self.handling:
                self.part()

    def write_gathered(self) -> None:
        """Write, whole, what was gathered. The lock is held, once."""
        self._gathered = 0
        try:
            if self._writing:
                self._await_turn(None)
            if self.core.owed and self.core.ending is None:
                self._write_owed(None)
        finally:
            if self._queued:
                self._turn.notify()

    def owe(self, owe: Callable[..., object], *what: object) -> None:
        """Owe something and write what of it leaves at once."""
        with self.lock:
            owe(*what)
            if not self.handling:
                self.flush()
                if self.core.ending is not None:
                    self.part()

    # How it works inside; the lock is held on entry and on exit

    # A condition is 1 KB, and where one thread does everything nobody waits in it.
    @cached_property
    def _turn(self) -> threading.Condition:
        return threading.Condition(self.lock)

    def _write(self, deadline: float | None, owe: Callable[..., object], *what: object) -> None:
        core = self.core
        try:
            if self._writing or deadline is not None:
                self._await_turn(deadline)
            owe(*what)
            if core.owed:
                self._write_owed(deadline)
        finally:
            self._pass_turn()

    def _pass_turn(self) -> None:
        if self.core.ending is not None:
            self.part()
        if self._queued:
            self._turn.notify()

    def write_rest(self) -> None:
        """Write, whole, what is left of a message that is owed already."""
        try:
            self._write_owed(None)
        finally:
            self._pass_turn()

    def flush(self) -> None:
        """Write what is owed as far as it leaves at once; a waiting writer does the rest."""
        if self._writing or self._mute:
            return
        try:
            # Behind what is stuck nothing is added: the core bounds the pongs that it owes.
            if (not self.stream.pending or self.stream.flush()) and self.core.owed:
                self.stream.write(self.core.take_owed())
        except OSError as error:
            self._break(error)

    def _write_owed(self, deadline: float | None) -> None:
        try:
            if not self.stream.write(self.core.take_owed()):
                self._drain(deadline)
        except OSError as error:
            self._break(error)
            raise self._settled_error() from error

    def _await_turn(self, deadline: float | None) -> None:
        while not self._mute:
            if self._writing:
                self._queued += 1
                try:
                    in_time = self._turn.wait(time_left(deadline))
                finally:
                    self._queued -= 1
            elif deadline is None:
                return
            else:
                in_time = self._await_room(deadline)
                if in_time and not self.stream.pending:
                    return
            if not in_time:
                self.flush()  # what a reader left to us, because we seemed to be writing
                raise TimeoutError("the peer reads too slowly; nothing was sent")

    def _drain(self, deadline: float | None) -> None:
        while self.stream.pending and not self._mute:
            if not self._await_room(deadline):
                self.abort("a message was cut off in the middle by the timeout of its write")
                raise self.core.closed_error()
            if self.core.owed:
                self.flush()
        if self._mute:
            raise self._settled_error()

    def _await_room(self, deadline: float | None) -> bool:
        """Wait, as the one who writes, until the socket takes more, and pass on what is pending."""
        self._writing = True
        self.lock.release()
        try:
            ready = self.stream.wait(WRITE, time_left(deadline))
        finally:
            interrupt = retake(self.lock.acquire)
            self._writing = False
        if ready and self.stream.pending and not self._mute:
            self.core.keepalive.taken_at = monotonic()
            try:
                self.stream.flush()
            except OSError as error:
                self._break(error)
        if interrupt is not None:
            raise interrupt
        return bool(ready)
