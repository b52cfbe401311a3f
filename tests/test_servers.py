"""What servers of both faces do alike: one scene, told twice."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import Any

import pytest

from koko import aio, serving, sync
from koko.errors import CloseError
from koko.http import Request, Response
from tests.logged import of_clients

HERE = "127.0.0.1"
PATIENCE = 10.0  # seconds after which a test has failed; nothing waits so long
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
PLAIN = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

Serve = Callable[..., Any]


@contextmanager
def on_threads(handler: Callable[[Any], object] | None, **options: Any) -> Iterator[sync.Server]:
    with sync.Server(handler, HERE, **options) as server:
        yield server


@contextmanager
def on_asyncio(handler: Callable[[Any], object] | None, **options: Any) -> Iterator[aio.Server]:
    """A server in a loop of its own, in a thread of its own."""

    async def handle(conn: aio.Conn) -> None:
        assert handler is not None
        result = handler(conn)
        if isinstance(result, Coroutine):
            await result

    async def main() -> None:
        async with aio.Server(handler and handle, HERE, **options) as server:
            started.append((server, asyncio.get_running_loop()))
            ready.set()
            await stop.wait()

    started: list[tuple[aio.Server, asyncio.AbstractEventLoop]] = []
    ready, stop = threading.Event(), asyncio.Event()
    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert ready.wait(PATIENCE)
    (server, loop) = started[0]
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(PATIENCE)


@pytest.fixture(params=[on_threads, on_asyncio], ids=["threads", "asyncio"])
def serve(request: pytest.FixtureRequest) -> Serve:
    return request.param  # type: ignore[no-any-return]


def connected(server: Any) -> socket.socket:
    return socket.create_connection(server.address, PATIENCE)


def read_all(sock: socket.socket) -> bytes:
    heard = b""
    while piece := sock.recv(4096):
        heard += piece
    return heard


# A refused client


def ignore(conn: Any) -> None:
    pass


@pytest.mark.parametrize("behind", [b"", b"x" * 10_000], ids=["", "more than it was asked for"])
def test_a_refused_client_that_does_not_hang_up_is_dropped_after_refuse_timeout(
    serve: Serve, behind: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "REFUSE_TIMEOUT", 0.2)
    with serve(ignore, handshake_timeout=60) as server, connected(server) as sock:
        began = monotonic()
        sock.sendall(PLAIN + behind)
        assert read_all(sock).startswith(b"HTTP/1.1 426 ")
        with pytest.raises(OSError, match="(?i)reset|pipe|abort"):
            while monotonic() < began + PATIENCE:
                sock.sendall(b"still here")
                threading.Event().wait(0.01)
        assert monotonic() - began > 0.15


def test_an_answer_that_takes_long_to_leave_is_not_cut_off_by_refuse_timeout(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "REFUSE_TIMEOUT", 0.05)
    body = bytes(8_000_000)  # more than a system takes at once

    def http(request: Request) -> Response:
        return Response(200, body)

    with serve(ignore, http=http) as server, connected(server) as sock:
        sock.sendall(PLAIN)
        threading.Event().wait(0.3)  # nobody reads meanwhile
        head, _, heard = read_all(sock).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert len(heard) == len(body)


def test_a_client_for_which_the_server_is_full_is_dropped_after_refuse_timeout(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    for face in ("aio", "sync"):
        monkeypatch.setattr(f"koko.{face}.refuse.REFUSE_TIMEOUT", 0.2)
    with serve(ignore, max_connections=1, handshake_timeout=60) as server:
        with connected(server):  # silent, and counts: it comes first out of the system's queue
            began = monotonic()
            with connected(server) as second:
                assert read_all(second) == b""
            assert monotonic() - began > 0.15


# The end of a handler


def lost() -> CloseError:
    return CloseError(1006, "it was lost")


@pytest.mark.parametrize(
    ("error", "code", "failed"),
    [
        (lost(), 1000, False),
        (ExceptionGroup("tasks", [lost(), ExceptionGroup("inner", [lost()])]), 1000, False),
        (ExceptionGroup("tasks", [lost(), ValueError("mine")]), 1011, True),
        (ValueError("mine"), 1011, True),
    ],
    ids=["one", "a group", "a mixed group", "another error"],
)
def test_a_handler_that_leaves_with_close_errors_alone_has_not_failed(
    serve: Serve,
    error: Exception,
    code: int,
    failed: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def handler(conn: Any) -> None:
        raise error

    caplog.set_level(logging.INFO)
    with serve(handler) as server, connected(server) as sock:
        sock.sendall(UPGRADE)
        heard = b""
        while not heard.endswith(b"\x88\x02" + code.to_bytes(2, "big")):
            piece = sock.recv(4096)
            assert piece, heard
            heard += piece
    levels = {record.levelno for record in caplog.records if record.name == "koko.server"}
    assert (logging.ERROR in levels) is failed
    assert len(of_clients(caplog, logging.INFO)) == 1 + failed


# A port that is taken


@pytest.fixture(params=["listens", "listens later"])
def taken(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """Where nobody can listen any more, as options; with it the address."""
    with socket.socket() as other, socket.socket() as bound:
        for sock in (other, bound):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((HERE, 0))
        where = other.getsockname()
        if request.param == "listens":
            options: dict[str, Any] = {"host": HERE, "port": where[1]}
        else:  # both may be bound; it is listen() that the second is refused
            bound.bind(where)
            options = {"sock": bound}
        other.listen()
        yield options | {"taken": f"{HERE}:{where[1]}"}


def test_a_taken_port_is_told_in_the_same_words(taken: dict[str, Any]) -> None:
    where = taken.pop("taken")
    said = f"could not listen on {where}: address already in use"

    async def on_asyncio() -> None:
        await aio.Server(aio.Conn.wait_closed, **taken).start()

    for start in (sync.Server(ignore, **taken).start, lambda: asyncio.run(on_asyncio())):
        with pytest.raises(OSError, match="in use") as raised:
            start()
        assert (raised.value.errno, raised.value.strerror) == (errno.EADDRINUSE, said)


# A flood


def test_clients_that_never_finish_tls_do_not_evade_max_connections(
    serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for face in ("aio", "sync"):  # none of them has its time over meanwhile
        monkeypatch.setattr(f"koko.{face}.refuse.REFUSE_TIMEOUT", 60.0)
    caplog.set_level(logging.INFO, "koko.server")
    most, context = 1 + serving.MOST_REFUSED, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with serve(ignore, max_connections=1, ssl=context) as server, ExitStack() as stack:
        clients = []
        for _ in range(most + 5):
            clients.append(stack.enter_context(connected(server)))
        addresses = [f"{HERE}:{dropped.getsockname()[1]} " for dropped in clients[most:]]
        for dropped in clients[most:]:
            assert dropped.recv(1) == b""
        for kept in clients[:most]:
            kept.setblocking(False)
            with pytest.raises(BlockingIOError):
                kept.recv(1)
    lines = [record.getMessage() for record in caplog.records]
    full = [line for line in lines if "the server is full (max_connections=1)" in line]
    assert [sum(line.startswith(address) for line in full) for address in addresses] == [1] * 5


# A serve() that is given a socket


def test_serve_takes_a_socket_beside_an_upgrader() -> None:
    bound = socket.create_server((HERE, 0))
    another = socket.create_server((HERE, 0))
    addresses, served = [bound.getsockname(), another.getsockname()], []

    def stop(server: sync.Server) -> None:
        served.append(server.address)
        threading.Thread(target=server.close).start()

    sync.serve(ignore, sock=bound, upgrader=sync.Upgrader(), on_start=stop)

    async def stop_at_once(server: aio.Server) -> None:
        served.append(server.address)
        await server.close()

    async def main() -> None:
        tasks = []
        await aio.serve(
            ignore,
            sock=another,
            upgrader=aio.Upgrader(),
            on_start=lambda server: tasks.append(asyncio.create_task(stop_at_once(server))),
        )

    asyncio.run(main())
    assert served == addresses
