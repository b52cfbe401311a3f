"""An event loop whose clock stands still: what waits for time there never ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class FrozenLoop(asyncio.SelectorEventLoop):
    """A loop in which no timer comes."""

    def time(self) -> float:
        return 1.0


def run_in_no_time(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that must not wait for time; it is stopped after 10 s of the real clock."""
    with asyncio.Runner(loop_factory=FrozenLoop) as runner:
        loop = runner.get_loop()
        stopper = threading.Timer(10.0, loop.call_soon_threadsafe, [loop.stop])
        stopper.start()
        try:
            return runner.run(work)
        finally:
            stopper.cancel()
