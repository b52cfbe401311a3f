"""For tests on threads: two connected ``Conn``, and a client of an ASGI application."""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, Unpack

from koko.dialing import DialerOptions
from koko.http import Headers
from koko.misuse import check_face
from koko.sync.admit import OpeningHandshake, Service
from koko.sync.clients import Client, Clients
from koko.sync.conn import Conn
from koko.sync.dial import Dialer
from koko.sync.transport import PlainStream
from koko.sync.upgrade import Upgrader
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
from koko.testing._loop_thread import LoopThread
from koko.testing._stack import called_in, place_of

__all__ = ["AsgiClient", "Pair", "asgi", "pair"]


class Pair(NamedTuple):
    """Both ends of a connection."""

    client: Conn
    server: Conn


@contextmanager
def pair(
    upgrader: Upgrader | None = None,
    dialer: Dialer | None = None,
    *,
    url: str = "/",
    headers: Headers | None = None,
    timeout: float | None = TIMEOUT,
) -> Iterator[Pair]:
    """Open a connection in memory, for a ``with`` block: ``pair() as (client, server)``.

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
        TimeoutError: a function of the upgrader did not return in time; it is named.
    """
    check_face("pair()", "upgrader", upgrader, Upgrader)
    check_face("pair()", "dialer", dialer, Dialer)
    check_timeout(timeout)
    whole = url_of(url)
    ours, theirs = socket.socketpair()
    end = _ServerEnd(upgrader or Upgrader(), theirs)
    try:
        client = end.await_answer(bounded(dialer or Dialer(), timeout), whole, headers, ours)
        with client:
            both = Pair(client, end.conn.result(timeout))
            with _limited(both, timeout), _closing(both, end.over, timeout):
                yield both
    finally:
        ours.close()  # where the dial did not begin
        end.leave(timeout)


class _ServerEnd:
    """The server's end of a pair, in a thread of its own.

    Attributes:
        conn: gets its ``Conn``.
        over: set it to have the ``Conn`` closed.
    """

    def __init__(self, upgrader: Upgrader, sock: socket.socket) -> None:
        self.conn: Future[Conn] = Future()
        self.over = threading.Event()
        self._answered = False
        logger = logging.getLogger("koko.server")
        service = Service(self._hold, None, upgrader, None, False, logger, Clients(None))
        handshake = OpeningHandshake(service, Client(PlainStream(sock), ""), lambda conn: None)
        self._thread = threading.Thread(target=handshake.run, name="koko-pair", daemon=True)
        self._thread.start()

    def await_answer(
        self, dialer: Dialer, url: str, headers: Headers | None, sock: socket.socket
    ) -> Conn:
        """Dial; if no answer comes, say which function of the upgrader does not return."""
        try:
            client = dialer.dial(url, headers, sock=sock)
        except TimeoutError as error:
            if called := called_in(self._thread):
                late = f"{called} did not return within {dialer.handshake_timeout:g} s"
                raise TimeoutError(f"{late}: it is{place_of(self._thread)}") from error
            raise
        self._answered = True
        return client

    def leave(self, timeout: float | None) -> None:
        """Wait for the end of the thread, perhaps in vain: a function may hold it."""
        self.over.set()
        failed = not self._answered or sys.exception() is not None
        self._thread.join(LEAVE if failed else timeout)
        if self._thread.is_alive() and not failed:
            where = place_of(self._thread)
            late = f"the server's end did not close within {timeout:g} s"
            raise TimeoutError(late + (where and f": it is{where}"))

    def _hold(self, conn: Conn) -> None:
        self.conn.set_result(conn)
        self.over.wait()


@contextmanager
def _limited(both: Pair, timeout: float | None) -> Iterator[None]:
    """Drop both ends after so many seconds."""
    if timeout is None:
        yield
        return
    timer = threading.Timer(timeout, _drop, (both, overdue("pair", timeout)))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _closing(both: Pair, over: threading.Event, timeout: float | None) -> Iterator[None]:
    """Have both ends close at the end of the block: neither waits for one that nobody reads."""
    try:
        yield
    except BaseException as error:
        code = code_after(error)
        for conn in both:
            conn._driver.start_close(code, "")
        over.set()
        both.client.close(code, timeout=LEAVE)
        raise
    over.set()
    both.client.close(timeout=shortest(both.client._core.close_timeout, timeout))


def _drop(both: Pair, why: str) -> None:
    for conn in both:
        conn._driver.abort(why)


class AsgiClient:
    """A client of one ASGI application; ``asgi`` makes it. Any thread may use it."""

    def __init__(self, server: AsgiServer, loop: LoopThread) -> None:
        self._server = server
        self._loop = loop

    def dial(self, url: str, **options: Unpack[DialerOptions]) -> Conn:
        """Open a WebSocket of the application, as ``koko.sync.dial`` does.

        ``url`` is a path with or without a query, or a ``ws`` URL whose host the application is
        to see. ``options`` are those of ``Dialer``, ``headers`` among them.

        Raises:
            ErrBadHandshake: the application refused; its answer is ``response``.
            TimeoutError: it neither accepted nor refused in time.
            RuntimeError: the ``asgi`` block has ended.
        """
        dialer = Dialer(**self._server.options_of(options, self._connect))
        try:
            conn = bounded(dialer, self._server.timeout).dial(url_of(url))
        except TimeoutError as error:
            if blocked := self._loop.blocked():
                raise TimeoutError(f"{error}; {blocked}") from error
            raise
        self._loop.watch.limit(conn._driver)
        return conn

    def _connect(self, host: str, port: int, timeout: float | None) -> socket.socket:
        return self._loop.run(self._server.connect, timeout)


@contextmanager
def asgi(
    app: Application,
    *,
    timeout: float | None = TIMEOUT,
    client: tuple[str, int] = ("127.0.0.1", 50000),
) -> Iterator[AsgiClient]:
    """Run an ASGI application without a port, in a ``with`` block that gets its client.

    It runs in an event loop in a thread of its own. The application's startup has run when the
    block begins. At its end every connection is closed with 1012, as by a server that stops,
    and the shutdown is run. The connections of ``client.dial`` are real ones, with an opening
    handshake, compression if both want it, and limits. The scope is that of a plain server,
    without extensions of Koko.

    Args:
        app: the application, such as the ``FastAPI`` object.
        timeout: seconds that the startup, an opening handshake, a connection and the shutdown
            may last each. A connection is then closed with 1011 and says so. None: no limit.
        client: the address of the client in every scope.

    Raises:
        TimeoutError: the application did not start, or did not end, in time; or it blocks its
            event loop: then every wait has ended two seconds after its limit.
        Exception: what the application raised; at the end of the block. An error of the block
            itself is then the context of this one. A ``KeyboardInterrupt`` of the block leaves
            it as it is.
    """
    check_application(app)
    check_timeout(timeout)
    with LoopThread(timeout) as loop:
        server = loop.run(partial(_started, app, timeout, client))
        try:
            yield AsgiClient(server, loop)
        except BaseException as error:
            loop.finish(partial(server.stop, error))
            raise
        loop.finish(server.stop)


async def _started(app: Application, timeout: float | None, client: tuple[str, int]) -> AsgiServer:
    server = AsgiServer(app, timeout, client)
    await server.start()
    return server
