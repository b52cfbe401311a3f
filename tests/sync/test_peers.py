"""Other people's clients against our server, our client against theirs."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import aiohttp.web
import pytest
import websockets.asyncio.server
import websockets.sync.client
import websockets.sync.server

from koko.errors import CloseError
from koko.sync import Conn, Server, Upgrader, dial
from tests.sync.conftest import PATIENCE, in_thread

SAID = ["", "hello", "é" * 70_000, b"", bytes(range(256)), bytes(300_000)]


def echo(conn: Conn) -> None:
    for message in conn:
        conn.send(message)


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_the_sync_client_of_websockets_is_echoed(compression: str | None) -> None:
    upgrader = Upgrader(compression=True, read_limit=None)
    with Server(echo, "127.0.0.1", upgrader=upgrader) as server:
        address = f"ws://127.0.0.1:{server.address[1]}"
        with websockets.sync.client.connect(
            address, compression=compression, max_size=None, proxy=None
        ) as client:
            for message in SAID:
                client.send(message)
                assert client.recv(PATIENCE) == message
            assert client.ping().wait(PATIENCE)
    assert client.close_code == 1000


def test_the_client_of_aiohttp_is_echoed() -> None:
    async def talk(address: str) -> int | None:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(address, compress=15, max_msg_size=0) as client,
        ):
            for message in SAID:
                if isinstance(message, str):
                    await client.send_str(message)
                else:
                    await client.send_bytes(message)
                assert (await client.receive(PATIENCE)).data == message
            await client.close(code=4321)
            return client.close_code

    with Server(echo, "127.0.0.1", upgrader=Upgrader(compression=True)) as server:
        assert asyncio.run(talk(f"ws://127.0.0.1:{server.address[1]}")) == 4321


def test_our_client_talks_to_the_sync_server_of_websockets(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    def handler(connection: Any) -> None:
        for message in connection:
            connection.send(message)
        connection.close(4000)

    with websockets.sync.server.serve(
        handler, "127.0.0.1", 0, ssl=server_tls, max_size=None
    ) as server:
        serving = in_thread(server.serve_forever)
        port = server.socket.getsockname()[1]
        with dial(f"wss://127.0.0.1:{port}", ssl=client_tls, compression=True) as conn:
            for message in SAID:
                conn.send(message)
                assert conn.recv(PATIENCE) == message
            assert conn.ping(timeout=PATIENCE) > 0
        assert str(conn.ending) == "we closed with 1000 (normal); peer answered 1000"
        server.shutdown()
        serving.result(PATIENCE)


def in_a_loop(main: Callable[[asyncio.Future[int], asyncio.Event], Awaitable[None]]) -> Any:
    """Run an asyncio server in a thread; return its port and what stops it."""
    ports: Any = __import__("queue").SimpleQueue()

    async def run() -> None:
        port, stop = asyncio.get_running_loop().create_future(), asyncio.Event()
        port.add_done_callback(lambda done: ports.put((done.result(), loop, stop)))
        loop = asyncio.get_running_loop()
        await main(port, stop)

    running = in_thread(lambda: asyncio.run(run()))
    port, loop, stop = ports.get(timeout=PATIENCE)

    def end() -> None:
        loop.call_soon_threadsafe(stop.set)
        running.result(PATIENCE)

    return port, end


def test_our_client_talks_to_the_asyncio_server_of_websockets() -> None:
    async def handler(connection: Any) -> None:
        async for message in connection:
            await connection.send(message)

    async def main(port: asyncio.Future[int], stop: asyncio.Event) -> None:
        async with websockets.asyncio.server.serve(
            handler, "127.0.0.1", 0, max_size=None
        ) as server:
            port.set_result(server.sockets[0].getsockname()[1])
            await stop.wait()

    port, end = in_a_loop(main)
    conn = dial(f"ws://127.0.0.1:{port}", compression=True)
    for message in SAID:
        conn.send(message)
        assert conn.recv(PATIENCE) == message
    ending = in_thread(end)
    with pytest.raises(CloseError) as caught:
        conn.recv(PATIENCE)
    assert caught.value.code == 1001
    ending.result(PATIENCE)
    conn.close()


def test_our_client_talks_to_the_server_of_aiohttp() -> None:
    async def handler(request: aiohttp.web.Request) -> aiohttp.web.WebSocketResponse:
        response = aiohttp.web.WebSocketResponse(max_msg_size=0)
        await response.prepare(request)
        async for message in response:
            if message.type is aiohttp.WSMsgType.TEXT:
                await response.send_str(message.data)
            else:
                await response.send_bytes(message.data)
        return response

    async def main(port: asyncio.Future[int], stop: asyncio.Event) -> None:
        app = aiohttp.web.Application()
        app.router.add_get("/", handler)
        runner = aiohttp.web.AppRunner(app)
        await runner.setup()
        await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
        port.set_result(runner.addresses[0][1])
        await stop.wait()
        await runner.cleanup()

    port, end = in_a_loop(main)
    with dial(f"ws://127.0.0.1:{port}", compression=True) as conn:
        for message in SAID:
            conn.send(message)
            assert conn.recv(PATIENCE) == message
    end()
    assert str(conn.ending) == "we closed with 1000 (normal); peer answered 1000"
