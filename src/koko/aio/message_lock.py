"""A lock for those who write messages: first come, first served, until the write deadline.

A writer waits before it owes anything, never after. While a message is written in parts no
other may begin; control frames do not take the lock.
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
    """Its holder may begin a message.

    Attributes:
        deadline: when messages may no longer begin; None for no limit.
        message: the message that is being written in parts.
        writer: the task that began it. A weak reference, since the writer may be the result of
            that task: a reference cycle.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self.deadline: float | None = None
        self.message: Outgoing | None = None
        self.writer: weakref.ref[asyncio.Task[Any]] | None = None
        self._now = now

    def locked(self) -> bool:
        """Return True when a sender has to wait, or to check the deadline first."""
        return self.message is not None or self.deadline is not None or super().locked()

    @property
    def free(self) -> bool:
        """True when a message may begin at once."""
        taken = self.message is not None or super().locked()
        return not taken and (self.deadline is None or self._now() < self.deadline)

    def pass_to(self, message: Outgoing) -> None:
        """Keep the lock for ``message``, which this task writes in parts."""
        self.message = message
        if task := asyncio.current_task():
            self.writer = weakref.ref(task)

    def check_own(self) -> None:
        """Raise if this task would wait for its own writer."""
        if self.writer is not None and self.writer() is asyncio.current_task():
            raise RuntimeError(OWN)

    def time_left(self, timeout: float | None) -> float | None:
        """Return how many seconds a write that begins now may take, None for no limit."""
        if self.deadline is None:
            return timeout
        left = self.deadline - self._now()
        if left <= 0:
            raise TimeoutError("write_deadline had passed before anything was written")
        return left if timeout is None else min(timeout, left)
