"""What failed, was cancelled or is over leaves no descriptor, timer, task or port behind."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Any

import pytest

from koko import ErrBadHandshake
from koko.aio import Dialer, Server, dial
from koko.aio.accept import bind
from tests.aio.conftest import OWN, OWN_TOO, LoopFactory, echo, run, url

resource = pytest.importorskip("resource")

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


# What the system does to us once


def no_thread(*_: object) -> None:
    raise RuntimeError("can't start new thread")


@asynccontextmanager
async def no_descriptors() -> AsyncIterator[None]:
    """Have the system refuse every new descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    gc.collect()  # what earlier tests left may give a descriptor back
    for _ in range(3):
        await asyncio.sleep(0)
    with socket.socket() as free:
        limit = free.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_resolver_without_a_thread_is_an_error_and_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    if type(loop).__module__.startswith("uvloop"):
        return  # its resolver's threads are not Python's
    async with nothing_left():
        server = Server(echo, "localhost")
        with ThreadPoolExecutor() as fresh, monkeypatch.context() as patch:
            loop.set_default_executor(fresh)
            patch.setattr(threading.Thread, "start", no_thread)
            said = r"cannot look up 'localhost' now: can't start new thread"
            with pytest.raises(OSError, match=said):
                await server.start()
            with pytest.raises(OSError, match=said):
                await dial("ws://localhost:1/", proxy=None)
        loop.set_default_executor(ThreadPoolExecutor())
        async with server, dial(f"ws://localhost:{server.address[1]}/", proxy=None) as conn:
            await conn.send("again")
            assert await conn.recv() == "again"


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("given", [False, True], ids=["by name", "by socket"])
def test_a_start_without_a_descriptor_is_an_error_and_works_the_next_time(
    loop_factory: LoopFactory, given: bool, secure: bool, server_tls: ssl.SSLContext
) -> None:
    async def start() -> None:  # what a loop of its own has not opened yet is what there is none of
        sock = socket.create_server(("127.0.0.1", 0)) if given else None
        tls = server_tls if secure else None
        server = Server(echo, None if given else "127.0.0.1", sock=sock, ssl=tls)
        before = descriptors()
        async with no_descriptors():
            with pytest.raises(OSError, match=r"[Tt]oo many open files"):
                await server.start()
        assert server.sockets == ()
        assert sock is None or sock.fileno() >= 0  # it is still the caller's
        assert descriptors() <= before
        async with server:
            assert server.sockets

    run(loop_factory, start())


def test_a_dial_without_a_descriptor_is_an_error_and_works_the_next_time(
    loop_factory: LoopFactory,
) -> None:
    async def refused(
        sock: socket.socket | None, port: int, timeout: float = 10.0
    ) -> BaseException:
        with pytest.raises((OSError, ErrBadHandshake)) as raised:
            await dial(f"ws://127.0.0.1:{port}/", sock=sock, proxy=None, handshake_timeout=timeout)
        return raised.value

    async def dials() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            async with no_descriptors():
                error = await refused(None, port)
            assert isinstance(error, OSError)
            assert error.errno == errno.EMFILE
            # It comes as far as HTTP.
            assert isinstance(await refused(None, port, 0.05), TimeoutError)

    async def dials_on_a_socket() -> None:
        for none_left in (True, False):
            ours, theirs = socket.socketpair()
            theirs.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            async with no_descriptors() if none_left else nullcontext():
                error = await refused(ours, 80)
            # Only a poller of our own needs another descriptor for a socket that is there.
            assert isinstance(error, ErrBadHandshake) or (none_left and "open files" in str(error))
            assert ours.fileno() == -1
            theirs.close()

    run(loop_factory, dials())
    run(loop_factory, dials_on_a_socket())
