"""What Koko needs to know of asyncio's tasks, futures and clocks."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any

# Before Python 3.12 asyncio.current_task is a wrapper in Python around this.
current_task: Callable[[asyncio.AbstractEventLoop], asyncio.Task[Any] | None] = (
    asyncio.current_task if sys.version_info >= (3, 12) else asyncio.tasks._current_tasks.get  # type: ignore[attr-defined]
)


# The errors that end the loop when a task or a callback raises them.
FATAL = (SystemExit, KeyboardInterrupt)


def was_cancelled(error: BaseException) -> bool:
    """Tell whether ``error`` says that the current task itself was cancelled.

    A CancelledError may also be that of another task, which the current one awaits.
    """
    task = asyncio.current_task()
    cancelled = isinstance(error, asyncio.CancelledError)
    return cancelled and task is not None and task.cancelling() > 0


def not_ours(error: asyncio.CancelledError) -> RuntimeError:
    """Return the error of a handler that was not cancelled but raised this.

    Raised to the receiver as it is, it would look like a cancellation of the receiver.
    """
    return RuntimeError(f"a handler raised {error!r}, but its task was not cancelled")


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
    """What a future that is done already needs of a loop."""

    def get_debug(self) -> bool:
        return False


def arrived() -> asyncio.Future[None]:
    """Return what a woken task finds in the place of its waiter: a future that is done.

    A task reads the result of a Future in C; of any other object it would call a method.
    """
    future = asyncio.Future[None](loop=NoLoop())  # type: ignore[arg-type]
    future.set_result(None)
    return future


def cancelled(message: object) -> asyncio.Future[None]:
    """Return what a cancelled task finds there: its CancelledError carries ``message``.

    anyio recognizes its own cancellation by the message alone. Each task gets its own future,
    since the error is made when the result is read.
    """
    future = asyncio.Future[None](loop=NoLoop())  # type: ignore[arg-type]
    future.cancel(message)
    return future


ARRIVED = arrived()

# The class that a Waiter claims to be. Looked up now: nest_asyncio replaces it later.
FUTURE = asyncio.Future


def may_enter(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether a task of ``loop`` can be entered from here, whatever it does.

    It cannot from within another task. Nor in a loop that nest_asyncio has patched: there the
    task may run the loop again, inside the callback that entered the task, and that callback
    cannot be called again before it has returned.
    """
    return current_task(loop) is None and not hasattr(loop, "_nest_patched")


def still_awaits(wakeup: Callable[[Any], object], awaited: object) -> bool:
    """Tell whether a task did not go on although its ``wakeup`` was called.

    It then raised RuntimeError: another task is running, or its context is entered already.
    """
    task = getattr(wakeup, "__self__", None)
    return getattr(task, "_fut_waiter", None) is awaited


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """Return the clock of ``loop``, or one that runs with it and does not stand still.

    uvloop reads its clock once in a turn of the loop, in milliseconds: a round trip would
    take 0 or 1.
    """
    return time.monotonic if type(loop).__module__.startswith("uvloop") else loop.time
