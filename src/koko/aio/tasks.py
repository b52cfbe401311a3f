"""What both twins of the short way need to know of asyncio's tasks and clocks."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any

# asyncio.current_task is written in Python before 3.12, round this.
current_task: Callable[[asyncio.AbstractEventLoop], asyncio.Task[Any] | None] = (
    asyncio.current_task if sys.version_info >= (3, 12) else asyncio.tasks._current_tasks.get  # type: ignore[attr-defined]
)


class NoLoop:
    """What futures that are over already need of a loop."""

    def get_debug(self) -> bool:
        return False


def over(cancelled: bool) -> asyncio.Future[None]:
    """Return a future that is over: what a task finds in the place of an waiter.

    Of a Future a task takes the result in C; anything else it would have to ask.
    """
    future = asyncio.Future[None](loop=NoLoop())  # type: ignore[arg-type]
    if cancelled:
        future.cancel()
    else:
        future.set_result(None)
    return future


ARRIVED = over(cancelled=False)
CANCELLED = over(cancelled=True)


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """Return the clock of ``loop``, or one that runs with it and does not stand still.

    uvloop's is read once in a turn of the loop and counts milliseconds: a round trip would
    be none or one of them.
    """
    return time.monotonic if type(loop).__module__.startswith("uvloop") else loop.time
