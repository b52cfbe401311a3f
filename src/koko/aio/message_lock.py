"""Whose turn it is to begin a message: first come, first served, and by when.

Writers wait before they owe anything, never after it. While a message is written in parts
nobody else's may begin; control frames do not ask.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import Any

from koko.core.outgoing import Outgoing

OWN = (
    "this task is writing a message with next_writer() and would wait for itself; "
    "close that writer first"
)


class MessageLock(asyncio.Lock):
    """Who holds it may begin a message.

    Attributes:
        deadline: when to begin none any more.
        message: the one that is being written in parts.
        writer: the task that began it; weak, for the writer may be what that task returned.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self.deadline: float | None = None
        self.message: Outgoing | None = None
        self.writer: weakref.ref[asyncio.Task[Any]] | None = None
        self._now = now

    def locked(self) -> bool:
        """Return True when who wants to send has to wait, or to look at the deadline first."""
        return self.message is not None or self.deadline is not None or super().locked()

    @property
    def free(self) -> bool:
        """True when a message may begin at once."""
        taken = self.message is not None or super().locked()
        return not taken and (self.deadline is None or self._now() < self.deadline)

    def pass_to(self, message: Outgoing) -> None:
        """Let this task go on with ``message`` while nobody else may begin one."""
        self.message = message
        if task := asyncio.current_task():
            self.writer = weakref.ref(task)

    def check_own(self) -> None:
        """Raise if this task would wait for its own writer."""
        if self.writer is not None and self.writer() is asyncio.current_task():
            raise RuntimeError(OWN)

    def time_left(self, timeout: float | None) -> float | None:
        """Return the seconds that a write which begins now may take, None for any number."""
        if self.deadline is None:
            return timeout
        left = self.deadline - self._now()
        if left <= 0:
            raise TimeoutError("write_deadline had passed before anything was written")
        return left if timeout is None else min(timeout, left)
