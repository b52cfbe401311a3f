"""permessage-deflate with servers and clients of others; compliance/deflate.py asks many more."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from queue import SimpleQueue
from typing import Any

import aiohttp
import aiohttp.web
import picows.websockets.asyncio.client
import picows.websockets.asyncio.server
import pytest
import websockets.asyncio.client
import websockets.asyncio.server

import koko.aio
import koko.sync
from koko import ErrBadHandshake
from koko.core.deflate import Compression
from tests.dialing.conftest import HERE, Face, accepted, echo, script
from tests.sync.conftest import PATIENCE, in_thread
from tests.wire import wire

ROW = "".join(f'{{"id": {number}, "name": "number {number}"}}\n' for number in range(60))
# Alike and in a row, so that a compressor that remembers refers back; below every threshold; large.
SAID = [ROW, ROW, ROW, "hi", "é" * 40_000, bytes(range(256)) * 200]


@contextmanager
def in_a_loop(serve: Callable[[], AbstractAsyncContextManager[int]]) -> Iterator[int]:
    """Run a server of asyncio in a thread; yield its port."""

    async def main() -> None:
        async with serve() as port:
            done = asyncio.Event()
            ready.put((port, partial(asyncio.get_running_loop().call_soon_threadsafe, done.set)))
            await done.wait()

    ready: SimpleQueue[tuple[int, Callable[[], object]]] = SimpleQueue()
    running = in_thread(lambda: asyncio.run(main()))
    port, stop = ready.get(timeout=PATIENCE)
    try:
        yield port
    finally:
        stop()
        running.result(PATIENCE)


# Their servers


async def echo_async(connection: Any) -> None:
    async for message in connection:
        await connection.send(message)


@asynccontextmanager
async def websockets_server() -> AsyncIterator[int]:
    async with websockets.asyncio.server.serve(echo_async, HERE, 0) as server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def picows_server() -> AsyncIterator[int]:
    async with picows.websockets.asyncio.server.serve(echo_async, HERE, 0) as server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def aiohttp_server() -> AsyncIterator[int]:
    async def handler(request: aiohttp.web.Request) -> aiohttp.web.WebSocketResponse:
        response = aiohttp.web.WebSocketResponse()
        await response.prepare(request)
        async for message in response:
            text = message.type is aiohttp.WSMsgType.TEXT
            await (response.send_str if text else response.send_bytes)(message.data)
        return response

    app = aiohttp.web.Application()
    app.router.add_get("/", handler)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    await aiohttp.web.TCPSite(runner, HERE, 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


SERVERS = pytest.mark.parametrize("server", [websockets_server, picows_server, aiohttp_server])
TAKEOVER = Compression(server_no_context_takeover=False, client_no_context_takeover=False)


@SERVERS
@pytest.mark.parametrize("compression", [True, TAKEOVER, Compression(client_max_window_bits=10)])
def test_messages_come_through_compressed_whatever_a_server_answers(
    face: Face, server: Any, compression: bool | Compression
) -> None:
    with in_a_loop(server) as port:
        with face.dial(f"ws://{HERE}:{port}/", compression=compression) as client:
            answer = client.conn.response.headers["Sec-WebSocket-Extensions"]
            assert answer.startswith("permessage-deflate")
            for message in SAID[:3]:
                client.send(message)
            assert [client.recv() for _ in SAID[:3]] == SAID[:3]
            client.echoes(*SAID)


@pytest.mark.parametrize(
    "by_name",
    [Compression(server_no_context_takeover=True), Compression(server_max_window_bits=10)],
)
def test_what_was_asked_for_by_name_and_is_not_promised_is_refused(
    face: Face, by_name: Compression
) -> None:
    with in_a_loop(picows_server) as port:
        with pytest.raises(ErrBadHandshake, match="server did not answer server_"):
            face.dial(f"ws://{HERE}:{port}/", compression=by_name)
        face.turn()


@pytest.mark.parametrize(
    ("answer", "bits"),
    [
        ("permessage-deflate", 15),  # picows, Tornado
        ("permessage-deflate; client_no_context_takeover; server_max_window_bits=9", 9),
        ("permessage-deflate; client_no_context_takeover; server_max_window_bits=14", 14),  # uWS
        (
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
            12,
        ),  # websockets
    ],
)
def test_a_server_that_keeps_its_context_is_understood(face: Face, answer: str, bits: int) -> None:
    compressor = zlib.compressobj(wbits=-bits)
    frames = b""
    for _ in range(3):
        octets = compressor.compress(b"one and the same") + compressor.flush(zlib.Z_SYNC_FLUSH)
        frames += wire("1 100 0001 0 len", octets[:-4])
    line = f"Sec-WebSocket-Extensions: {answer}\n"
    with script(partial(accepted, lines=line, behind=frames)) as server:
        client = face.dial(server.url, compression=True)
        assert [client.recv() for _ in range(3)] == ["one and the same"] * 3
        client.abort()


# Their clients


async def websockets_client(url: str) -> None:
    async with websockets.asyncio.client.connect(url, proxy=None) as client:
        await is_echoed(client.send, client.recv)


async def picows_client(url: str) -> None:
    async with picows.websockets.asyncio.client.connect(url, proxy=None) as client:
        await is_echoed(client.send, client.recv)


async def aiohttp_client(url: str) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, compress=15) as client,
    ):

        async def send(message: Any) -> None:
            await (client.send_str if isinstance(message, str) else client.send_bytes)(message)

        async def recv() -> Any:
            return (await client.receive(PATIENCE)).data

        await is_echoed(send, recv)


async def is_echoed(
    send: Callable[[Any], Awaitable[Any]], recv: Callable[[], Awaitable[Any]]
) -> None:
    for message in SAID[:3]:
        await send(message)
    assert [await recv() for _ in SAID[:3]] == SAID[:3]
    for message in SAID:
        await send(message)
        assert await recv() == message


@contextmanager
def sync_server(compression: bool | Compression, offers: list[str]) -> Iterator[int]:
    def handler(conn: koko.sync.Conn) -> None:
        offers.append(conn.response.headers["Sec-WebSocket-Extensions"])
        echo(conn)

    upgrader = koko.sync.Upgrader(compression=compression)
    with koko.sync.Server(handler, HERE, 0, upgrader=upgrader) as server:
        yield server.address[1]


@contextmanager
def aio_server(compression: bool | Compression, offers: list[str]) -> Iterator[int]:
    async def handler(conn: koko.aio.Conn) -> None:
        offers.append(conn.response.headers["Sec-WebSocket-Extensions"])
        await echo_async(conn)

    @asynccontextmanager
    async def serve() -> AsyncIterator[int]:
        upgrader = koko.aio.Upgrader(compression=compression)
        async with koko.aio.Server(handler, HERE, 0, upgrader=upgrader) as server:
            yield server.address[1]

    with in_a_loop(serve) as port:
        yield port


@pytest.mark.parametrize("serve", [sync_server, aio_server])
@pytest.mark.parametrize("client", [websockets_client, picows_client, aiohttp_client])
@pytest.mark.parametrize(
    "compression",
    [True, TAKEOVER, Compression(server_max_window_bits=10, client_max_window_bits=10)],
)
def test_messages_come_through_compressed_whatever_a_client_offers(
    serve: Any, client: Any, compression: bool | Compression
) -> None:
    answers: list[str] = []
    with serve(compression, answers) as port:
        asyncio.run(client(f"ws://{HERE}:{port}/"))
    (answer,) = answers
    assert answer.startswith("permessage-deflate")
