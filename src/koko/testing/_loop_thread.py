"""An event loop in a thread of its own: what threads use asyncio through.

An application may block it, or end it: whoever waits for it is told so.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, InvalidStateError, wait
from contextlib import suppress
from functools import partial
from typing import Any, Self, TypeVar

from koko.testing._limit import GRACE, LEAVE, ends
from koko.testing._stack import place_of
from koko.testing._watch import Watch

T = TypeVar("T")


class LoopThread:
    """An event loop in a thread of its own, as long as the ``with`` block.

    Args:
        timeout: seconds that each thing which is run in it may take by its own rules. The loop
            may be blocked for ``GRACE`` seconds more. None: no limit.

    Attributes:
        watch: drops connections that the loop does not end in time.
    """

    def __init__(self, timeout: float | None) -> None:
        self._patience = None if timeout is None else timeout + GRACE
        self._lost: Future[None] = Future()  # gets what has ended the loop, or makes it useless
        self.watch = Watch(self._ask, self._place, self._lose, timeout)

    def __enter__(self) -> Self:
        started: Future[asyncio.AbstractEventLoop] = Future()
        self._over = asyncio.Event()
        self._thread = threading.Thread(
            target=self._run, args=(started,), name="koko-asgi", daemon=True
        )
        self._thread.start()
        self._loop = started.result()
        self.watch.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        with suppress(RuntimeError):  # it has ended already
            self._ask(self._over.set)
        try:
            if not self._lost.done():
                self._thread.join(self._patience)
        finally:
            self.watch.stop()
        if self._thread.is_alive() and not self._lost.done() and not ends(error):
            raise TimeoutError(f"the application's event loop did not end{self._goes_on()}")

    def run(self, work: Callable[[], Coroutine[Any, Any, T]], timeout: float | None = None) -> T:
        """Run a coroutine function in the loop; return what it returns.

        Raises:
            TimeoutError: it took longer than it may, or the loop is blocked.
            BaseException: what has ended the loop.
        """
        outcome: Future[T] = Future()
        try:
            return self._run_into(outcome, work, timeout)
        except BaseException:
            outcome.cancel()  # nobody is left who would take it
            raise

    def finish(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """As ``run``, for the last work: a loop that comes back to life still does it."""
        return self._run_into(Future(), work, None)

    def _run_into(
        self,
        outcome: Future[T],
        work: Callable[[], Coroutine[Any, Any, T]],
        timeout: float | None,
    ) -> T:
        either: tuple[Future[Any], ...] = outcome, self._lost
        self.check()
        self._ask(partial(self._begin, work, outcome))
        try:
            wait(either, timeout, FIRST_COMPLETED)
            if outcome.done():
                return outcome.result()
        except CancelledError:  # something ends the loop
            wait([self._lost], self._patience)
            self.check()
            raise
        except BaseException:  # a KeyboardInterrupt, for example
            outcome.cancel()
            raise
        self.check()
        outcome.cancel()
        raise TimeoutError("the event loop did not do it in time")

    def check(self) -> None:
        """Raise what has ended the loop, or how it is blocked, once nobody waits any longer."""
        if self._lost.done():
            self._lost.result()

    def blocked(self) -> str:
        """Return how the loop is blocked at this moment, as a sentence; "" if it is not."""
        turned = threading.Event()
        with suppress(RuntimeError):  # it has ended
            self._ask(turned.set)
            if not turned.wait(LEAVE):
                return self.watch.sentence()
        return ""

    def _begin(self, work: Callable[[], Coroutine[Any, Any, T]], outcome: Future[T]) -> None:
        if not outcome.cancelled():
            task = self._loop.create_task(_do(work, outcome))
            outcome.add_done_callback(partial(self._pass_on, task))

    def _pass_on(self, task: asyncio.Task[None], outcome: Future[Any]) -> None:
        if outcome.cancelled():  # by whoever waited, or with the task: then it has no effect
            self._ask(task.cancel)

    def _ask(self, function: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(function)

    def _place(self) -> str:
        return place_of(self._thread)

    def _goes_on(self) -> str:
        """Return what keeps the loop from its end, as the end of a sentence."""
        coros = [task.get_coro() for task in asyncio.all_tasks(self._loop)]
        names = sorted({f"{getattr(coro, '__qualname__', coro)}()" for coro in coros})
        return f": {', '.join(names)} did not let itself be cancelled" if names else self._place()

    def _lose(self, error: BaseException) -> None:
        with suppress(InvalidStateError):  # the first one counts
            self._lost.set_exception(error)

    def _run(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.get_loop()
                runner.run(self._live(started))
        except BaseException as error:  # no descriptor is left for the loop; SystemExit in a task
            if started.done():
                self._lose(error)
            else:
                started.set_exception(error)

    async def _live(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        started.set_result(asyncio.get_running_loop())
        await self._over.wait()


async def _do(work: Callable[[], Coroutine[Any, Any, T]], outcome: Future[T]) -> None:
    try:
        result = await work()
    except Exception as error:
        with suppress(InvalidStateError):  # nobody waits for it any longer
            outcome.set_exception(error)
    except BaseException:
        outcome.cancel()
        raise
    else:
        with suppress(InvalidStateError):
            outcome.set_result(result)
