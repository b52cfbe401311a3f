"""``koko.testing`` in fixtures of pytest-asyncio, which ends them in other tasks than it began."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import plugins_site
import pytest
import pytest_asyncio
from plugins_site import app

from koko.testing import aio, sync


@pytest_asyncio.fixture
async def client() -> AsyncIterator[aio.AsgiClient]:
    async with aio.asgi(app) as client:
        yield client


@pytest_asyncio.fixture
async def conn(client: aio.AsgiClient) -> AsyncIterator[aio.Conn]:
    async with client.dial("/echo") as conn:
        yield conn


@pytest_asyncio.fixture
async def both() -> AsyncIterator[aio.Pair]:
    async with aio.pair() as both:
        yield both


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kept() -> AsyncIterator[aio.Conn]:
    async with aio.asgi(app) as client, client.dial("/echo") as conn:
        yield conn


@pytest.fixture
def on_threads() -> Iterator[sync.AsgiClient]:
    with sync.asgi(app) as client:
        yield client


async def test_a_conn(conn: aio.Conn, both: aio.Pair) -> None:
    for message in ("one", "two"):
        await conn.send(message)
        assert await conn.recv() == message
    await both.client.send("three")
    assert await both.server.recv() == "three"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("message", ["one", "two"])
async def test_a_conn_of_the_module(kept: aio.Conn, message: str) -> None:
    await kept.send(message)
    assert await kept.recv() == message


@pytest.mark.xfail(strict=True, raises=AssertionError)
async def test_that_fails(conn: aio.Conn, both: aio.Pair) -> None:
    await conn.send("nobody reads the echo")
    await both.client.send("nobody reads this")
    raise AssertionError


async def test_a_timeout_round_all_of_it() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), aio.asgi(app) as client, client.dial("/echo") as conn:
            await conn.recv()


def test_threads(on_threads: sync.AsgiClient) -> None:
    with on_threads.dial("/echo") as conn:
        conn.send("one")
        assert conn.recv() == "one"


def test_every_application_but_that_of_the_module_was_ended() -> None:
    assert plugins_site.told.count("up") == plugins_site.told.count("down") + 1
