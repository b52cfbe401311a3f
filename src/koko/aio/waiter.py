"""The wait of a receiver for what comes next, in plain Python.

The native fast path has one of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any

from koko.aio.tasks import ARRIVED, FUTURE, cancelled, may_enter, still_awaits


class Waiter:
    """What a receiver awaits until something comes; made once and awaited many times.

    It behaves like an ``asyncio.Future``, as far as a ``Task``, and code that inspects one, can
    see. But ``wake`` enters the task at once, where a Future costs a ``call_soon`` and another
    turn of the loop. Cancelling goes through ``call_soon``, as with any future.
    """

    __slots__ = (
        "_asyncio_future_blocking",
        "_context",
        "_loop",
        "_outcome",
        "_yielded",
        "callback",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asyncio_future_blocking = False
        self._loop = loop
        self.callback: Callable[[Any], object] | None = None  # set while a receiver waits
        self._context: Context | None = None
        # Set when the task will go on by ``call_soon``. Until then the task may be cancelled,
        # so the next wait gets another Waiter.
        self._outcome: asyncio.Future[None] | None = None
        self._yielded = False

    @property
    def waiting(self) -> bool:
        return self.callback is not None

    @property
    def receiver(self) -> str:
        """The name of the task that waits, for the error of a second one."""
        task = getattr(self.callback, "__self__", None)
        return task.get_name() if isinstance(task, asyncio.Task) else "another task"

    def wake(self) -> None:
        """Let the receiver go on: at once, or soon if its task cannot be entered now.

        Bytes arrive inside another task if the transport is in memory (tests, in-process pairs).
        """
        if self.callback is None:
            return
        if may_enter(self._loop):
            self.enter()
        else:
            self.end(ARRIVED)

    def enter(self) -> None:
        """Let the receiver go on at once, or soon if that turns out to be impossible."""
        callback, context = self.callback, self._context
        assert callback is not None
        assert context is not None
        self.callback = None
        try:
            context.run(callback, ARRIVED)
        except RuntimeError:
            if not still_awaits(callback, self):
                raise
            self.callback = callback
            self.end(ARRIVED)

    def end(self, outcome: asyncio.Future[None]) -> None:
        """Let the receiver go on soon, with this outcome."""
        self._outcome = outcome
        callback, self.callback = self.callback, None
        if callback is not None:
            self._loop.call_soon(callback, outcome, context=self._context)

    # The awaitable

    def __await__(self) -> Generator[Any, None, None]:
        self._yielded = False
        return self  # type: ignore[return-value]  # an iterator is all that await asks for

    def __iter__(self) -> Waiter:
        return self

    def __next__(self) -> Waiter:
        if self._yielded:
            raise StopIteration
        self._yielded = self._asyncio_future_blocking = True
        return self

    # What a task asks of a future

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(
        self, callback: Callable[[Any], object], *, context: Context | None = None
    ) -> None:
        self.callback = callback
        self._context = context
        if self._outcome is not None:
            self.end(self._outcome)

    def remove_done_callback(self, callback: Callable[[Any], object]) -> int:
        if self.callback != callback:
            return 0
        self.callback = None
        return 1

    def cancel(self, msg: object = None) -> bool:
        if self._outcome is not None:
            return False
        self.end(cancelled(msg))
        return True

    # What other code asks of the future that a task awaits. anyio first checks its class.

    @property  # type: ignore[misc]
    def __class__(self) -> type[asyncio.Future[Any]]:  # type: ignore[override]
        return FUTURE

    def done(self) -> bool:
        return self._outcome is not None

    def cancelled(self) -> bool:
        return self._outcome is not None and self._outcome.cancelled()

    def result(self) -> None:
        return self._over().result()

    def exception(self) -> BaseException | None:
        return self._over().exception()

    def _make_cancelled_error(self) -> asyncio.CancelledError:
        error: asyncio.CancelledError = self._over()._make_cancelled_error()  # type: ignore[attr-defined]
        return error

    def _over(self) -> asyncio.Future[None]:
        if self._outcome is None:
            raise asyncio.InvalidStateError("a receiver is still waiting")
        return self._outcome
