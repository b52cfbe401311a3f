"""What failed, was cancelled or is over leaves no descriptor, timer, task or port behind."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from koko.aio import Dialer, Server, dial
from koko.aio.listen import bind
from tests.aio.conftest import OWN, OWN_TOO, echo, url

pytestmark = pytest.mark.usefixtures("loop_factory")

Way = Callable[[Any, ssl.SSLContext], Awaitable[object]]


async def nobody_there(server: Server, tls: ssl.SSLContext) -> object:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return await dial(f"ws://127.0.0.1:{taken.getsockname()[1]}", proxy=None)


async def tls_to_who_speaks_none(server: Server, tls: ssl.SSLContext) -> object:
    return await dial(url(server, "wss"), ssl=tls, handshake_timeout=0.2)


async def a_context_for_servers(server: Server, tls: ssl.SSLContext) -> object:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    return await dial(url(server, "wss"), ssl=context, handshake_timeout=0.2)


async def a_context_that_is_none(server: Server, tls: ssl.SSLContext) -> object:
    context: Any = "no context"
    return await dial(url(server, "wss"), ssl=context, handshake_timeout=0.2)


async def a_name_that_cannot_be(server: Server, tls: ssl.SSLContext) -> object:
    sock = socket.create_connection(server.address)
    return await dial(f"wss://{'a' * 64}.example", sock=sock, ssl=tls, handshake_timeout=0.2)


async def refused(server: Server, tls: ssl.SSLContext) -> object:
    return await dial(url(server), headers={"Origin": "https://elsewhere.example"})


async def too_late(server: Server, tls: ssl.SSLContext) -> object:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        return await dial(f"ws://127.0.0.1:{port}", proxy=None, handshake_timeout=0.05)


async def a_socket_with_tls(server: Server, tls: ssl.SSLContext) -> object:
    def dialed(host: str, port: int, timeout: float | None) -> socket.socket:
        sock = socket.create_connection(server.address)
        return tls.wrap_socket(sock, server_hostname="x", do_handshake_on_connect=False)

    return await Dialer(net_dial=dialed).dial(url(server))


async def a_socket_that_is_not_connected(server: Server, tls: ssl.SSLContext) -> object:
    return await dial(url(server), sock=socket.socket())


FAILURES: list[Way] = [
    nobody_there,
    tls_to_who_speaks_none,
    a_context_for_servers,
    a_context_that_is_none,
    a_name_that_cannot_be,
    refused,
    too_late,
    a_socket_with_tls,
    a_socket_that_is_not_connected,
]


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def timers() -> list[Any]:
    scheduled = getattr(asyncio.get_running_loop(), "_scheduled", [])  # uvloop does not show them
    return [timer for timer in scheduled if not timer.cancelled() and "koko" in repr(timer)]


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Fail if the block leaves anything; a loop and its threads have what they need by then."""
    async with Server(echo, "localhost") as server, dial(url(server)):
        _, writer = await asyncio.open_connection(*server.address)
        writer.close()
        await writer.wait_closed()
    gc.collect()
    before = descriptors()
    yield
    for _ in range(1000):  # a loop closes in one of its next turns
        if descriptors() <= before and not timers():
            break
        await asyncio.sleep(0)
    assert descriptors() <= before
    assert timers() == []
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("way", FAILURES)
async def test_a_dial_that_fails_leaves_nothing(way: Way, client_tls: ssl.SSLContext) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    async with nothing_left():
        async with Server(echo, "127.0.0.1") as server:
            with pytest.raises((OSError, ValueError, TypeError, AttributeError, Exception)):
                await way(server, client_tls)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_a_dial_cancelled_at_any_moment_leaves_nothing(
    secure: bool, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    async with nothing_left():
        async with Server(echo, "127.0.0.1", ssl=server_tls if secure else None) as server:
            to = url(server, "wss" if secure else "ws")
            for turns in range(25):
                dialing = asyncio.ensure_future(_dial(to, client_tls if secure else None))
                for _ in range(turns):
                    await asyncio.sleep(0)
                dialing.cancel()
                with suppress(asyncio.CancelledError):
                    (await dialing).abort()


async def _dial(to: str, tls: ssl.SSLContext | None) -> Any:
    return await dial(to, ssl=tls, proxy=None)


async def test_a_start_that_fails_leaves_its_ports_free() -> None:
    async with nothing_left():
        with socket.socket() as first, socket.create_server((OWN_TOO, 0)) as taken:
            port = taken.getsockname()[1]
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            for _ in range(2):
                with pytest.raises(OSError, match=f"could not listen on {OWN_TOO}"):
                    await Server(echo, [OWN, OWN_TOO], port).start()
            first.bind((OWN, port))
            first.listen()


async def test_a_start_that_cannot_listen_leaves_its_ports_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def bound_first(*where: Any) -> list[socket.socket]:
        sockets = await bind(*where)
        bound.listen()
        return sockets

    async with nothing_left():
        # Both may be bound; it is listen() that one of the two is refused.
        with socket.socket() as bound:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((OWN_TOO, 0))
            port = bound.getsockname()[1]
            server = Server(echo, [OWN, OWN_TOO], port)
            monkeypatch.setattr(sys.modules["koko.aio.serve"], "bind", bound_first)
            with pytest.raises(OSError, match="in use"):
                await server.start()
            assert server.sockets == ()
            socket.create_server((OWN, port)).close()


async def test_a_client_that_is_closed_leaves_no_timer() -> None:
    async with Server(echo, "127.0.0.1") as server:
        async with nothing_left():
            async with dial(url(server), ping_interval=20) as conn:
                await conn.send("x")
                await conn.recv()
            while server.connections:
                await asyncio.sleep(0)
