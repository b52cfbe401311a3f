"""Reads what the peer sends, for all threads: who waits for the socket, and who for its finds.

Whoever wants something becomes the reader if there is none and else waits for what the
reader finds. Threads wait here, never with the lock held.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from threading import get_ident
from typing import Any

from koko.core.connection import Connection
from koko.core.incoming import CLOSED
from koko.core.lifecycle import State
from koko.sync.clock import Clock, earliest
from koko.sync.monitor import PARSING, READING, Monitor, News, Role, Turns
from koko.sync.transport import (
    READ,
    WRITE,
    Stream,
    broken_by,
    is_broken,
)
from koko.sync.writer import Ends, Writer

STAY = 1.0  # seconds that a flood, or a thread woken by the end of the socket, is still given
_READ, _WRITE = "read", "write"  # what a thread does that finds nothing, if it need not wait


class Reader:
    """Who receives, who reads, and who waits for that.

    Attributes:
        news: the threads that wait for what another reads.
        why: what the end of the stream means, as far as is known.
    """

    def __init__(
        self,
        core: Connection,
        stream: Stream,
        turns: Turns,
        monitor: Monitor,
        news: News,
        writer: Writer,
        ends: Ends,
        clock: Clock,
    ) -> None:
        self.news = news
        self.why = "the peer's stream ended without a Close"
        self._core = core
        self._stream = stream
        self._turns = turns
        self._monitor = monitor
        self._writer = writer
        self._ends = ends
        self._clock = clock

    # How a thread waits: without the lock

    def receive(
        self, timeout: float | None, take: Callable[[], Any], what: str = "no message"
    ) -> Any:
        """Return what ``take`` finds as soon as it does, or raise how the connection ended."""
        self._ends.check_nested("recv")
        turns, mine = self._turns, [get_ident()]
        deadline = self._clock.deadline_in(timeout)

        def late() -> None:
            if deadline is not None and self._clock.now() >= deadline:
                raise TimeoutError(f"{what} came within {timeout:g} s")
            raise TimeoutError(f"{what} came before read_deadline")

        try:
            self._monitor.call(self._begin_receiving, mine)
            # A handler of pongs may put the deadline off meanwhile.
            return self.wait_for(
                partial(self._look, take), lambda: earliest(deadline, turns.read_deadline), late
            )
        finally:
            if turns.receiver is mine:
                turns.receiver = None

    def wait_for(
        self,
        look: Callable[[], Any],
        until: Callable[[], float | None],
        late: Callable[[], object],
    ) -> Any:
        """Return what ``look`` finds, having waited for it; call ``late`` when it is too late."""
        turns, call, mine = self._turns, self._monitor.call, [get_ident()]
        while True:
            deadline, grace = until(), 0.0
            try:
                found, wait = call(self._look_or_wait, look, mine)
                if wait is _READ:
                    ready = self._await_bytes(self._clock.time_left(deadline))
                    found, came = call(self._read_for_all, ready, look)
                    # What is there is read though no time is left, but not all of a flood.
                    grace = STAY if came else 0.0
                elif wait is _WRITE:
                    self._writer.write_gathered()
                elif wait is not None:
                    self.news.wait(wait, self._clock.time_left(deadline))
            finally:
                if turns.reader is mine:
                    turns.reader = None
            if found is not None:
                return found
            deadline = until()
            if deadline is not None and self._clock.now() >= deadline + grace:
                late()

    def _await_bytes(self, timeout: float | None) -> int:
        # What a reader could not write at once it writes when there is room.
        events = READ | WRITE if self._stream.pending else READ
        try:
            return self._stream.wait(events, timeout)
        except OSError as error:
            if not is_broken(error):
                raise
            return READ  # the read that follows finds out

    # With the lock held

    def _look_or_wait(self, look: Callable[[], Any], mine: Role) -> tuple[Any, Any]:
        """Return what there is, or what to wait for: in one, or it might come in between."""
        found, turns = look(), self._turns
        if found is not None:
            return found, None
        if turns.gathered and turns.corked_by == mine[0]:
            return None, _WRITE
        if turns.reader is not None or self._core.state is State.CLOSED:
            return None, self.news.ticket()
        if not (self._core.inbox.unread and self.has_enough):
            turns.reader = mine
            return None, _READ
        return None, self.news.ticket()

    def _read_for_all(self, ready: int, look: Callable[[], Any]) -> tuple[Any, bool]:
        """Read, make room for another reader; return what ``look`` finds, and if bytes came."""
        octets = self.read(ready) if ready else None
        self._turns.reader = None
        self.tell()
        return look(), octets is not None

    def read(self, ready: int = READ) -> bytes | None:
        """Take what the socket has and act on it; None when it has nothing."""
        octets = None
        if ready & READ:
            self._turns.under_way = READING
            try:
                octets = self._stream.recv()
            except OSError as error:
                octets = self.failed(error)
        self.feed(octets)
        return octets

    def feed(self, octets: bytes | None) -> None:
        """Hand on what was read, b"" at the end, and write what is owed for it."""
        if octets:
            self.parse(partial(self._core.feed, octets, self._clock.now()))
        elif octets is not None:
            self._turns.under_way = READING
            self._core.feed_eof(self._clock.now(), self.why)
        self._turns.under_way = None
        if self._core.owed or self._stream.pending:
            self._writer.flush()

    def tell(self) -> None:
        """Let everybody look at what has changed."""
        if self._core.ending is not None:
            self._ends.apply_stream_action()
        self.news.tell()

    def parse(self, feed: Callable[[], None]) -> None:
        """Call what parses; where that was interrupted and can be gone on with, say so."""
        self._turns.under_way = READING
        try:
            feed()
        except BaseException:
            if self._core.inbox.decoder.interrupted:
                self._turns.under_way = PARSING
            raise
        self._turns.under_way = None

    def failed(self, error: OSError) -> bytes:
        """Take note of why nothing more can be read, and return the end of the stream."""
        if not is_broken(error):
            raise error
        self.why = broken_by(error)
        return b""

    def read_what_is_there(self, reads: int) -> None:
        """Read, without waiting and at most so often, what nobody else reads."""
        while reads and not self._ends.closed and not self.has_enough:
            reads = reads - 1 if self.read() else 0

    def _look(self, take: Callable[[], Any]) -> Any:
        if self._core.inbox:  # it may have waited long
            self._core.inbox.taken_at = self._clock.now()
        try:
            return take()
        finally:  # also where it raised how the connection ended
            self._ends.settle()

    def read_parts(self, take: Callable[[], Any]) -> Any:
        """Return what ``take`` finds of a message in parts: that is many steps, not one."""
        before, self._turns.under_way = self._turns.under_way, READING
        try:
            found = take()
        except BaseException as error:
            if error is self._core.ending or error.args == (CLOSED,):
                self._turns.under_way = before
            raise
        self._turns.under_way = before
        return found

    def _begin_receiving(self, mine: Role) -> None:
        if self._turns.receiver is not None:
            raise self._second_receiver(self._turns.receiver[0])
        self._turns.receiver = mine

    @property
    def has_enough(self) -> bool:
        """True when no more should be read until somebody receives; what nobody will is dropped."""
        return self._core.full and self._core.ending is None

    def _second_receiver(self, first: int) -> RuntimeError:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        return RuntimeError(
            f"recv() is already running in thread {names.get(first, '?')!r}; "
            "one receiver per connection (share messages through a queue)"
        )
