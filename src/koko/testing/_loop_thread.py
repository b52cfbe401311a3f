"""An event loop in a thread of its own: what threads use asyncio through."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, Self, TypeVar

from koko.testing._limit import LEAVE

T = TypeVar("T")


class LoopThread:
    """An event loop in a thread of its own, as long as the ``with`` block.

    Args:
        timeout: seconds that each thing which is run in it may take by its own rules.
    """

    def __init__(self, timeout: float | None) -> None:
        # Whoever blocks the loop keeps it from noticing any time limit: then this one counts.
        self._patience = None if timeout is None else 3 * (timeout + LEAVE)

    def __enter__(self) -> Self:
        started: Future[asyncio.AbstractEventLoop] = Future()
        self._over = asyncio.Event()
        self._thread = threading.Thread(
            target=self._run, args=(started,), name="koko-asgi", daemon=True
        )
        self._thread.start()
        self._loop = started.result()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(self._patience)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop; return what it returns.

        Raises:
            TimeoutError: the loop is blocked.
        """
        running = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return running.result(self._patience)
        except TimeoutError:
            if running.done():
                raise
            raise TimeoutError("the application blocks its event loop") from None

    def _run(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.get_loop()
                runner.run(self._live(started))
        except OSError as error:  # no descriptor is left for the loop, say
            if started.done():
                raise
            started.set_exception(error)

    async def _live(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        started.set_result(asyncio.get_running_loop())
        await self._over.wait()
