"""``koko.testing`` in fixtures of anyio's plugin for pytest."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from plugins_site import app

from koko.testing import aio

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
async def client() -> AsyncIterator[aio.AsgiClient]:
    async with aio.asgi(app) as client:
        yield client


@pytest.fixture(scope="module")
async def both() -> AsyncIterator[aio.Pair]:
    async with aio.pair() as both:
        yield both


@pytest.mark.parametrize("message", ["one", "two"])
async def test_a_conn(client: aio.AsgiClient, both: aio.Pair, message: str) -> None:
    async with client.dial("/echo") as conn:
        await conn.send(message)
        assert await conn.recv() == message
    await both.client.send(message)
    assert await both.server.recv() == message


@pytest.mark.xfail(strict=True, raises=AssertionError)
async def test_that_fails(client: aio.AsgiClient) -> None:
    async with client.dial("/echo") as conn, aio.pair() as both:
        await conn.send("nobody reads the echo")
        await both.client.send("nobody reads this")
        raise AssertionError


async def test_a_scope_that_is_cancelled_at_every_wait() -> None:
    with pytest.raises(TimeoutError), anyio.fail_after(0.1):
        async with aio.asgi(app) as client, client.dial("/echo") as conn, aio.pair():
            await conn.recv()
