"""httpx-ws, both of its faces, as a client of an application in uvicorn and of our own server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from koko import aio
from tests.adapters.conftest import PATIENCE
from tests.frameworks.served import HERE, serving
from tests.test_servers import on_asyncio

pytestmark = [
    pytest.mark.once,
    pytest.mark.integration("uvicorn", "fastapi", "httpx_ws"),
]


async def echo(conn: aio.Conn) -> None:
    async for message in conn:
        await conn.send(message)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with on_asyncio(echo) as server:
        yield "http://{}:{}/".format(*server.address)


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("httpx") / "log"
    with serving(HERE, "fastapi_site:app", log=log) as site:
        yield site.url("/asks", "http")


@pytest.fixture(params=["application", "server"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


SAID = [b"", b"\xff" * 30_000, b"hello"]  # it takes 64 KiB in a message


def test_on_threads(url: str) -> None:
    import httpx
    import httpx_ws

    with httpx.Client(trust_env=False) as client:
        with httpx_ws.connect_ws(url, client) as ws:
            assert ws.ping(b"there?").wait(PATIENCE)
            for octets in SAID:
                ws.send_bytes(octets)
                assert ws.receive_bytes(PATIENCE) == octets


def test_on_asyncio(url: str) -> None:
    import httpx
    import httpx_ws

    async def main() -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            async with httpx_ws.aconnect_ws(url, client) as ws:
                async with asyncio.timeout(PATIENCE):
                    await (await ws.ping(b"there?")).wait()
                for octets in SAID:
                    await ws.send_bytes(octets)
                    assert await ws.receive_bytes(PATIENCE) == octets

    asyncio.run(main())


def test_a_refusal_has_its_status_and_a_close_its_code(application: str) -> None:
    import httpx
    import httpx_ws

    def connect(path: str) -> Any:
        return httpx_ws.connect_ws(application.replace("/asks", path), client)

    with httpx.Client(trust_env=False) as client:
        with pytest.raises(httpx_ws.WebSocketUpgradeError) as refused, connect("/denied"):
            pass
        assert refused.value.response.status_code == 503
        with connect("/late") as ws:
            ws.send_text("hello")
            with pytest.raises(httpx_ws.WebSocketDisconnect) as end:
                ws.receive(PATIENCE)
        assert (end.value.code, end.value.reason) == (1003, "no such thing")
