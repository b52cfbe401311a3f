"""One thread at a time in a connection's core, whatever interrupts it.

Python runs signal handlers in the main thread, between any two steps of it, and what they
raise - Ctrl-C - comes out there. It may fall into a ``finally`` just before its first call.
So nothing here relies on a ``finally`` being run to its end:

- A lock is let go of by the first call of a ``finally``. CPython looks for signals after a
  call in C and at the entry of a function in Python, so that one call is always made.
- A role ends by a plain store, the first statement of a ``finally``.
- Work that must not be cut off is noted in ``Turns.under_way`` until it is done.
  The next call that finds a reason there ends the connection with it.
- No thread sleeps longer than ``LOOK``: its wake-up might have been cut off.

No lock is held while a thread waits for anything but the lock itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from threading import get_ident
from typing import Any, Protocol

from koko.sync.clock import CLOCK, Clock

STAY = 1.0  # seconds that a flood, or a thread woken by the end of the socket, is still given
LOOK = 0.5  # seconds after which a thread that waits for another looks by itself
READING = "the reading of what the peer sent"  # what may be under way
PARSING = "the inflating of what the peer sent"  # can be resumed
FRAME = "a frame on its way out"
END = "the end of the connection"
Role = list[int]  # made by the call that takes the role; holds the thread's number


class Turns:
    """Who does what on one connection at the moment, and what its next call must look at.

    Attributes:
        lock: guards the core, the stream and all of this.
        inside: the thread that holds the lock; if it comes again it is in a handler.
        receiver: the thread that wants a message.
        reader: the thread that waits for the socket to have bytes; no other may read it.
        writer: the thread that waits for the socket to take more; others wait for it.
        under_way: what has begun and must not be cut off, None when nothing has.
        overdue: time makes something due; the next thread that takes the lock does it.
        corked_by: the thread whose messages are gathered.
    """

    __slots__ = (
        "corked_by",
        "inside",
        "lock",
        "overdue",
        "reader",
        "receiver",
        "under_way",
        "writer",
    )

    def __init__(self) -> None:
        # Reentrant, because only such a lock refuses to be let go of by another thread.
        self.lock = threading.RLock()
        self.inside = 0
        self.receiver: Role | None = None
        self.reader: Role | None = None
        self.writer: Role | None = None
        self.under_way: str | None = None
        self.overdue = False
        self.corked_by = 0


def hold(lock: threading.Lock | threading.RLock, work: Callable[..., Any], *args: Any) -> Any:
    """Call ``work`` with a lock held that is let go of whatever interrupts it."""
    held: list[bool] = []
    try:
        # One call in C takes the lock and notes that: no interrupt can fall between.
        held.extend(map(lock.acquire, (True,)))
        return work(*args)
    finally:
        if held:
            lock.release()


class Guarded(Protocol):
    """What the lock guards: it is looked at before each call."""

    def cut_off(self, what: str) -> None:
        """Resume or end what an interrupt has cut off."""

    def catch_up(self) -> None:
        """Do what time makes due; raise nothing: the call that comes by must not fail for it."""


class Monitor:
    """The lock round a connection: whatever looks at it is called through this."""

    def __init__(self, turns: Turns, guarded: Guarded, clock: Clock) -> None:
        self._turns = turns
        self._guarded = guarded
        self._clock = clock

    def call(self, work: Callable[..., Any], *args: Any, blocking: bool = True) -> Any:
        """Call ``work`` with the lock held; None at once where ``blocking`` forbids to wait.

        A handler that is called in there, a signal's too, comes through without waiting.
        """
        turns, me = self._turns, get_ident()
        if turns.inside == me:
            return work(*args)
        lock = turns.lock
        held: list[bool] = []
        try:
            held.extend(map(lock.acquire, (blocking,)))  # in one call, as in ``hold``
            if not held[0]:
                return None
            turns.inside = me
            if turns.under_way is not None:
                self._guarded.cut_off(turns.under_way)
            if turns.overdue:
                turns.overdue = False
                self._guarded.catch_up()
            return work(*args)
        finally:
            if turns.inside == me:
                turns.inside = 0
            if held and held[0]:
                lock.release()

    def give_time(self, done: Callable[[], bool], news: News) -> None:
        """Wait a moment for what other threads are about to do."""
        until = self._clock.now() + STAY
        while not done() and self._clock.now() < until:
            news.wait(self.call(news.ticket), self._clock.time_left(until))

    @property
    def nested(self) -> bool:
        """True in a handler that this thread runs with the lock held."""
        return self._turns.inside == get_ident()

    def check_nested(self, verb: str) -> None:
        """Raise in a handler: it would wait for the thread that it runs in."""
        if self.nested:
            raise RuntimeError(
                f"{verb}() called from a handler would wait for the thread that it runs in; "
                "do it in another thread"
            )


class News:
    """Threads that wait for something to change. The lock is held for all but ``wait``.

    Attributes:
        tickets: one for each of them; always the same object.
    """

    __slots__ = ("_clock", "tickets")

    def __init__(self, clock: Clock = CLOCK) -> None:
        self.tickets: dict[threading.Lock, None] = {}
        self._clock = clock

    def ticket(self) -> threading.Lock:
        """Return what to ``wait`` with for the next change."""
        ticket = threading.Lock()
        ticket.acquire()
        self.tickets[ticket] = None
        return ticket

    def wait(self, ticket: threading.Lock, timeout: float | None) -> None:
        """Wait until something has changed, for at most ``timeout`` and ``LOOK`` seconds."""
        try:
            self._clock.wait(ticket, LOOK if timeout is None else min(timeout, LOOK))
        finally:
            self.tickets.pop(ticket, None)

    def tell(self) -> None:
        """Wake all of them."""
        for ticket in tuple(self.tickets):
            self.tickets.pop(ticket, None)
            self._clock.wake(ticket)
