"""What drives a ``Conn``: the parts of a connection on threads, put together.

``link`` moves bytes between the socket and the core, ``reader`` and ``writer`` are how
threads wait for that, ``monitor`` is the lock round all of it. The housekeeper calls in
here while no thread of the application does.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Protocol

from koko.core.connection import Connection, Ping
from koko.core.lifecycle import State
from koko.core.wire import Role
from koko.message import Data
from koko.sync.clock import CLOCK, Clock
from koko.sync.fast_path import FastPath, Turns
from koko.sync.housekeeper import Kept, housekeeper
from koko.sync.link import Link
from koko.sync.message_lock import MessageLock
from koko.sync.monitor import Monitor
from koko.sync.reader import Reader
from koko.sync.transport import Stream, is_bare
from koko.sync.writer import Writer


class Keeper(Protocol):
    """Who looks after a connection while no thread is inside."""

    def keep(self, kept: Kept) -> None: ...
    def forget(self, kept: Kept) -> None: ...


class Driver:
    """The private half of a ``Conn``. Its parts do not refer to it, so it is freed with its Conn.

    Attributes:
        next_message, write_message: the general way, or the fast path beside it.
    """

    next_message: Callable[[], str | bytes]
    write_message: Callable[[int, Data], None]

    def __init__(
        self,
        core: Connection,
        stream: Stream,
        early: bytes = b"",
        clock: Clock = CLOCK,
        keeper: Keeper = housekeeper,
    ) -> None:
        self.core = core
        self.stream = stream
        self.clock = clock
        self.turns = turns = Turns()
        self.message_lock = MessageLock(core, clock)
        forget = partial(_forget, keeper, weakref.ref(self))
        self.link = link = Link(core, stream, turns, self.message_lock, clock, forget)
        self.monitor = Monitor(turns, link, clock)
        self.writer = Writer(link, self.monitor)
        self.reader = Reader(link, self.monitor, self.writer)
        if FastPath is not None and is_bare(stream):
            fast_path = FastPath(turns, link, self.reader, self.writer)
            self.next_message = fast_path.next_message
            self.write_message = fast_path.write_message
        else:
            self.next_message = partial(self.reader.receive, None, core.next_message)
            self.write_message = partial(self.writer.write, None, core.send)
        if early:  # what the peer sent right behind its handshake
            core.feed(early, clock.now())
        keeper.keep(self)

    # What a Conn calls

    @property
    def closed(self) -> bool:
        """True once the socket has been given back."""
        return self.link.closed

    @property
    def read_deadline(self) -> float | None:
        return self.reader.deadline

    @read_deadline.setter
    def read_deadline(self, deadline: float | None) -> None:
        self.monitor.call(self.reader.set_deadline, deadline)

    def ping(self, payload: bytes | None, timeout: float | None) -> float:
        """Send a ping, wait for its pong and return the seconds between."""
        self.monitor.check_nested("ping")
        deadline = self.clock.deadline_in(timeout)
        sent: list[Ping] = []
        self.writer.write_between(
            deadline, lambda: sent.append(self.core.start_ping(payload, self.clock.now()))
        )

        def answered() -> float | None:
            if sent[0].round_trip is None and self.core.ending is not None:
                raise self.core.ending.with_traceback(None)
            return sent[0].round_trip

        def late() -> None:
            raise TimeoutError(f"no pong came within {timeout:g} s")

        round_trip: float = self.reader.wait_for(answered, lambda: deadline, late)
        return round_trip

    def wait_closed(self, timeout: float | None) -> None:
        """Wait until the socket has been given back."""
        self.monitor.check_nested("wait_closed")
        deadline = self.clock.deadline_in(timeout)

        def late() -> None:
            raise TimeoutError(f"the connection was not over within {timeout:g} s")

        self.reader.wait_for(lambda: self.closed or None, lambda: deadline, late)

    def start_close(self, code: int, reason: str) -> None:
        """Send a Close unless it is too late for one; wait for nothing."""
        if not self.closed:
            self.monitor.call(self.link.start_close, code, reason)

    def finish(self, timeout: float) -> None:
        """Wait for the peer's end of the closing handshake, at most so long, and let go."""
        if self.closed or self.monitor.nested:
            return
        deadline = self.clock.now() + timeout
        late = partial(self.abort, f"no answer within {timeout:g} s")
        self.reader.wait_for(self._find_over, lambda: deadline, late)
        self.monitor.give_time(lambda: self.closed, self.link.news)

    def abort(self, why: str) -> None:
        """Drop the socket at once."""
        if not self.closed:
            self.monitor.call(self.link.abort, why)

    def _find_over(self) -> bool | None:
        self.link.apply_stream_action()
        if self.core.full:
            self.core.discard_new()  # the peer's Close is behind it
        return self.closed or self.core.state is State.CLOSED or None

    # What the housekeeper calls

    def look_after(self) -> float | None:
        """Do what time makes due; read if the application does not.

        Returns when it wants to be looked after again, None for never.
        """
        # A thread that sends on and on may hold the lock: then that thread does the work.
        self.turns.overdue = True
        self.monitor.call(int, blocking=False)  # does nothing, but takes the lock
        return self.core.due_at

    def disown(self) -> None:
        """End the connection in a child of fork, without a word to the peer: it is the parent's."""
        turns = self.turns
        # The thread that holds the lock may not exist in the child. ``logging`` does the same.
        turns.lock._at_fork_reinit()
        turns.inside = 0
        turns.receiver = turns.reader = turns.writer = turns.under_way = None
        self.link.mute = self.link.closed = True
        self.stream.close()
        self.core.feed_eof(self.clock.now(), "since a fork it belongs to the parent process")


def served() -> list[Driver]:
    """Return every open connection of this process whose peer is a client."""
    found = [kept for kept in housekeeper.all if isinstance(kept, Driver)]
    return [driver for driver in found if driver.core.role is Role.SERVER and not driver.closed]


def _forget(keeper: Keeper, known: weakref.ref[Driver]) -> None:
    if (driver := known()) is not None:
        keeper.forget(driver)
