"""The client on real sockets: other people's servers, refusals, what is left when it fails."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from http.cookiejar import CookieJar
from time import perf_counter

import aiohttp.web
import pytest
import websockets.asyncio.server

from koko import CloseError, ErrBadHandshake, HandshakeError
from koko.aio import Conn, Dialer, Server, Upgrader, dial
from koko.core.handshake import accept_key
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


async def test_certificate_that_we_do_not_trust_is_refused(server_tls: ssl.SSLContext) -> None:
    async with Server(echo, HERE, ssl=server_tls) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            await dial(url(server, "wss"), proxy=None)


async def test_certificate_of_another_name_is_refused(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with Server(echo, HERE, ssl=server_tls) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            await dial(
                url(server, "wss"), ssl=client_tls, server_hostname="other.example", proxy=None
            )


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


async def test_frames_right_behind_the_acceptance_are_read_first_and_in_order() -> None:
    behind = wire("1 000 0001 0 len", b"early") + wire("1 000 0001 0 len", b"bird")
    behind += wire("1 000 1000 0 len", b"\x03\xe8bye")
    async with script(lambda head: accepted(head, behind=behind)) as server:
        async with dial(f"ws://{server.address}", proxy=None) as conn:
            assert [message async for message in conn] == ["early", "bird"]
            assert conn.ending.received == (1000, "bye")


async def test_many_early_messages_wait_until_somebody_reads() -> None:
    frames = [wire("1 000 0010 0 len", bytes([number]) * 30_000) for number in range(10)]
    async with script(lambda head: accepted(head, behind=b"".join(frames))) as server:
        async with dial(f"ws://{server.address}", proxy=None) as conn:
            await asyncio.sleep(0)
            for number in range(10):
                assert await conn.recv() == bytes([number]) * 30_000
            with pytest.raises(CloseError, match="without a Close"):
                await conn.recv()


async def test_user_and_password_of_the_url_become_a_header() -> None:
    async with script(accepted) as server:
        async with dial(f"ws://me:s%3Acret@{server.address}/x?y", proxy=None):
            assert server.heard[0].startswith("GET /x?y HTTP/1.1\r\n")
            assert server.header("Authorization") == "Basic bWU6czpjcmV0"


async def test_headers_of_the_dialer_and_of_the_call_are_sent() -> None:
    async with script(accepted) as server:
        dialer = Dialer(headers={"X-A": "dialer"}, origin="https://app.example", proxy=None)
        async with dialer.dial(f"ws://{server.address}", headers={"X-B": "call"}):
            sent = [server.header(name) for name in ("X-A", "X-B", "Origin")]
            assert sent == ["dialer", "call", "https://app.example"]


async def test_cookies_are_stored_and_sent_back() -> None:
    cookie = "Set-Cookie: taste=sweet; Path=/\r\n"
    async with script(lambda head: accepted(head, cookie), accepted) as server:
        dialer = Dialer(jar=CookieJar(), proxy=None)
        for _ in range(2):
            async with dialer.dial(f"ws://{server.address}"):
                pass
        assert [server.header("Cookie", client) for client in (0, 1)] == [None, "taste=sweet"]


async def test_redirect_is_followed() -> None:
    moved = says("HTTP/1.1 302 Found\nLocation: /there\nContent-Length: 0\n\n")
    async with script(moved, accepted) as server:
        async with dial(f"ws://{server.address}/here", proxy=None) as conn:
            assert conn.request.target == "/there"
            assert [head.split()[1] for head in server.heard] == ["/here", "/there"]


async def test_redirects_without_end_are_refused() -> None:
    moved = says("HTTP/1.1 307 Over There\nLocation: /\nContent-Length: 0\n\n")
    async with script(*[moved] * 3) as server:
        with pytest.raises(ErrBadHandshake, match="max_redirects=2"):
            await dial(f"ws://{server.address}", max_redirects=2, proxy=None)
        assert len(server.heard) == 3


# Failures


@pytest.mark.parametrize(
    "body",
    ["Content-Length: 12\n\nnot for you.", "\nnot for you.", "Transfer-Encoding: chunked\n\n"
     "c\nnot for you.\n0\n\n"],
    ids=["length", "end of stream", "chunks"],
)  # fmt: skip
async def test_refusal_shows_the_servers_answer_with_its_body(body: str) -> None:
    async with script(says(f"HTTP/1.1 403 Forbidden\nX-Why: because\n{body}")) as server:
        with pytest.raises(ErrBadHandshake, match="not for you") as raised:
            await dial(f"ws://{server.address}", proxy=None)
        response = raised.value.response
        assert (response.status, response.body) == (403, b"not for you.")
        assert response.headers["X-Why"] == "because"
        await server.hung_up.wait()


async def test_acceptance_for_another_key_is_refused() -> None:
    wrong = "HTTP/1.1 101 OK\nUpgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Accept: x\n\n"
    async with script(says(wrong)) as server:
        with pytest.raises(ErrBadHandshake, match="Sec-WebSocket-Accept"):
            await dial(f"ws://{server.address}", proxy=None)
        await server.hung_up.wait()


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [("", "closed the connection after 0 bytes"), ("220 smtp.example ESMTP\n", "bad answer")],
)
async def test_what_is_not_http_is_a_handshake_error(answer: str, complaint: str) -> None:
    async with script(says(answer)) as server:
        with pytest.raises(HandshakeError, match=complaint):
            await dial(f"ws://{server.address}", proxy=None)
        await server.hung_up.wait()


async def test_server_that_never_answers_is_left_after_the_timeout() -> None:
    async with script() as server:
        with pytest.raises(
            TimeoutError, match=r"no handshake with ws://127.*/ within 0.05 s"
        ) as raised:
            await dial(f"ws://me:secret@{server.address}", handshake_timeout=0.05, proxy=None)
        assert "secret" not in str(raised.value)
        await server.hung_up.wait()


async def test_server_that_speaks_no_tls_is_left_after_the_timeout() -> None:
    with socket.create_server((HERE, 0)) as silent:
        address = f"wss://{HERE}:{silent.getsockname()[1]}"
        with pytest.raises(TimeoutError, match="no handshake"):
            await dial(address, handshake_timeout=0.05, proxy=None)


async def test_dial_that_is_cancelled_leaves_nothing_open() -> None:
    async with script() as server:
        dialing = asyncio.ensure_future(dial(f"ws://{server.address}", proxy=None)._open())
        await server.arrived.wait()
        dialing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialing
        await server.hung_up.wait()


async def test_port_where_nobody_listens_is_an_os_error() -> None:
    with socket.create_server((HERE, 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        await dial(f"ws://{HERE}:{port}", proxy=None)


async def test_url_that_is_none_is_a_value_error_before_anything_is_opened() -> None:
    with pytest.raises(ValueError, match="has the scheme 'http'"):
        await dial("http://localhost")


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


async def test_both_ends_of_ours_agree_on_compression() -> None:
    async with (
        Server(echo, HERE, upgrader=Upgrader(compression=True)) as server,
        dial(url(server), compression=True, proxy=None) as conn,
    ):
        assert "permessage-deflate" in conn.response.headers["Sec-WebSocket-Extensions"]
        await talk(conn)
