"""One thread at a time in a connection's core, whatever interrupts it.

Python runs signal handlers in the main thread, between any two steps of it, and what they
raise - Ctrl-C - comes out there. It may fall into a ``finally`` just before its first call.
So nothing here relies on a ``finally`` being run to its end:

- A lock is let go of by the first call of a ``finally``. CPython looks for signals after a
  call in C and at the entry of a function in Python, so that one call is always made.
- A role ends by a plain store, the first statement of a ``finally``.
- What must not be cut off says so in ``Turns.under_way`` and takes it back when it is done.
  Whoever finds a word there ends the connection with that reason.
- Nobody sleeps longer than ``LOOK`` for a wake-up that might have been cut off.

No lock is held while a thread waits for anything but the lock itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from threading import get_ident
from typing import Any

from koko.sync.clock import CLOCK, Clock

LOOK = 0.5  # seconds after which a thread that waits for another looks by itself
READING = "the reading of what the peer sent"  # what may be under way
PARSING = "the inflating of what the peer sent"  # can be gone on with
FRAME = "a frame on its way out"
END = "the end of the connection"
Role = list[int]  # made by the call that takes the role; holds the thread's number


class Turns:
    """Who does what on one connection at the moment, and what its next call must look at.

    Attributes:
        lock: guards the core, the stream and all of this.
        inside: the thread that holds the lock; one that comes again is in a handler.
        receiver: who wants a message.
        reader: who waits for the socket to have bytes, and alone may read it.
        writer: who waits for the socket to take more; the others wait for their turn.
        under_way: what has begun and must not be cut off, None when nothing has.
        overdue: the housekeeper has come; who takes the lock next does what time makes due.
        corked_by: the thread whose messages are gathered.
        gathered: bytes of them that have not been written.
        read_deadline, write_deadline: those of the ``Conn``.
    """

    __slots__ = (
        "corked_by",
        "gathered",
        "inside",
        "lock",
        "overdue",
        "read_deadline",
        "reader",
        "receiver",
        "under_way",
        "write_deadline",
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
        self.gathered = 0
        self.read_deadline: float | None = None
        self.write_deadline: float | None = None


def hold(lock: threading.Lock | threading.RLock, work: Callable[..., Any], *args: Any) -> Any:
    """Call ``work`` with a lock held that is let go of whatever interrupts it."""
    held = list[bool]()
    try:
        # One call in C takes the lock and notes that: no interrupt falls between.
        held.extend(map(lock.acquire, (True,)))
        return work(*args)
    finally:
        if held:
            lock.release()


class Monitor:
    """The lock round the core: whatever looks at a connection is called through it."""

    def __init__(
        self, turns: Turns, cut_off: Callable[[str], object], catch_up: Callable[[], object]
    ) -> None:
        self._turns = turns
        self._cut_off = cut_off
        self._catch_up = catch_up

    def call(self, work: Callable[..., Any], *args: Any, blocking: bool = True) -> Any:
        """Call ``work`` with the lock held; None at once where ``blocking`` forbids to wait.

        A handler that is called in there, a signal's too, comes through without waiting.
        """
        turns, me = self._turns, get_ident()
        if turns.inside == me:
            return work(*args)
        lock, held = turns.lock, list[bool]()
        try:
            held.extend(map(lock.acquire, (blocking,)))  # in one call, as in ``hold``
            if not held[0]:
                return None
            turns.inside = me
            if turns.under_way is not None:
                self._cut_off(turns.under_way)
            if turns.overdue:
                turns.overdue = False
                self._catch_up()
            return work(*args)
        finally:
            if turns.inside == me:
                turns.inside = 0
            if held and held[0]:
                lock.release()

    @property
    def nested(self) -> bool:
        """True in a handler that this thread runs with the lock held."""
        return self._turns.inside == get_ident()


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
        """Have all of them look again."""
        for ticket in tuple(self.tickets):
            self.tickets.pop(ticket, None)
            self._clock.wake(ticket)
