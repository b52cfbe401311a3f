"""A server that is full, on real sockets; and how each connection's end is told."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
from contextlib import AsyncExitStack, suppress
from time import monotonic

import pytest

from koko import CloseError, ErrBadHandshake, Response
from koko.aio import Conn, Server, Upgrader, dial
from koko.serving import MOST_REFUSED
from tests.aio.conftest import OWN, OWN_TOO, echo, handshake, raw, url
from tests.logged import of_clients

pytestmark = pytest.mark.usefixtures("loop_factory")

HERE = "127.0.0.1"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that is refused has longer than two seconds: this machine may be busy."""
    monkeypatch.setattr("koko.aio.refuse.REFUSE_TIMEOUT", 60.0)


async def until_empty(server: Server) -> None:
    while server._clients.handlers or server._clients.handshakes or server._clients.refused:
        await asyncio.sleep(0.001)


# max_connections


async def test_one_too_many_is_told_so_and_may_come_when_another_has_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "koko.server")
    async with Server(echo, HERE, max_connections=1) as server:
        async with dial(url(server), proxy=None) as first:
            with pytest.raises(ErrBadHandshake) as raised:
                await dial(url(server, path="/late"), proxy=None)
            assert raised.value.status == 503
            assert b"(max_connections=1), try again later" in raised.value.response.body
            await first.send("still served")
            assert await first.recv() == "still served"
        await until_empty(server)
        async with dial(url(server), proxy=None) as second:
            await second.send("served as well")
            assert await second.recv() == "served as well"
    assert re.search(r"127\.0\.0\.1:\d+ /late: 503: the server is full", caplog.text)


async def test_one_too_many_is_heard_out_up_to_head_limit(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "koko.server")
    upgrader, large = Upgrader(head_limit=30_000), {"Cookie": "x" * 20_000}
    async with Server(echo, HERE, upgrader=upgrader, max_connections=1) as server:
        async with dial(url(server), proxy=None):
            with pytest.raises(ErrBadHandshake, match="503"):
                await dial(url(server, path="/late"), headers=large, proxy=None)
    assert " /late: 503" in caplog.text


async def test_one_too_many_is_told_so_through_tls(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with Server(echo, HERE, ssl=server_tls, max_connections=1) as server:
        async with dial(url(server, "wss"), ssl=client_tls, proxy=None):
            with pytest.raises(ErrBadHandshake, match="503"):
                await dial(url(server, "wss"), ssl=client_tls, proxy=None)


async def test_handshake_that_has_begun_counts() -> None:
    async with Server(echo, HERE, max_connections=1) as server, raw(server) as silent:
        while not server._clients.handshakes:
            await asyncio.sleep(0)
        async with raw(server) as late:
            late.says("no HTTP at all\r\n\r\n")
            assert (await late.hears_all()).startswith(b"HTTP/1.1 503 ")
        silent.says(handshake())
        assert (await silent.hears_head()).startswith("HTTP/1.1 101 ")


async def test_crowd_that_waits_at_the_door_is_bounded() -> None:
    async with (
        Server(echo, HERE, max_connections=1) as server,
        dial(url(server), proxy=None),
        AsyncExitStack() as crowd,
    ):
        for _ in range(MOST_REFUSED):
            await crowd.enter_async_context(raw(server))
        while len(server._clients.refused) < MOST_REFUSED:
            await asyncio.sleep(0)
        async with raw(server) as last:
            with pytest.raises(ConnectionError):
                last.says(handshake())
                if await last.hears_all() == b"":
                    raise ConnectionError("hung up on")
        await server.close(timeout=1)


async def test_plain_http_counts_and_is_answered_with_503_as_well() -> None:
    async with Server(echo, HERE, http=lambda _: Response(200, "up"), max_connections=1) as server:
        async with dial(url(server), proxy=None), raw(server) as asking:
            asking.says("GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await asking.hears_all()).startswith(b"HTTP/1.1 503 ")


async def test_limit_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="max_connections=0: a whole number above 0"):
        Server(echo, max_connections=0)


# Where it listens


async def test_every_address_of_a_name_gets_the_same_port() -> None:
    async with Server(echo, ["127.0.0.1", "127.0.0.2", "localhost"], 0) as server:
        ports = {sock.getsockname()[1] for sock in server.sockets}
        assert len(server.sockets) >= 2
        assert ports == {server.address[1]}
        async with dial(f"ws://127.0.0.2:{server.address[1]}/", proxy=None) as client:
            await client.send("hi")
            assert await client.recv() == "hi"


async def test_address_that_is_not_here_is_an_error_only_alone() -> None:
    async with Server(echo, ["192.0.2.1", "127.0.0.1"], 0) as server:
        assert [sock.getsockname()[0] for sock in server.sockets] == ["127.0.0.1"]
    with pytest.raises(OSError, match=r"192\.0\.2\.1"):
        await Server(echo, "192.0.2.1", 0).start()


async def test_port_in_use_leaves_nothing_open() -> None:
    with socket.create_server((OWN_TOO, 0)) as taken:
        port = taken.getsockname()[1]
        server = Server(echo, [OWN, OWN_TOO], port)
        with pytest.raises(OSError, match="address already in use"):
            await server.start()
        await asyncio.sleep(0)
        with socket.create_server((OWN, port)):
            pass


# The whole handshake has one budget


async def test_tls_and_the_request_share_the_handshake_timeout(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    upgrader = Upgrader(handshake_timeout=5.0)
    async with Server(echo, HERE, ssl=server_tls, upgrader=upgrader) as server:
        began = monotonic()
        sock = socket.create_connection(server.address)
        await asyncio.sleep(4.5)  # most of the budget, before the first byte of TLS
        with suppress(ConnectionError, ssl.SSLError):
            reader, writer = await asyncio.open_connection(
                sock=sock, ssl=client_tls, server_hostname="localhost"
            )
            try:
                await reader.read()
            finally:
                writer.close()
                await writer.wait_closed()
        assert monotonic() - began < 9.5  # what it would be with two budgets


# One line for each end


async def test_end_is_one_line_with_the_peer_as_host_and_port(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "koko.server")
    async with Server(echo, HERE) as server:
        async with dial(url(server, path="/where?x=1"), proxy=None) as client:
            host, port = client.local_address
        await until_empty(server)
    (line,) = of_clients(caplog)
    told, what_it_was = line.split("; after ")
    ending = "peer closed with 1000 (normal); we answered 1000"
    assert told == f"koko.server INFO {host}:{port} /where: {ending}"
    assert re.fullmatch(r"\d+\.\d s, 8 bytes in, 4 out; 0 open", what_it_was)
    assert caplog.records[-1].levelno == logging.INFO


@pytest.mark.parametrize(
    ("octets", "said"),
    [
        (b"", "connection lost; the peer's stream ended without a Close, last heard the opening"),
        (b"\x81\x00", "must mask every frame (RFC 6455 §5.1)"),
    ],
    ids=["vanishes", "breaks the rules"],
)
async def test_peer_that_vanishes_or_misbehaves_is_one_line_at_info_and_no_traceback(
    octets: bytes, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "koko.server")
    async with Server(echo, HERE) as server:
        async with raw(server) as client:
            client.says(handshake())
            await client.hears_head()
            client.says(octets)
            client.writer.write_eof()
            await client.hears_all()
        await until_empty(server)
    (line,) = of_clients(caplog)
    assert said in line
    assert {record.levelno for record in caplog.records} == {logging.INFO}
    assert "Traceback" not in caplog.text


async def test_handler_that_is_cancelled_is_one_line_too(caplog: pytest.LogCaptureFixture) -> None:
    async def for_ever(conn: Conn) -> None:
        await asyncio.get_running_loop().create_future()

    caplog.set_level(logging.INFO, "koko.server")
    async with Server(for_ever, HERE) as server, raw(server) as client:
        client.says(handshake())
        await client.hears_head()
        await server.close(timeout=0.02)
    line = of_clients(caplog)[-1]
    assert "connection lost; we had sent 1001 (going away); " in line


async def test_representation_names_the_peer_as_host_and_port() -> None:
    async with Server(echo, HERE) as server, dial(url(server), proxy=None) as client:
        assert repr(client) == "<koko.aio.Conn open with {}:{}>".format(*server.address)


async def test_wait_closed_of_a_server_waits_for_its_last_handler() -> None:
    left = asyncio.Event()

    async def slow(conn: Conn) -> None:
        try:
            await conn.recv()
        except CloseError:
            await asyncio.sleep(0.01)
            left.set()

    server = Server(slow, HERE)
    await server.start()
    async with dial(url(server), proxy=None) as client:
        waiting = asyncio.create_task(server.wait_closed())
        closing = asyncio.create_task(server.close(1012, "restart"))
        with pytest.raises(CloseError, match=r"1012 \(service restart\) 'restart'"):
            await client.recv()
        await waiting
        assert left.is_set()
        await closing
