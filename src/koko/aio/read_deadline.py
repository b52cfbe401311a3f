"""The deadline of all reads of a connection; it may be moved at any time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class ReadDeadline:
    """One deadline for all reads of a connection, with at most one timer of the loop.

    Attributes:
        at: the deadline, on the clock of the connection; None for none.
    """

    __slots__ = ("_fired", "_loop", "_now", "_timer", "at")

    def __init__(self, loop: asyncio.AbstractEventLoop, now: Callable[[], float]) -> None:
        self.at: float | None = None
        self._loop = loop
        self._now = now
        self._timer: asyncio.TimerHandle | None = None
        self._fired = 0.0  # when the last timer was due

    def bring_forward(self, wake: Callable[[], object]) -> None:
        """Wake a receiver whose timer is later than the new deadline, or missing."""
        if self.at is not None and self._fires_after(self.at):
            self._loop.call_soon(wake)  # not now: a handler may call this in the middle of a feed

    def limit_wait(self, wake: Callable[[], object]) -> None:
        """Call ``wake`` at the deadline of a wait that begins now; raise if that has passed."""
        if self.at is None:
            return
        # A loop may call a timer early, by the resolution of its clock: then the time that it
        # was due counts.
        if max(self._now(), self._fired) >= self.at:
            raise TimeoutError("no message came before read_deadline")
        # A deadline that moves later, as with each pong, sets no new timer: the old one fires
        # first, and the receiver comes here again.
        if self._fires_after(self.at):
            self.forget()
            self._timer = self._loop.call_at(self.at, self._fire, self.at, wake)

    def forget(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fires_after(self, deadline: float) -> bool:
        return self._timer is None or self._timer.when() > deadline

    def _fire(self, when: float, wake: Callable[[], object]) -> None:
        self._timer = None
        self._fired = when
        wake()
