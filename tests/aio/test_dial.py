"""The client on real sockets: other people's servers, refusals, what is left when it fails."""

from __future__ import annotations

import asyncio
import asyncio.constants
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from time import perf_counter

import aiohttp.web
import pytest
import websockets.asyncio.server

from koko import CloseError, HandshakeError
from koko.aio import Conn, Server, dial
from koko.opening.handshake import accept_key
from tests.aio.conftest import echo, url
from tests.wire import wire

pytestmark = pytest.mark.usefixtures("loop_factory")

HERE = "127.0.0.1"
SAID = ["", "hello", "é" * 70_000, b"", bytes(range(256)), bytes(300_000)]


async def talk(conn: Conn) -> None:
    for message in SAID:
        await conn.send(message)
        assert await conn.recv() == message
    began = perf_counter()
    assert 0 < await conn.ping() <= perf_counter() - began


# Other people's servers


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_server_of_websockets_echoes_us(compression: str | None) -> None:
    async def handler(connection: websockets.asyncio.server.ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with (
        websockets.asyncio.server.serve(
            handler, HERE, 0, compression=compression, max_size=None, subprotocols=["b", "a"]
        ) as server,
        dial(
            f"ws://{HERE}:{server.sockets[0].getsockname()[1]}",
            compression=True,
            subprotocols=["a"],
            proxy=None,
        ) as conn,
    ):
        assert conn.subprotocol == "a"
        assert ("Sec-WebSocket-Extensions" in conn.response.headers) is (compression is not None)
        await talk(conn)
        await conn.close(4321, "enough")
        assert conn.ending.received == (4321, "enough")


async def test_server_of_aiohttp_echoes_us() -> None:
    async def handler(request: aiohttp.web.Request) -> aiohttp.web.WebSocketResponse:
        response = aiohttp.web.WebSocketResponse(max_msg_size=0, protocols=["b", "a"])
        await response.prepare(request)
        async for message in response:
            await (response.send_str if isinstance(message.data, str) else response.send_bytes)(
                message.data
            )
        return response

    app = aiohttp.web.Application()
    app.router.add_get("/", handler)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    await aiohttp.web.TCPSite(runner, HERE, 0).start()
    try:
        address = f"ws://{HERE}:{runner.addresses[0][1]}/"
        async with dial(address, compression=True, subprotocols=["a"], proxy=None) as conn:
            assert conn.subprotocol == "a"
            await talk(conn)
            await conn.close(4321)
            assert conn.ending.received.code == 1000  # which is its answer to every code
    finally:
        await runner.cleanup()


# TLS


async def test_wss_server_that_we_trust_echoes_us(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with (
        Server(echo, HERE, ssl=server_tls) as server,
        dial(url(server, "wss"), ssl=client_tls, proxy=None) as conn,
    ):
        await talk(conn)


async def test_wss_connection_that_the_server_closes_ends_in_order(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with (
        Server(echo, HERE, ssl=server_tls) as server,
        dial(url(server, "wss"), ssl=client_tls, proxy=None) as conn,
    ):
        server._begin_closing(1012, "restart")
        with pytest.raises(CloseError, match="restart"):
            await conn.recv()


# What is sent and what comes back: a server that answers by script


Answer = Callable[[str], bytes]


class Script:
    """A server that gives each client in turn an answer; ``heard`` are their request heads."""

    def __init__(self, *answers: Answer) -> None:
        self.heard: list[str] = []
        self.arrived = asyncio.Event()
        self.hung_up = asyncio.Event()
        self.address = ""
        self._answers = iter(answers)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heard.append(head)
        self.arrived.set()
        answer = next(self._answers, None)
        if answer is not None:
            writer.write(answer(head))
            writer.write_eof()
        with suppress(ConnectionResetError):
            await reader.read()
        self.hung_up.set()
        writer.close()

    def header(self, name: str, client: int = 0) -> str | None:
        for line in self.heard[client].split("\r\n"):
            if line.lower().startswith(f"{name.lower()}: "):
                return line.partition(": ")[2]
        return None


@asynccontextmanager
async def script(*answers: Answer) -> AsyncIterator[Script]:
    played = Script(*answers)
    server = await asyncio.start_server(played, HERE, 0)
    async with server:
        played.address = f"{HERE}:{server.sockets[0].getsockname()[1]}"
        yield played


def accepted(head: str, lines: str = "", behind: bytes = b"") -> bytes:
    key = head.partition("Sec-WebSocket-Key: ")[2].partition("\r\n")[0]
    answer = (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_key(key)}\r\n{lines}\r\n"
    )
    return answer.encode() + behind


def says(answer: str) -> Answer:
    return lambda head: answer.replace("\n", "\r\n").encode()


async def test_many_early_messages_wait_until_somebody_reads() -> None:
    frames = [wire("1 000 0010 0 len", bytes([number]) * 30_000) for number in range(10)]
    async with script(lambda head: accepted(head, behind=b"".join(frames))) as server:
        async with dial(f"ws://{server.address}", proxy=None) as conn:
            await asyncio.sleep(0)
            for number in range(10):
                assert await conn.recv() == bytes([number]) * 30_000
            with pytest.raises(CloseError, match="without a Close"):
                await conn.recv()


# Failures


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [("", "closed the connection after 0 bytes"), ("220 smtp.example ESMTP\n", "bad answer")],
)
async def test_what_is_not_http_is_a_handshake_error(answer: str, complaint: str) -> None:
    async with script(says(answer)) as server:
        with pytest.raises(HandshakeError, match=complaint):
            await dial(f"ws://{server.address}", proxy=None)
        await server.hung_up.wait()


async def test_dial_that_is_cancelled_leaves_nothing_open() -> None:
    async with script() as server:
        dialing = asyncio.ensure_future(dial(f"ws://{server.address}", proxy=None)._open())
        await server.arrived.wait()
        dialing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialing
        await server.hung_up.wait()


async def test_block_that_fails_closes_with_1011() -> None:
    heard: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def handler(conn: Conn) -> None:
        try:
            await conn.recv()
        except CloseError as error:
            heard.set_result(error.code)

    async with Server(handler, HERE) as server:
        with pytest.raises(ZeroDivisionError):
            async with dial(url(server), proxy=None):
                raise ZeroDivisionError
        assert await heard == 1011


async def test_no_limit_of_the_loops_own_ends_tls_before_handshake_timeout(
    monkeypatch: pytest.MonkeyPatch, client_tls: ssl.SSLContext
) -> None:
    # A minute by default, and uvloop's cannot be changed.
    monkeypatch.setattr(asyncio.constants, "SSL_HANDSHAKE_TIMEOUT", 0.01)
    with socket.create_server((HERE, 0)) as silent:
        address = f"wss://{HERE}:{silent.getsockname()[1]}/"
        with pytest.raises(TimeoutError, match="TLS handshake with"):
            await dial(address, ssl=client_tls, handshake_timeout=3, proxy=None)
