"""A receiver that waits is to its task what one is that awaits an ``asyncio.Future``.

Every scenario is run twice, on an inbox that wakes its reader by a Future and on a ``Conn``,
and both leave the same trace: what the reader caught, with which message, how often its task
was told to cancel, what others see of the future it waits for.
"""

from __future__ import annotations

import asyncio
import contextvars
import re
import sys
from collections.abc import Awaitable, Callable, Coroutine
from itertools import product
from typing import Any, Protocol

import anyio
import pytest

from koko import Kind
from koko.aio import Conn, Server, dial
from tests.aio.conftest import LoopFactory, Memory, made_eager, run, url

Trace = list[Any]
Wait = Callable[["Source", Trace], Coroutine[Any, Any, None]]


class Source(Protocol):
    """Something that arrives and is waited for."""

    def arrive(self, message: str) -> None: ...
    async def recv(self) -> str: ...


class ByFuture:
    """An inbox as anybody would write it: the measure."""

    def __init__(self) -> None:
        self._messages: list[str] = []
        self._waiter: asyncio.Future[None] | None = None

    def arrive(self, message: str) -> None:
        self._messages.append(message)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def recv(self) -> str:
        while not self._messages:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._messages.pop(0)


class ByConn:
    """A connection in memory."""

    def __init__(self) -> None:
        self._memory = Memory()

    def arrive(self, message: str) -> None:
        self._memory.says(message)

    async def recv(self) -> str:
        return str(await self._memory.conn.recv())


# Who waits, and in what


async def bare(source: Source, trace: Trace) -> None:
    trace.append(await source.recv())


async def twice(source: Source, trace: Trace) -> None:
    for _ in range(2):  # whoever swallows a cancellation can wait again
        try:
            trace.append(await source.recv())
        except asyncio.CancelledError as error:
            trace.append(error.args)


async def within_asyncio_timeout(source: Source, trace: Trace) -> None:
    try:
        async with asyncio.timeout(0):
            await bare(source, trace)
    except TimeoutError:
        trace.append("timeout")
        await bare(source, trace)


async def within_nested_timeouts(source: Source, trace: Trace) -> None:
    try:
        async with asyncio.timeout(0) as outer, asyncio.timeout(60) as inner:
            await bare(source, trace)
    except TimeoutError:
        trace.append((outer.expired(), inner.expired()))


async def within_wait_for(source: Source, trace: Trace) -> None:
    trace.append(await asyncio.wait_for(source.recv(), 60))


async def shielded(source: Source, trace: Trace) -> None:
    inner = asyncio.ensure_future(bare(source, trace))
    try:
        await asyncio.shield(inner)
    finally:
        trace.append(("inner lives", not inner.done()))
        inner.cancel("no more")
        await asyncio.wait([inner])


async def in_a_task_group(source: Source, trace: Trace) -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        raise ZeroDivisionError

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(bare(source, trace))
            group.create_task(fail())
    except* ZeroDivisionError:
        trace.append("failed")


async def in_an_anyio_scope(source: Source, trace: Trace) -> None:
    with anyio.move_on_after(0) as scope:
        await bare(source, trace)
    trace.append(scope.cancelled_caught)


async def in_a_shielded_anyio_scope(source: Source, trace: Trace) -> None:
    with anyio.CancelScope() as outer:
        outer.cancel()
        with anyio.CancelScope(shield=True) as inner:
            asyncio.get_running_loop().call_soon(inner.cancel)
            await bare(source, trace)
        trace.append(inner.cancelled_caught)
        await anyio.sleep(0)
    trace.append(outer.cancelled_caught)


async def in_an_anyio_group(source: Source, trace: Trace) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(bare, source, trace)
        await anyio.sleep(0)
        group.cancel_scope.cancel()
    trace.append(group.cancel_scope.cancelled_caught)


async def beside_an_anyio_deadline(source: Source, trace: Trace) -> None:
    try:
        with anyio.fail_after(0):
            await bare(source, trace)
    except TimeoutError:
        trace.append("timeout")


WAITS = [
    bare,
    twice,
    within_asyncio_timeout,
    within_nested_timeouts,
    within_wait_for,
    shielded,
    in_a_task_group,
    in_an_anyio_scope,
    in_a_shielded_anyio_scope,
    in_an_anyio_group,
    beside_an_anyio_deadline,
]

# When it is cancelled, and when its message arrives. All happens inside of a task, where ours
# can wake no earlier than a Future does.

Step = Callable[[asyncio.Task[Any], Source, tuple[Any, ...]], object]


def cancel(task: asyncio.Task[Any], source: Source, message: tuple[Any, ...]) -> None:
    task.cancel(*message)


def arrive(task: asyncio.Task[Any], source: Source, message: tuple[Any, ...]) -> None:
    source.arrive("message")


def uncancel(task: asyncio.Task[Any], source: Source, message: tuple[Any, ...]) -> None:
    task.uncancel()


def cancel_otherwise(task: asyncio.Task[Any], source: Source, message: tuple[Any, ...]) -> None:
    task.cancel("another")


def turn(task: asyncio.Task[Any], source: Source, message: tuple[Any, ...]) -> Awaitable[None]:
    return asyncio.sleep(0)


MOMENTS: dict[str, list[Step]] = {
    "before it began": [cancel],
    "while it waits": [turn, cancel],
    "woken": [turn, arrive],
    "woken, the same turn": [turn, arrive, cancel],
    "woken, the turn after": [turn, arrive, turn, cancel],
    "with the message behind it": [turn, cancel, arrive],
    "twice": [turn, cancel, cancel_otherwise],
    "twice, a turn apart": [turn, cancel, turn, cancel_otherwise],
    "and taken back": [turn, cancel, uncancel],
    "woken and taken back": [turn, arrive, cancel, uncancel],
    "woken twice": [turn, arrive, arrive],
    "never": [turn, turn, turn, arrive],
}

MESSAGES: list[tuple[Any, ...]] = [(), ("why",), (None,), (17,)]


async def played(source: Source, wait: Wait, moment: str, message: tuple[Any, ...]) -> Trace:
    """Return what one scenario leaves behind."""
    trace: Trace = []
    task = asyncio.ensure_future(wait(source, trace))
    for step in MOMENTS[moment]:
        if waiting := step(task, source, message):
            await waiting
        trace.append(seen(task))
    source.arrive("late")
    await asyncio.wait([task], timeout=5)
    trace.append((task.cancelled(), task.cancelling(), caught(task)))
    source.arrive("last")  # what nobody took is there for the next reader
    while trace[-1] != "last":
        trace.append(await source.recv())
    return trace


def seen(task: Any) -> Any:
    """Return what whoever looks into a task sees of what it waits for, as anyio does."""
    waiter = task._fut_waiter
    if waiter is None or isinstance(waiter, asyncio.Task) or "_Gathering" in repr(type(waiter)):
        return None
    assert isinstance(waiter, asyncio.Future)
    assert waiter.get_loop() is asyncio.get_running_loop()
    return asyncio.isfuture(waiter), waiter.done(), waiter.cancelled(), task.cancelling()


def caught(task: asyncio.Task[Any]) -> Any:
    """Return the class and the arguments of how a task ended."""
    try:
        task.result()
    except BaseException as error:
        return type(error), re.sub(r"[0-9a-f]{8,}|Task-\d+", "...", repr(error.args))


# What runs the tasks


def in_c(loop: asyncio.AbstractEventLoop) -> None:
    loop.set_task_factory(None)


def in_python(loop: asyncio.AbstractEventLoop) -> None:
    loop.set_task_factory(
        lambda loop, work, **named: asyncio.tasks._PyTask(work, loop=loop, **named)
    )


def eager(loop: asyncio.AbstractEventLoop) -> None:
    loop.set_task_factory(made_eager)


KINDS = [
    in_c,
    *([in_python] if sys.version_info < (3, 14) else []),  # asyncio.current_task() knows it no more
    *([eager] if sys.version_info >= (3, 12) else []),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wait", WAITS)
def test_a_receiver_is_cancelled_as_one_that_awaits_a_future(
    wait: Wait, kind: Any, loop_factory: LoopFactory
) -> None:
    async def compared() -> None:
        kind(asyncio.get_running_loop())
        for moment, message in product(MOMENTS, MESSAGES):
            expected = await played(ByFuture(), wait, moment, message)
            assert await played(ByConn(), wait, moment, message) == expected, (moment, message)

    run(loop_factory, compared())


def test_a_receiver_that_is_woken_and_cancelled_by_a_callback_has_its_message(
    loop_factory: LoopFactory,
) -> None:
    async def woken_and_cancelled() -> None:
        source, trace = ByConn(), Trace()
        task = asyncio.ensure_future(twice(source, trace))
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: (source.arrive("message"), task.cancel("why")))
        await task
        assert trace == ["message", ("why",)]

    run(loop_factory, woken_and_cancelled())


def test_who_asks_whether_all_tasks_wait_may_ask_a_receiver(loop_factory: LoopFactory) -> None:
    async def asked() -> None:
        source, trace = ByConn(), Trace()
        task = asyncio.ensure_future(bare(source, trace))
        await anyio.wait_all_tasks_blocked()
        assert not anyio.get_current_task().has_pending_cancellation()
        source.arrive("message")
        await task

    run(loop_factory, asked())


def test_what_a_future_tells_of_its_end_a_waiter_tells(loop_factory: LoopFactory) -> None:
    async def told() -> None:
        source = ByConn()
        task: Any = asyncio.ensure_future(source.recv())
        await asyncio.sleep(0)
        waiter = task._fut_waiter
        for ask in (waiter.result, waiter.exception, waiter._make_cancelled_error):
            with pytest.raises(asyncio.InvalidStateError):
                ask()
        assert waiter.remove_done_callback(print) == 0
        assert waiter.cancel("why")
        assert not waiter.cancel("again")
        for ask in (waiter.result, waiter.exception):
            with pytest.raises(asyncio.CancelledError, match="why"):
                ask()
        assert waiter._make_cancelled_error().args == ("why",)
        with pytest.raises(asyncio.CancelledError, match="why"):
            await task

    run(loop_factory, told())


def test_a_waiter_that_is_over_calls_back_whoever_asks_it_later(loop_factory: LoopFactory) -> None:
    async def called() -> None:
        source = ByConn()
        task: Any = asyncio.ensure_future(source.recv())
        await asyncio.sleep(0)
        waiter = task._fut_waiter
        source.arrive("message")
        called: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        waiter.add_done_callback(called.set_result)
        assert (await called).result() is None
        assert waiter.done()
        assert not waiter.cancelled()
        assert (waiter.result(), waiter.exception()) == (None, None)
        assert await task == "message"

    run(loop_factory, called())


def test_a_receiver_whose_context_is_entered_already_goes_on_later(
    loop_factory: LoopFactory,
) -> None:
    async def woken_from_its_own_context() -> None:
        source, context = ByConn(), contextvars.copy_context()
        loop = asyncio.get_running_loop()
        task = loop.create_task(source.recv(), context=context)
        await asyncio.sleep(0)
        loop.call_soon(source.arrive, "message", context=context)
        assert await task == "message"

    run(loop_factory, woken_from_its_own_context())


def test_a_receiver_is_not_entered_by_a_loop_that_a_task_turns() -> None:
    async def turned() -> None:
        loop: Any = asyncio.get_running_loop()
        async with Server(Conn.wait_closed, "127.0.0.1") as server:
            async with dial(url(server), proxy=None) as conn:
                task: Any = asyncio.ensure_future(conn.recv())
                await anyio.wait_all_tasks_blocked()
                (other,) = server.connections
                other._protocol.write(Kind.TEXT, "message")
                loop._run_once()
                assert task._fut_waiter.done()
                assert await task == "message"

    run(asyncio.SelectorEventLoop, turned())
