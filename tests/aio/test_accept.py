"""Who is accepted and who is not: TLS that fails, a system that has run out, clients long gone."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
import struct
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

from koko import serving, sync
from koko.aio import Conn, Server, Upgrader, dial
from koko.aio import transport as transports
from koko.aio.admit import OpeningHandshake
from koko.http import Request, Response
from koko.serving import MOST_REFUSED, server_full
from tests.aio.conftest import FACTORIES, echo, handshake, raw, url
from tests.aio.test_left_behind import nothing_left
from tests.callers import CALLERS, HELLO, SPENT, Caller, Failing, strict
from tests.logged import of_client, of_clients

resource = pytest.importorskip("resource")

pytestmark = pytest.mark.usefixtures("loop_factory")

HERE = "127.0.0.1"


@pytest.fixture(params=[True, False], ids=["aiofastnet", "TLS of the loop"])
def fast_tls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers with aiofastnet and without."""
    if not request.param:
        monkeypatch.setattr(transports, "aiofastnet", None)
    elif transports.aiofastnet is None:
        pytest.skip("aiofastnet is not installed")


@pytest.fixture
def strict_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", HERE).configure_cert(context)
    return strict(context)


def at_tls(server: Server) -> Any:
    """Return those that were accepted and have no protocol yet."""
    assert server._acceptor is not None
    return server._acceptor._connecting


async def until(done: Callable[[], object]) -> None:
    while not done():
        await asyncio.sleep(0)


# TLS that does not come about


@pytest.mark.usefixtures("fast_tls")
@pytest.mark.parametrize("at_once", [True, False], ids=["before it is accepted", "after"])
@pytest.mark.parametrize("caller", CALLERS, ids=lambda caller: caller.name)
async def test_tls_that_fails_is_one_line_at_info_with_the_address(
    caller: Caller, at_once: bool, strict_tls: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with Server(echo, HERE, ssl=strict_tls, handshake_timeout=caller.timeout) as server:
        if at_once:
            sock, peer = caller.calls(server.address)
        else:
            sock, peer = await asyncio.to_thread(caller.calls, server.address)
        with sock:
            await until(lambda: of_client(caplog, peer))
    assert of_client(caplog, peer) == [f"koko.server INFO {peer} -: {caller.told}"]
    assert {record.exc_info for record in caplog.records} == {None}


@pytest.mark.usefixtures("fast_tls")
@pytest.mark.parametrize("asked", [False, True], ids=["before its request", "behind it"])
async def test_a_client_of_a_unix_socket_that_leaves_behind_tls_is_one_line(
    asked: bool,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def never(request: Request) -> Response:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    def leave() -> None:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        with client_tls.wrap_socket(sock, server_hostname="localhost") as client:
            if asked:
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

    caplog.set_level(logging.INFO)
    path = str(tmp_path / "socket")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    async with Server(echo, sock=listener, ssl=server_tls, http=never):
        await asyncio.to_thread(leave)
        await until(lambda: of_clients(caplog, logging.INFO))
    (line,) = of_clients(caplog, logging.INFO)
    assert line.startswith("koko.server INFO a Unix socket ")
    assert "the client hung up before" in line


@pytest.mark.usefixtures("fast_tls")
async def test_a_client_that_resets_behind_its_last_message_is_gone_at_once(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    heard = []

    async def listen(conn: Conn) -> None:
        async for message in conn:
            heard.append(message)

    async with Server(listen, HERE, ssl=server_tls, ping_interval=None) as server:
        url = f"wss://localhost:{server.address[1]}/"
        client = await asyncio.to_thread(sync.dial, url, ssl=client_tls, proxy=None)
        await until(lambda: server.connections)
        # The loop does nothing meanwhile: it finds both at once.
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.send("last")
        client.abort()
        await until(lambda: not server.connections)
    assert heard in ([], ["last"])  # the system may drop what came before a reset


@pytest.mark.usefixtures("fast_tls")
@pytest.mark.parametrize("octets", [b"", HELLO], ids=["silent", "in its handshake"])
async def test_a_server_that_closes_gives_up_those_at_tls(
    octets: bytes, strict_tls: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with nothing_left():
        caplog.clear()
        async with Server(echo, HERE, ssl=strict_tls) as server:
            sock, peer = Caller("", octets, "waits", "").calls(server.address)
            await until(lambda: at_tls(server))
            for _ in range(3):
                await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        with sock:
            sock.settimeout(10)
            while sock.recv(4096):
                pass  # what the server had sent already; then the end
    told = f"koko.server INFO {peer} -: TLS failed: the server is going away"
    assert of_clients(caplog, logging.INFO) == [told]


@pytest.mark.usefixtures("fast_tls")
async def test_one_that_has_agreed_on_tls_as_the_server_closes_is_answered(
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    begin = OpeningHandshake.connection_made

    def closes(handshake: OpeningHandshake, transport: asyncio.BaseTransport) -> None:
        begin(handshake, transport)
        server._begin_closing()

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(OpeningHandshake, "connection_made", closes)
    async with Server(echo, HERE, ssl=server_tls) as server:
        reader, writer = await asyncio.open_connection(
            *server.address, ssl=client_tls, server_hostname="localhost"
        )
        assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    (line,) = of_clients(caplog, logging.INFO)
    assert line.endswith("503: the server is going away, try again later")


@pytest.mark.usefixtures("fast_tls")
@pytest.mark.parametrize("factory", FACTORIES)
async def test_a_crowd_is_accepted_at_once_and_each_is_served(
    factory: Any, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    asyncio.get_running_loop().set_task_factory(factory)
    async with Server(echo, HERE, ssl=server_tls) as server, AsyncExitStack() as stack:
        socks = [socket.create_connection(server.address) for _ in range(50)]
        await until(lambda: at_tls(server))
        assert len(at_tls(server)) == 50
        for sock in socks:
            sock.setblocking(False)
            to = url(server, "wss")
            conn = await stack.enter_async_context(dial(to, sock=sock, ssl=client_tls))
            await conn.send("hi")
            assert await conn.recv() == "hi"
        assert not at_tls(server)


@pytest.mark.usefixtures("fast_tls")
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_a_unix_socket_is_served_too(
    secure: bool, tmp_path: Any, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    path = str(tmp_path / "socket")
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    async with Server(echo, sock=sock, ssl=server_tls if secure else None):
        to, tls = ("wss://localhost/", client_tls) if secure else ("ws://localhost/", None)
        async with dial(to, unix=path, ssl=tls) as conn:
            await conn.send("hi")
            assert await conn.recv() == "hi"


# A system that has run out of something


@pytest.mark.parametrize("kind", ["plain", "plain of the loop", "tls"])
async def test_a_server_that_runs_out_of_files_says_so_and_goes_on(
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
) -> None:
    monkeypatch.setattr(serving, "RETRY", 0.02)
    if kind == "plain of the loop":
        monkeypatch.setattr(transports, "ours", None)
    ours, theirs = (server_tls, client_tls) if kind == "tls" else (None, None)
    loop = asyncio.get_running_loop()
    async with Server(echo, HERE, ssl=ours) as server:
        to = url(server, "wss" if kind == "tls" else "ws")
        async with dial(to, ssl=theirs, proxy=None) as first:
            late = socket.socket()
            late.setblocking(False)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            with socket.socket() as free:
                limit = free.fileno()
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            try:
                begun = loop.time()
                await loop.sock_connect(late, server.address)
                await until(lambda: len(of_clients(caplog, logging.ERROR)) >= 2)
                assert loop.time() - begun > 0.01  # not in every turn of the loop
                await first.send("others are served")
                assert await first.recv() == "others are served"
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            async with dial(to, sock=late, ssl=theirs) as conn:
                await conn.send("late")
                assert await conn.recv() == "late"
    said = "koko.server ERROR cannot accept: too many open files; next try in 0.02 s"
    assert set(of_clients(caplog, logging.WARNING)) == {said}


@pytest.mark.parametrize("number", SPENT, ids=errno.errorcode.get)
async def test_whatever_the_system_has_none_of_is_one_line_for_each_try(
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(serving, "RETRY", 0.01)
    monkeypatch.setattr(transports, "ours", None)
    monkeypatch.setattr(Failing, "errors", [number] * 2)
    sock = Failing(socket.AF_INET)
    sock.bind((HERE, 0))
    async with Server(echo, sock=sock) as server, dial(url(server), proxy=None) as conn:
        await conn.send("in the end")
        assert await conn.recv() == "in the end"
    reason = os.strerror(number)
    said = f"cannot accept: {reason[0].lower()}{reason[1:]}; next try in 0.01 s"
    assert of_clients(caplog, logging.WARNING) == [f"koko.server ERROR {said}"] * 2


async def test_a_client_that_is_gone_before_it_is_accepted_is_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(transports, "ours", None)
    monkeypatch.setattr(Failing, "errors", [errno.ECONNABORTED, errno.EPROTO, errno.EPERM])
    sock = Failing(socket.AF_INET)
    sock.bind((HERE, 0))
    async with Server(echo, sock=sock) as server, dial(url(server), proxy=None) as conn:
        await conn.send("at once")
        assert await conn.recv() == "at once"
        assert of_clients(caplog, logging.INFO) == []


# Clients that gave up while the server slept


def gives_up(address: tuple[str, int], octets: bytes) -> str:
    """Ask, and hang up before anybody can have answered; return the address."""
    with socket.create_connection(address) as sock:
        host, port = sock.getsockname()
        sock.sendall(octets)
    return f"{host}:{port}"


@pytest.mark.parametrize("native", [True, False], ids=["native transport", "the loop's"])
@pytest.mark.parametrize("behind", [b"", b"\x81\x80abcd"], ids=["", "a frame behind"])
@pytest.mark.parametrize("how", ["handler", "http"])
async def test_no_handler_runs_for_a_client_that_hung_up_while_the_server_slept(
    how: str,
    behind: bytes,
    native: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if not native:
        monkeypatch.setattr(transports, "ours", None)
    caplog.set_level(logging.INFO)
    served: list[object] = []

    async def handler(conn: Conn) -> None:
        served.append(conn)

    async def http(request: Request) -> None:
        async with Upgrader().upgrade(request) as conn:
            served.append(conn)

    ways: dict[str, Any] = {"http": http} if how == "http" else {}
    async with Server(None if ways else handler, HERE, **ways) as server:
        request = handshake().encode() + behind
        peers = {gives_up(server.address, request) for _ in range(20)}  # the loop does not run
        await until(lambda: len(of_clients(caplog)) >= len(peers))
        assert served == []
    told = {
        f"koko.server INFO {peer} /: the client hung up before it was answered" for peer in peers
    }
    assert sorted(of_clients(caplog, logging.INFO)) == sorted(told)


@pytest.mark.usefixtures("fast_tls")
async def test_none_runs_for_one_that_came_over_tls_either(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    served: list[object] = []

    async def handler(conn: Conn) -> None:
        served.append(conn)

    async with Server(handler, HERE, ssl=server_tls) as server:
        sock = await asyncio.to_thread(
            lambda: client_tls.wrap_socket(
                socket.create_connection(server.address), server_hostname="localhost"
            )
        )
        await until(lambda: server._clients.handshakes)
        sock.sendall(handshake().encode())
        sock.close()
        await until(lambda: of_clients(caplog))
    assert served == []
    (line,) = of_clients(caplog, logging.INFO)
    assert line.endswith(" /: the client hung up before it was answered")


async def test_a_frame_right_behind_the_handshake_is_heard() -> None:
    async with Server(echo, HERE) as server, raw(server) as client:
        client.says(handshake().encode() + b"\x81\x82\0\0\0\0hi")
        assert (await client.hears_head()).startswith("HTTP/1.1 101 ")
        await client.hears(b"\x81\x02hi")


async def test_plain_http_of_a_client_that_ended_its_half_is_answered() -> None:
    async with Server(echo, HERE, http=lambda _: Response(200, "up")) as server:
        async with raw(server) as client:
            client.says("GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            client.writer.write_eof()
            assert (await client.hears_all()).startswith(b"HTTP/1.1 200 ")


# A server that is full


async def test_everybody_who_is_turned_away_is_one_line_with_the_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with Server(echo, HERE, max_connections=1) as server:
        async with dial(url(server), proxy=None):
            peers = [gives_up(server.address, b"") for _ in range(MOST_REFUSED + 4)]
            await until(lambda: len(of_clients(caplog)) >= len(peers))
            told = str(server_full(1))
            assert set(of_clients(caplog, logging.INFO)) == {
                f"koko.server INFO {peer} -: {told}" for peer in peers
            }
            assert len(of_clients(caplog)) == len(peers)
