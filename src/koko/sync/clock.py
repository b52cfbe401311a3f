"""The time, and how a thread waits for another thread; tests pass a clock of their own."""

from __future__ import annotations

import threading
from time import monotonic

from koko.misuse import LONGEST, check_seconds


class Clock:
    """The system's clock: ``now`` is ``time.monotonic``."""

    __slots__ = ()

    now = staticmethod(monotonic)

    def deadline_in(self, timeout: float | None) -> float | None:
        """Return when ``timeout`` seconds will have passed."""
        if timeout is None:
            return None
        if type(timeout) is not float or not -LONGEST < timeout < LONGEST:
            check_seconds("timeout", timeout)
        return self.now() + timeout

    def time_left(self, deadline: float | None) -> float | None:
        """Return the seconds until ``deadline``, never less than 0."""
        return None if deadline is None else max(0.0, deadline - self.now())

    def wait(self, ticket: threading.Lock, timeout: float) -> None:
        """Wait until another thread lets go of a lock, at most so long."""
        ticket.acquire(timeout=timeout)

    def wake(self, ticket: threading.Lock) -> None:
        """Let go of the lock that another thread waits for."""
        ticket.release()


CLOCK = Clock()
deadline_in, time_left = CLOCK.deadline_in, CLOCK.time_left


def earliest(one: float | None, other: float | None) -> float | None:
    """Return the earlier of two deadlines, None where there is neither."""
    if one is None or other is None:
        return one if other is None else other
    return min(one, other)
