"""Tasks for what handlers of control frames return to be awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from koko.aio.tasks import failure_of


class HandlerTasks:
    """Keeps the tasks of one connection alive until each of them has ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.running: set[asyncio.Future[object]] = set()
        self._loop = loop

    def run(self, work: Awaitable[object], failed: Callable[[BaseException], None]) -> None:
        """Run ``work`` in a task; ``failed`` gets what it raises."""
        task = asyncio.ensure_future(work, loop=self._loop)
        self.running.add(task)
        task.add_done_callback(partial(self._ran, failed))

    def _ran(self, failed: Callable[[BaseException], None], task: asyncio.Future[object]) -> None:
        self.running.discard(task)
        error = failure_of(task)
        if error is not None:
            failed(error)
