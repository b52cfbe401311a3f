"""The time beyond which no read of a connection waits, however often it is put off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class ReadDeadline:
    """One deadline for all reads of a connection, with at most one timer of the loop.

    Attributes:
        at: the deadline, on the clock of the connection; None for none.
    """

    __slots__ = ("_loop", "_now", "_rung", "_timer", "at")

    def __init__(self, loop: asyncio.AbstractEventLoop, now: Callable[[], float]) -> None:
        self.at: float | None = None
        self._loop = loop
        self._now = now
        self._timer: asyncio.TimerHandle | None = None
        self._rung = 0.0  # when the last timer was due

    def bring_forward(self, wake: Callable[[], object]) -> None:
        """Wake a receiver that waits already and would wait too long."""
        if self.at is not None and self._rings_after(self.at):
            self._loop.call_soon(wake)  # not now: this may be a handler, amid a feed

    def limit_wait(self, wake: Callable[[], object]) -> None:
        """Have the wait that begins now ended in time by ``wake``; raise if it is too late."""
        if self.at is None:
            return
        # A timer may ring before its time by what the loop calls the resolution of its clock.
        if max(self._now(), self._rung) >= self.at:
            raise TimeoutError("no message came before read_deadline")
        # A deadline that was put off, as with each pong, sets no timer: one rings too early.
        if self._rings_after(self.at):
            self.forget()
            self._timer = self._loop.call_at(self.at, self._ring, self.at, wake)

    def forget(self) -> None:
        """Let go of the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _rings_after(self, deadline: float) -> bool:
        return self._timer is None or self._timer.when() > deadline

    def _ring(self, when: float, wake: Callable[[], object]) -> None:
        self._timer = None
        self._rung = when
        wake()
