"""For tests on asyncio: two connected ``Conn``, and a client of an ASGI application."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import NamedTuple, Unpack

from koko.aio import transport
from koko.aio.admit import OpeningHandshake, Service
from koko.aio.clients import Clients
from koko.aio.conn import Conn
from koko.aio.dial import Dialer, Dialing
from koko.aio.tasks import clock_of
from koko.aio.timers import TimerWheel
from koko.aio.upgrade import Upgrader
from koko.dialing import DialerOptions
from koko.http import Headers
from koko.misuse import check_face
from koko.testing._application import Application, check_application
from koko.testing._asgi_server import AsgiServer
from koko.testing._limit import (
    LEAVE,
    TIMEOUT,
    bounded,
    check_timeout,
    code_after,
    overdue,
    shortest,
    url_of,
)

__all__ = ["AsgiClient", "Pair", "asgi", "pair"]


class Pair(NamedTuple):
    """Both ends of a connection."""

    client: Conn
    server: Conn


@asynccontextmanager
async def pair(
    upgrader: Upgrader | None = None,
    dialer: Dialer | None = None,
    *,
    url: str = "/",
    headers: Headers | None = None,
    timeout: float | None = TIMEOUT,
) -> AsyncIterator[Pair]:
    """Open a connection in memory, for an ``async with`` block: ``pair() as (client, server)``.

    Both are what ``dial`` and a server's handler get, after a real opening handshake. No port
    is opened, and nothing leaves the process. At the end of the block both ends are closed; if
    it raises they are closed at once, with 1011.

    Args:
        upgrader: the options of the server; by default as ``serve`` has them.
        dialer: the options of the client; by default as ``dial`` has them.
        url: the path or the ``ws`` URL that the client dials.
        headers: added to its request.
        timeout: seconds that each handshake may take, and that the connection may last; then it
            is dropped, and whatever waits for it is told so by a ``CloseError``. None: no limit.

    Raises:
        ErrBadHandshake: the upgrader refused the request.
    """
    check_face("pair()", "upgrader", upgrader, Upgrader)
    check_face("pair()", "dialer", dialer, Dialer)
    check_timeout(timeout)
    whole, loop = url_of(url), asyncio.get_running_loop()
    opened: asyncio.Future[Conn] = loop.create_future()
    over = asyncio.Event()

    async def hold(conn: Conn) -> None:
        if not opened.done():  # it may be cancelled
            opened.set_result(conn)
        await over.wait()

    clients = Clients(None)
    service = Service(
        hold,
        None,
        upgrader or Upgrader(),
        logging.getLogger("koko.server"),
        clients,
        TimerWheel(loop),
        loop,
        clock_of(loop),
    )
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    try:
        await transport.attach(theirs, OpeningHandshake(service))
        bound = bounded(dialer or Dialer(), timeout)
        async with bound.dial(whole, headers, sock=ours) as client:
            both = Pair(client, await opened)
            with _limited(both, timeout):
                async with _closing(both, over, timeout):
                    yield both
    finally:
        over.set()
        ours.close()  # where the dial did not begin
        if handlers := [task for task in clients.handlers.values() if task is not None]:
            await asyncio.wait(handlers)
        service.timers.settle()


@contextmanager
def _limited(both: Pair, timeout: float | None) -> Iterator[None]:
    """Drop both ends after so many seconds."""
    if timeout is None:
        yield
        return
    loop = asyncio.get_running_loop()
    timer = loop.call_later(timeout, _drop, both, overdue("pair", timeout))
    try:
        yield
    finally:
        timer.cancel()


@asynccontextmanager
async def _closing(both: Pair, over: asyncio.Event, timeout: float | None) -> AsyncIterator[None]:
    """Have both ends close at the end of the block: neither waits for one that nobody reads."""
    try:
        yield
    except BaseException as error:
        code = code_after(error)
        try:
            await asyncio.gather(*(conn.close(code, timeout=LEAVE) for conn in both))
        finally:  # it may be cancelled again
            for conn in both:
                conn.abort()
        raise
    over.set()
    await both.client.close(timeout=shortest(both.client._core.close_timeout, timeout))


def _drop(both: Pair, why: str) -> None:
    for conn in both:
        conn._protocol.abort(why)


class AsgiClient:
    """A client of one ASGI application; ``asgi`` makes it."""

    def __init__(self, server: AsgiServer) -> None:
        self._server = server

    def dial(self, url: str, **options: Unpack[DialerOptions]) -> Dialing:
        """Open a WebSocket of the application, as ``koko.aio.dial`` does.

        ``url`` is a path with or without a query, or a ``ws`` URL whose host the application is
        to see. ``options`` are those of ``Dialer``, ``headers`` among them.

        Raises:
            ErrBadHandshake: the application refused; its answer is ``response``.
            TimeoutError: it neither accepted nor refused in time.
            RuntimeError: the ``asgi`` block has ended.
        """
        dialer = Dialer(**self._server.options_of(options, self._server.connect))
        return bounded(dialer, self._server.timeout).dial(url_of(url))


@asynccontextmanager
async def asgi(
    app: Application,
    *,
    timeout: float | None = TIMEOUT,
    client: tuple[str, int] = ("127.0.0.1", 50000),
) -> AsyncIterator[AsgiClient]:
    """Run an ASGI application without a port, in an ``async with`` block that gets its client.

    The application's startup has run when the block begins. At its end every connection is
    closed with 1012, as by a server that stops, and the shutdown is run. The connections of
    ``client.dial`` are real ones, with an opening handshake, compression if both want it, and
    limits. The scope is that of a plain server, without extensions of Koko.

    Args:
        app: the application, such as the ``FastAPI`` object.
        timeout: seconds that the startup, an opening handshake, a connection and the shutdown
            may last each. A connection is then closed with 1011 and says so. None: no limit.
        client: the address of the client in every scope.

    An application that blocks the event loop stops the test with it, and these limits.

    Raises:
        TimeoutError: the application did not start, or did not end, in time.
        Exception: what the application raised; at the end of the block. An error of the block
            itself is then the context of this one. A cancellation or a ``KeyboardInterrupt``
            of the block leaves it as it is.
    """
    check_application(app)
    check_timeout(timeout)
    server = AsgiServer(app, timeout, client)
    await server.start()
    try:
        yield AsgiClient(server)
    except BaseException as error:
        await server.stop(error)
        raise
    await server.stop()
