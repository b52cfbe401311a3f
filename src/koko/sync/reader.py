"""Reads what the peer sends, for all threads: one waits for the socket, the others for it.

Whoever wants something from the peer becomes the reader if there is none, and else waits
for what the reader finds; so no connection needs a thread of its own. Threads wait here,
never with the lock held.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from threading import get_ident
from typing import Any

from koko.core.incoming import CLOSED
from koko.core.lifecycle import State
from koko.sync.clock import earliest
from koko.sync.link import Link
from koko.sync.monitor import READING, STAY, Monitor, Role
from koko.sync.transport import READ, WRITE, is_broken
from koko.sync.writer import Writer

_READ, _WRITE = "read", "write"  # what ``_look_or_wait`` returns beside a ticket


class Reader:
    """The verbs that receive, and how a thread waits for what the peer sends.

    Attributes:
        deadline: no read waits any longer after it; None for never.
    """

    def __init__(self, link: Link, monitor: Monitor, writer: Writer) -> None:
        self.deadline: float | None = None
        self._link = link
        self._monitor = monitor
        self._writer = writer
        self._clock = link.clock

    def set_deadline(self, deadline: float | None) -> None:
        """Set ``deadline``, with the lock held; ``watch`` keeps the fast path from reading."""
        if deadline is not None:
            self._link.core.watch(True)
        self.deadline = deadline
        if deadline is None:
            self._link.core.watch(False)

    # How a thread waits: without the lock

    def receive(
        self, timeout: float | None, take: Callable[[], Any], what: str = "no message"
    ) -> Any:
        """Return what ``take`` finds as soon as it does, or raise how the connection ended."""
        self._monitor.check_nested("recv")
        turns, mine = self._link.turns, [get_ident()]
        deadline = self._clock.deadline_in(timeout)

        def late() -> None:
            if deadline is not None and self._clock.now() >= deadline:
                raise TimeoutError(f"{what} came within {timeout:g} s")
            raise TimeoutError(f"{what} came before read_deadline")

        try:
            # A handler of pongs may put the deadline off meanwhile.
            return self.wait_for(
                partial(self._take, take, mine), lambda: earliest(deadline, self.deadline), late
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
        link, call, mine = self._link, self._monitor.call, [get_ident()]
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
                    link.news.wait(wait, self._clock.time_left(deadline))
            finally:
                if link.turns.reader is mine:
                    link.turns.reader = None
            if found is not None:
                return found
            deadline = until()
            if deadline is not None and self._clock.now() >= deadline + grace:
                late()

    def _await_bytes(self, timeout: float | None) -> int:
        # What a reader could not write at once it writes when there is room.
        stream = self._link.stream
        try:
            return stream.wait(READ | WRITE if stream.pending else READ, timeout)
        except OSError as error:
            if not is_broken(error):
                raise
            return READ  # the read that follows finds out

    # With the lock held

    def _look_or_wait(self, look: Callable[[], Any], mine: Role) -> tuple[Any, Any]:
        """Return what there is, or what to wait for: in one, or it might come in between."""
        link, turns = self._link, self._link.turns
        found = look()
        if found is not None:
            return found, None
        if link.gathered and turns.corked_by == mine[0]:
            return None, _WRITE
        if turns.reader is not None or link.core.state is State.CLOSED:
            return None, link.news.ticket()
        if not (link.core.inbox.unread and link.has_enough):
            turns.reader = mine
            return None, _READ
        return None, link.news.ticket()

    def _read_for_all(self, ready: int, look: Callable[[], Any]) -> tuple[Any, bool]:
        """Read, make room for another reader; return what ``look`` finds, and if bytes came."""
        link = self._link
        octets = link.read(ready) if ready else None
        link.turns.reader = None
        link.tell()
        return look(), octets is not None

    def _take(self, take: Callable[[], Any], mine: Role) -> Any:
        link, turns = self._link, self._link.turns
        if turns.receiver is not mine:
            if turns.receiver is not None:
                raise _second_receiver(turns.receiver[0])
            turns.receiver = mine
        inbox = link.core.inbox
        if inbox:  # it may have waited long
            inbox.taken_at = self._clock.now()
        try:
            return take()
        finally:  # also where it raised how the connection ended
            link.settle()

    def read_parts(self, take: Callable[[], Any]) -> Any:
        """Return what ``take`` finds of a message in parts: that is many steps, not one."""
        turns = self._link.turns
        before, turns.under_way = turns.under_way, READING
        try:
            found = take()
        except BaseException as error:
            if error is self._link.core.ending or error.args == (CLOSED,):
                turns.under_way = before
            raise
        turns.under_way = before
        return found


def _second_receiver(first: int) -> RuntimeError:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return RuntimeError(
        f"recv() is already running in thread {names.get(first, '?')!r}; "
        "one receiver per connection (share messages through a queue)"
    )
