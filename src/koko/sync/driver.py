"""Moves bytes between a socket and the core, and lets threads take turns at it.

One lock guards the core; no thread ever waits for the peer while holding it. Two
roles are held meanwhile: at most one thread reads the socket and at most one waits
for room in it. Whoever wants something from the peer - a message, a pong, a Close -
becomes the reader if there is none and else waits for what the reader finds, so
that no connection needs a thread of its own. A reader that owes something writes
what leaves at once and never waits behind a writer: two peers whose pipes are full
would wait for each other for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property
from threading import get_ident
from time import monotonic
from typing import Any

from koko.core.connection import Connection, Parting, Ping
from koko.core.keepalive import Backlog
from koko.core.lifecycle import State
from koko.send_queue import backlog_on
from koko.sync.housekeeper import housekeeper
from koko.sync.locks import retake
from koko.sync.transport import READ, WRITE, Stream, broken_by, deadline_in, earliest, time_left
from koko.sync.writing import Writing

_GLANCE = 4  # reads of the housekeeper's in one round: a peer that floods is not its only one
_STAY = 1.0  # seconds that a thread woken by the end of the socket may take to leave it


class Driver(Writing):
    """The private half of a ``Conn``: its lock, its roles, its socket."""

    def __init__(self, core: Connection, stream: Stream, early: bytes = b"") -> None:
        super().__init__(core, stream)
        self.closed = False
        self._half_closed = False
        self._why = "the peer's stream ended without a Close"
        if early:  # what the peer said right behind its handshake
            core.feed(early, monotonic())
        housekeeper.keep(self)

    # What a Conn calls

    def receive(
        self, timeout: float | None, take: Callable[[], Any], what: str = "no message"
    ) -> Any:
        """Return what ``take`` finds as soon as it does, or raise how the connection ended."""
        core = self.core
        with self.lock:
            if self._receiver or self.handling:
                raise self._not_now("recv")
            self._receiver = get_ident()
            try:
                deadline = None if timeout is None else deadline_in(timeout)
                while (found := take()) is None:
                    if self._gathered and self.corked_by == self._receiver:
                        self.write_gathered()
                    elif not self.await_news(earliest(deadline, self.read_deadline)):
                        self._check_late(what, timeout, deadline)
                return found
            finally:
                self._receiver = 0
                if core.owed and not self._gathered:
                    self.flush()
                if core.ending is not None:
                    self.part()

    def ping(self, payload: bytes | None, timeout: float | None) -> float:
        """Send a ping, wait for its pong and return the seconds between."""
        core = self.core
        deadline = deadline_in(timeout)
        sent: list[Ping] = []
        with self.lock:
            if self.handling:
                raise self._not_now("ping")
        self.write_between(deadline, lambda: sent.append(core.start_ping(payload, monotonic())))
        with self.lock:
            while (round_trip := sent[0].round_trip) is None:
                if core.ending is not None:
                    raise core.ending
                if not self.await_news(deadline):
                    raise TimeoutError(f"no pong came within {timeout:g} s")
            return round_trip

    def _check_late(self, what: str, timeout: float | None, deadline: float | None) -> None:
        now = monotonic()
        if deadline is not None and now >= deadline:
            raise TimeoutError(f"{what} came within {timeout:g} s")
        # A handler of pongs may have put it off meanwhile.
        if self.read_deadline is not None and now >= self.read_deadline:
            raise TimeoutError(f"{what} came before read_deadline")

    def wait_closed(self, timeout: float | None) -> None:
        """Wait until the socket has been given back."""
        with self.lock:
            if self.handling:
                raise self._not_now("wait_closed")
            deadline = deadline_in(timeout)
            while not self.closed:
                if not self.await_news(deadline):
                    raise TimeoutError(f"the connection was not over within {timeout:g} s")

    def start_close(self, code: int, reason: str) -> None:
        """Send a Close unless it is too late for one; wait for nothing."""
        with self.lock:
            if self.core.may_send:
                self.core.start_close(code, reason, monotonic())
            self.part()

    def finish(self, timeout: float) -> None:
        """Wait for the peer's end of the closing handshake, at most so long, and let go."""
        core = self.core
        with self.lock:
            if self.handling:
                return
            deadline = monotonic() + timeout
            while not self.closed and core.state is not State.CLOSED:
                if core.full:
                    core.discard_new()  # the peer's Close is behind it
                if not self.await_news(deadline):
                    self.abort(f"no answer within {timeout:g} s")
                self.part()
            while not self.closed and self._wait(self._news, monotonic() + _STAY):
                pass

    def abort(self, why: str) -> None:
        """Drop the socket at once."""
        with self.lock:
            self.core.feed_eof(monotonic(), why)
            self.part()

    def call_handler(self, handler: Callable[..., object], *args: object) -> None:
        """Call what the application put in a default's place."""
        self.handling = True
        try:
            handler(*args)
        finally:
            self.handling = False

    # What the housekeeper calls

    def look_after(self, now: float) -> None:
        """Do what time makes due; read in the place of an application that does not."""
        if not self.lock.acquire(blocking=False):
            return  # busy, and so in no need of care
        try:
            core = self.core
            listening = self._reading or not self._has_enough
            if not self._reading:
                self._read_what_is_there(_GLANCE)
            due_at = core.due_at
            if due_at is not None and now >= due_at:
                core.tick(now, listening, self._backlog)
            if core.owed or self.stream.pending:
                self.flush()
            if self.message_lock.dropped and self.message_lock.message is not None:
                self.leave_message(self.message_lock.message, whole=False)
            if core.ending is not None:
                self.part()
            if self._followers:
                self._news.notify_all()
        finally:
            self.lock.release()

    # How it works inside; the lock is held on entry and on exit

    # A condition is 1 KB, and where one thread does everything nobody waits in it.
    @cached_property
    def _news(self) -> threading.Condition:
        return threading.Condition(self.lock)

    def await_news(self, deadline: float | None) -> bool:
        """Read once, or wait until another thread has; False when the deadline has passed."""
        core = self.core
        if self._reading or (core.inbox.unread and self._has_enough):
            return self._wait(self._news, deadline)
        self._reading = True
        octets = None
        self.lock.release()
        try:
            octets = self._read(None if deadline is None else time_left(deadline))
        finally:
            interrupt = retake(self.lock.acquire)
            self._reading = False
            if self._followers:
                self._news.notify_all()
        self._take(octets)
        if interrupt is not None:
            raise interrupt
        # What is there is read though no time is left, but not as long as a flood goes on.
        grace = 0.0 if octets is None else _STAY
        return deadline is None or monotonic() < deadline + grace

    def _wait(self, condition: threading.Condition, deadline: float | None) -> bool:
        self._followers += 1
        try:
            return condition.wait(time_left(deadline))
        finally:
            self._followers -= 1

    def _read(self, timeout: float | None) -> bytes | None:
        """Return what the socket has, b"" at the end, None for nothing. Needs no lock."""
        stream = self.stream
        try:
            # What a reader could not write at once it writes when there is room.
            if stream.pending and not stream.wait(READ | WRITE, timeout) & READ:
                return None
            return stream.recv(timeout)
        except OSError as error:
            self._why = broken_by(error)
            return b""

    def _take(self, octets: bytes | None) -> None:
        core = self.core
        if octets:
            core.feed(octets, monotonic())
        elif octets is not None:
            core.feed_eof(monotonic(), self._why)
        if core.owed or self.stream.pending:
            self.flush()
        if core.ending is not None:
            self.part()

    @property
    def _has_enough(self) -> bool:
        """True when no more should be read until somebody receives; what nobody will is dropped."""
        return self.core.full and self.core.ending is None

    @property
    def _backlog(self) -> Backlog:
        return backlog_on(self.stream.socket.fileno(), self.stream.pending)

    def _read_what_is_there(self, reads: int) -> None:
        while reads and not self.closed and not self._has_enough:
            octets = self._read(0)
            self._take(octets)
            reads = reads - 1 if octets else 0

    def _break(self, error: OSError) -> None:
        """Give up writing: what the peer said before is still read, then it is over."""
        self._mute = True
        self._why = broken_by(error)
        self.stream.shutdown()  # a thread that reads finds what is left, then the end
        if not self._reading:
            self._read_what_is_there(1 << 8)
            self.core.feed_eof(monotonic(), self._why)

    def _settled_error(self) -> BaseException:
        """Return how it ended, once the reader has seen the end."""
        core = self.core
        while self._reading and core.state is not State.CLOSED:
            if not self._wait(self._news, monotonic() + _STAY):
                break
        core.feed_eof(monotonic(), self._why)
        return core.closed_error()

    def part(self) -> None:
        """Do to the socket what the state of the connection asks for; wait for nothing."""
        self.flush()
        core = self.core
        if self.message_lock.holder and core.state is not State.OPEN:
            self.message_lock.wake()
        parting = core.parting
        if core.state is not State.CLOSED and (core.owed or self.stream.pending or self._writing):
            return
        if parting is Parting.DROP:
            self._drop()
        elif parting is Parting.HALF and not self._half_closed:
            self._half_closed = True
            self.stream.end()

    def _drop(self) -> None:
        if not self._mute:
            if self.core.state is not State.CLOSED:
                self.stream.end()
                self.core.feed_eof(monotonic())
            self._mute = True
            self.stream.shutdown()  # and whoever is inside comes out
            if self._followers:
                self._news.notify_all()
        # A number given back while a thread is inside might already be another's socket.
        if not self.closed and not self._reading and not self._writing:
            self.closed = True
            self.stream.close()
            housekeeper.forget(self)
            if self._followers:
                self._news.notify_all()
            if self._queued:
                self._turn.notify_all()

    def _not_now(self, verb: str) -> RuntimeError:
        if self.handling:
            return RuntimeError(
                f"{verb}() called from a handler would wait for the thread that it runs in; "
                "do it in another thread"
            )
        threads = threading.enumerate()
        name = next((thread.name for thread in threads if thread.ident == self._receiver), "?")
        return RuntimeError(
            f"recv() is already running in thread {name!r}; "
            "one receiver per connection (share messages through a queue)"
        )
