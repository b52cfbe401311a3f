"""What is known here of asyncio's tasks, futures and clocks."""

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


# What asyncio lets end the loop when it leaves a task or a callback; anything else it keeps.
FATAL = (SystemExit, KeyboardInterrupt)


def was_cancelled(error: BaseException) -> bool:
    """Tell whether ``error`` is the cancellation of the task that runs, which somebody asked for.

    A CancelledError can be that of another task, which this one awaits.
    """
    task = asyncio.current_task()
    cancelled = isinstance(error, asyncio.CancelledError)
    return cancelled and task is not None and task.cancelling() > 0


def not_ours(error: asyncio.CancelledError) -> RuntimeError:
    """Return what a handler failed with: as it is, whoever receives would take it for its own."""
    return RuntimeError(f"a handler left with {error!r}, and nobody had cancelled it")


def failure_of(task: asyncio.Future[object]) -> BaseException | None:
    """Return what a handler's task failed with; None where it was cancelled from outside."""
    try:
        task.result()
    except asyncio.CancelledError as error:
        if not isinstance(task, asyncio.Task) or task.cancelling():
            return None
        failure = not_ours(error)
        failure.__cause__ = error
        return failure
    except BaseException as error:
        return error
    return None


class NoLoop:
    """What a future that is over already needs of a loop."""

    def get_debug(self) -> bool:
        return False


def arrived() -> asyncio.Future[None]:
    """Return what a woken task finds in the place of its waiter: a future that is over.

    Of a Future a task takes the result in C; anything else it would have to ask.
    """
    future = asyncio.Future[None](loop=NoLoop())  # type: ignore[arg-type]
    future.set_result(None)
    return future


def cancelled(message: object) -> asyncio.Future[None]:
    """Return what a cancelled task finds there: the CancelledError carries ``message``.

    anyio knows its own cancellation by nothing else. Each gets a future of its own, since
    the error is made when the result is taken.
    """
    future = asyncio.Future[None](loop=NoLoop())  # type: ignore[arg-type]
    future.cancel(message)
    return future


ARRIVED = arrived()

# What a Waiter passes for. Not looked up later: nest_asyncio puts another class in its place.
FUTURE = asyncio.Future


def may_enter(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether a task of ``loop`` can be entered from here, and may do what it likes.

    It cannot from within another task. In a loop that may be run by what it runs, as
    nest_asyncio patches it, a task could run it again on top of what entered the task: a
    callback of the loop, which cannot be called once more before it has returned.
    """
    return current_task(loop) is None and not hasattr(loop, "_nest_patched")


def still_awaits(wakeup: Callable[[Any], object], awaited: object) -> bool:
    """Tell whether a task did not go on though its ``wakeup`` was called.

    It says so by a RuntimeError: another task is running, or its context is entered already.
    """
    task = getattr(wakeup, "__self__", None)
    return getattr(task, "_fut_waiter", None) is awaited


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """Return the clock of ``loop``, or one that runs with it and does not stand still.

    uvloop's is read once in a turn of the loop and counts milliseconds: a round trip would
    be none or one of them.
    """
    return time.monotonic if type(loop).__module__.startswith("uvloop") else loop.time
