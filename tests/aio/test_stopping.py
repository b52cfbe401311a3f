"""How a server stops: by signals that it borrows, in a time that is bounded, and with a word."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest

from koko.aio import Conn, Server, dial, serve
from tests.aio.conftest import LoopFactory, Raw, echo, handshake, raw, run, url

pytestmark = pytest.mark.usefixtures("loop_factory")

HERE = "127.0.0.1"

each_signal = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@asynccontextmanager
async def served(handler: Any, **options: Any) -> AsyncIterator[Server]:
    """Yield a server that ``serve`` runs; a signal has ended it afterwards."""
    started: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(handler, HERE, on_start=started.set_result, **options))
    yield await started
    await serving


def send(number: int) -> None:
    os.kill(os.getpid(), number)


async def for_ever(conn: Conn) -> None:
    await asyncio.get_running_loop().create_future()


Lines = Callable[[], list[str]]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    """What was said of the closing."""
    caplog.set_level(logging.INFO, "koko.server")
    said = re.compile("closing")
    return lambda: [line for line in caplog.messages if said.match(line)]


# What is borrowed


@each_signal
async def test_handlers_of_the_process_are_given_back(number: int) -> None:
    caught: list[int] = []

    def ours(number: int, frame: object) -> None:
        caught.append(number)

    before = signal.signal(number, ours)
    try:
        async with served(echo):
            assert signal.getsignal(number) is not ours
            send(number)
        assert signal.getsignal(number) is ours
        assert caught == []
        send(number)
        assert caught == [number]
    finally:
        signal.signal(number, before)


@each_signal
async def test_handlers_of_the_loop_are_there_afterwards(number: int) -> None:
    loop = asyncio.get_running_loop()
    caught = asyncio.Event()
    before = signal.getsignal(number)
    loop.add_signal_handler(number, caught.set)
    try:
        async with served(echo):
            send(number)
        caught.clear()
        send(number)
        await caught.wait()
    finally:
        loop.remove_signal_handler(number)
        signal.signal(number, before)


@each_signal
async def test_another_signal_of_the_loop_is_heard_while_it_serves(number: int) -> None:
    loop = asyncio.get_running_loop()
    async with served(echo):
        reloaded = asyncio.Event()
        loop.add_signal_handler(signal.SIGHUP, reloaded.set)
        send(signal.SIGHUP)
        await reloaded.wait()
        loop.remove_signal_handler(signal.SIGHUP)
        send(number)


@each_signal
async def test_what_somebody_else_has_taken_meanwhile_is_theirs(number: int) -> None:
    def theirs(number: int, frame: object) -> None: ...

    before = signal.getsignal(number)
    try:
        async with served(echo) as server:
            signal.signal(number, theirs)
            await server.close()
        assert signal.getsignal(number) is theirs
    finally:
        signal.signal(number, before)


def test_ctrl_c_cancels_the_main_task_again_afterwards(loop_factory: LoopFactory) -> None:
    cancelled = False

    async def main() -> None:
        nonlocal cancelled
        runners = signal.getsignal(signal.SIGINT)
        async with served(echo):
            send(signal.SIGTERM)
        assert signal.getsignal(signal.SIGINT) is runners
        send(signal.SIGINT)
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            cancelled = True
            raise

    with pytest.raises(KeyboardInterrupt):
        run(loop_factory, main())
    assert cancelled


async def test_wakeup_descriptor_is_as_it_was() -> None:
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    async with served(echo):
        send(signal.SIGTERM)
    after = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(after)
    assert after == before


# How long it takes, and what it says


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[Raw]:
    """Connect, and answer no Close."""
    async with raw(server) as client:
        client.says(handshake())
        await client.hears_head()
        yield client


@each_signal
async def test_second_signal_drops_everybody_at_once(number: int, lines: Lines) -> None:
    async with served(for_ever, close_timeout=60) as server, connected(server) as client:
        send(number)
        assert await client.reader.readexactly(4) == b"\x88\x02\x03\xe9"
        assert server._closing is not None
        assert not server._closing.done()
        send(number)
        assert await client.hears_all() == b""
        await asyncio.shield(server._closing)
    assert server.connections == set()
    assert lines() == [
        "closing: waiting up to 60 s for 1 connections: {}:{}".format(
            *client.writer.get_extra_info("sockname")
        ),
        "closing now: stopped a second time",
    ]


async def test_third_signal_says_nothing_more(lines: Lines) -> None:
    async with served(for_ever, close_timeout=60) as server, connected(server):
        for _ in range(3):
            server._stop_by_signal()
        await server.wait_closed()
    assert lines() == ["closing now: stopped a second time"]


async def test_signal_while_the_application_closes_means_now(lines: Lines) -> None:
    async with served(for_ever, close_timeout=60) as server, connected(server) as client:
        closing = asyncio.create_task(server.close())
        await client.reader.readexactly(4)
        send(signal.SIGTERM)
        await closing
    assert lines()[1:] == ["closing now: stopped a second time"]


async def test_who_is_late_is_named(lines: Lines) -> None:
    async with Server(for_ever, HERE) as server, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(server)) for _ in range(7)]
        names = ["{}:{}".format(*c.writer.get_extra_info("sockname")) for c in clients]
        await server.close(timeout=0.02)
        assert server.connections == set()
    waiting, late = lines()
    told = ", ".join(names[:5]) + ", ..."
    assert waiting == f"closing: waiting up to 0.02 s for 7 connections: {told}"
    head, _, named = late.partition(": ")[2].partition(": ")
    assert head == "7 handlers did not end in time"
    assert named == told


async def test_nothing_is_said_where_nobody_is_waited_for(lines: Lines) -> None:
    async with Server(echo, HERE):
        pass
    assert lines() == []


async def test_closing_is_bounded_whatever_the_handlers_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.modules["koko.aio.serve"], "LEAVE", 0.02)
    over = asyncio.Event()

    async def stubborn(conn: Conn) -> None:
        while not over.is_set():
            with suppress(asyncio.CancelledError):
                await over.wait()

    async def sends_on(conn: Conn) -> None:
        while True:
            await conn.send(bytes(100_000))

    async def fails_late(conn: Conn) -> None:
        try:
            await for_ever(conn)
        finally:
            raise ZeroDivisionError

    loop = asyncio.get_running_loop()
    for handler in (for_ever, stubborn, sends_on, fails_late):
        over.clear()
        async with Server(handler, HERE) as server, connected(server) as client:
            began, left = loop.time(), list(server._clients.handlers.items())
            await server.close(timeout=0.05)
            assert loop.time() - began < 5  # and not close_timeout, 10 s
            over.set()
            await client.hears_all()
            for conn, task in left:
                assert task is not None
                await asyncio.wait([task])
                assert conn.ending is not None


async def test_code_that_no_close_may_carry_is_told_before_anything_has_changed() -> None:
    async with Server(echo, HERE) as server, dial(url(server), proxy=None) as conn:
        with pytest.raises(ValueError, match="1006"):
            await server.close(1006)
        await conn.send("still there")
        assert await conn.recv() == "still there"
