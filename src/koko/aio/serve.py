"""The server, for asyncio: listens, shakes hands, runs a handler for each connection."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl as tls
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, Unpack

from koko import upgrading
from koko.aio.admit import Http, Opening
from koko.aio.conn import Conn
from koko.aio.door import Door
from koko.aio.listen import bind
from koko.aio.protocol import ConnProtocol
from koko.aio.tasks import clock_of
from koko.aio.timers import TimerWheel
from koko.aio.transport import listen_on
from koko.aio.upgrade import Upgrader
from koko.core.address import written
from koko.core.connection import Connection
from koko.core.head import Request
from koko.core.wire import Role
from koko.errors import CloseError
from koko.places import Place, check_limit, place
from koko.upgrading import Accepted, UpgraderOptions

BACKLOG = 1024  # connections that wait to be accepted, if the system allows as many
LEAVE = 1.0  # seconds that cancelled handlers may take to come out

Handler = Callable[[Conn], Awaitable[object]]


class Server:
    """Accepts connections and runs ``handler(conn)`` in a task of its own for each.

    A handler that returns closes its connection with 1000; one that raises is logged
    with its traceback and closes it with 1011; a ``CloseError`` that leaves a handler
    is an ordinary end. The end of each connection is one line at INFO.

    ``async with`` starts and gracefully closes the server; without it, call ``start``.

    Args:
        handler: a coroutine function that gets each open ``Conn``, or None to leave them to
            ``http``.
        host: the address or name to listen on, a list of them, or None for all interfaces.
        port: 0 for any free port; ``address`` says which.
        upgrader: which requests become connections, and with which options.
        ssl: a context for wss.
        http: answers the requests that ask for no WebSocket: gets the ``Request``,
            returns a ``Response``, or None to refuse with 426; may raise ``HandshakeError``
            to refuse otherwise. May be a coroutine function. Without a handler it gets every
            request and may make a connection of it by ``Upgrader.upgrade``; what holds for a
            handler holds for it from there on.
        max_connections: how many it serves at once. Whoever comes then gets 503 and can try
            again; handshakes and plain HTTP count as well, though none while it is still
            at TLS. None: as many as come.
        sock: a bound socket to listen on instead of host and port.
        reuse_port: let several processes listen on one port.
        logger: where to log; the standard library's logger "koko.server" by default.
    """

    def __init__(
        self,
        handler: Handler | None,
        host: str | list[str] | None = None,
        port: int = 0,
        *,
        upgrader: Upgrader | None = None,
        ssl: tls.SSLContext | None = None,
        http: Http | None = None,
        max_connections: int | None = None,
        sock: socket.socket | None = None,
        reuse_port: bool | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        if handler is None and http is None:
            raise TypeError("a server needs a handler, or http= that upgrades by itself")
        self.handler = handler
        self.upgrader = upgrader or Upgrader()
        self._http = http
        self.logger = logger or logging.getLogger("koko.server")
        self.max_connections = check_limit(max_connections)
        self._ssl = ssl
        self._where = (host, port, sock, reuse_port)
        self._timers: TimerWheel  # of the loop it was started in
        self._listeners: list[asyncio.Server] = []
        self._doors: set[Door] = set()
        self._openings: set[Opening] = set()
        self._empty: asyncio.Event | None = None  # of openings; made when somebody waits for it
        self._handlers: dict[asyncio.Task[None], Conn] = {}
        self._closing: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()

    # Life

    async def start(self) -> None:
        """Begin to accept connections."""
        loop = asyncio.get_running_loop()
        self._timers = TimerWheel(loop)
        host, port, sock, reuse_port = self._where
        tls: dict[str, Any] = {}
        if self._ssl is not None:
            tls["ssl_handshake_timeout"] = self.upgrader.handshake_timeout
            tls["ssl_shutdown_timeout"] = self.upgrader.close_timeout
        sockets = [sock] if sock is not None else await bind(host, port, bool(reuse_port))
        try:
            for bound in sockets:
                listener = await listen_on(bound, lambda: Opening(self), BACKLOG, self._ssl, **tls)
                self._listeners.append(listener)
        except BaseException:
            self._unbind([] if sock is not None else sockets[len(self._listeners) :])
            raise

    def _unbind(self, sockets: list[socket.socket]) -> None:
        """Free the ports of a start that failed: those listened on, and ``sockets``."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for bound in sockets:
            bound.close()

    async def serve_forever(self) -> None:
        """Serve until ``close`` is called; when cancelled, close gracefully with 1001."""
        try:
            await self.wait_closed()
        except asyncio.CancelledError:
            await self.close()
            raise

    async def close(self, code: int = 1001, reason: str = "", timeout: float | None = None) -> None:
        """Stop accepting, close every connection and wait for the handlers.

        New handshakes get 503, every open connection gets the Close. Whatever is not over
        after ``timeout`` seconds (default: the upgrader's ``close_timeout``) is dropped:
        handlers are cancelled, sockets closed. Calling it again waits for the first call;
        a handler that calls it is not waited for.
        """
        await asyncio.shield(self._begin_closing(code, reason, timeout))

    def _begin_closing(
        self, code: int = 1001, reason: str = "", timeout: float | None = None
    ) -> asyncio.Task[None]:
        """Do what ``close`` does without waiting for it; return the task that does it."""
        if self._closing is None:
            if timeout is None:
                timeout = self.upgrader.close_timeout
            # A handler that closes its server cannot be waited for while it waits for us.
            caller = asyncio.current_task()
            self._closing = asyncio.create_task(self._close(code, reason, timeout, caller))
            self._stop.set()
        return self._closing

    async def wait_closed(self) -> None:
        """Wait until the server has been closed and its last handler has ended."""
        await self._stop.wait()
        assert self._closing is not None
        await asyncio.shield(self._closing)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # What there is

    @property
    def connections(self) -> set[Conn]:
        """The open connections, as they are now."""
        return set(self._handlers.values())

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The sockets it listens on."""
        return tuple(sock for listener in self._listeners for sock in listener.sockets)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the first socket it listens on."""
        host, port, *_ = self.sockets[0].getsockname()
        return host, port

    @property
    def _is_closing(self) -> bool:
        return self._closing is not None

    # How it works inside

    def _turns_away(self, transport: asyncio.Transport) -> bool:
        """Tell whether there is no place for somebody; he is told so, or hung up on."""
        seated = len(self._openings) + len(self._handlers)
        given = place(self.max_connections, seated, len(self._doors))
        if given is Place.NOWHERE:
            transport.abort()
        elif given is Place.DOOR:
            door = Door(self, transport)
            self._doors.add(door)
            transport.set_protocol(door)
        return given is not Place.SEAT

    def _welcome(self, opening: Opening) -> None:
        """Take note of somebody whose handshake has begun."""
        self._openings.add(opening)

    def _forget(self, opening: Opening) -> None:
        """Take note that his handshake is over."""
        self._openings.discard(opening)
        if self._empty is not None and not self._openings:
            self._empty.set()

    def _admit(
        self,
        transport: asyncio.Transport,
        upgrader: upgrading.Upgrader,
        request: Request,
        accepted: Accepted,
        task: asyncio.Task[None] | None,
    ) -> tuple[ConnProtocol, Conn]:
        """Make a connection of an accepted handshake, for ``task``, or one for the handler."""
        loop = asyncio.get_running_loop()
        core = Connection(Role.SERVER, upgrader, accepted.agreed, clock_of(loop)())
        protocol = ConnProtocol(core, transport, loop, self._timers)
        conn = Conn(protocol, request, accepted.response, accepted.subprotocol)
        if task is None:
            task = loop.create_task(self._run(conn))
        self._handlers[task] = conn
        task.add_done_callback(self._handlers.pop)
        return protocol, conn

    async def _run(self, conn: Conn) -> None:
        assert self.handler is not None
        error = None
        try:
            try:
                await self.handler(conn)
            except Exception as raised:
                error = raised
            await self._see_off(conn, error)
        except asyncio.CancelledError:
            conn.abort()
            raise
        finally:
            self._log_end(conn)

    async def _see_off(self, conn: Conn, error: Exception | None) -> None:
        """Close the connection of a handler that came out, perhaps with an error."""
        code = 1000
        if error is not None and not _is_parting(error):
            self.logger.error("handler of %s failed", conn, exc_info=error)
            code = 1011
        await conn.close(code)

    def _log_end(self, conn: Conn) -> None:
        ending = conn.ending
        if self.logger.isEnabledFor(logging.INFO):
            self.logger.info("%s %s: %s", written(conn.remote_address), conn.request.target, ending)
        if ending is not None:
            # The frames it went through hold conn, which holds it: a circle that keeps a
            # connection in memory until the garbage collector comes by.
            ending.__traceback__ = None

    async def _close(
        self, code: int, reason: str, timeout: float, caller: asyncio.Task[Any] | None
    ) -> None:
        for listener in self._listeners:
            listener.close()
        for door in tuple(self._doors):
            door.transport.abort()
        for opening in tuple(self._openings):
            opening.refuse_as_closing()
        self._empty = asyncio.Event()
        if not self._openings:
            self._empty.set()
        goings = [
            asyncio.create_task(self._empty.wait()),
            *(asyncio.create_task(conn.close(code, reason, timeout)) for conn in self.connections),
            *(task for task in self._handlers if task is not caller),
        ]
        await asyncio.wait(goings, timeout=timeout)
        for opening in tuple(self._openings):
            opening.transport.abort()
        for task in goings:
            task.cancel()
        # A handler that does not let itself be cancelled is left behind: nobody can end it.
        await asyncio.wait(goings, timeout=LEAVE)


def _is_parting(error: Exception) -> bool:
    """Tell whether nothing but CloseErrors left a handler, or the task groups in it."""
    if isinstance(error, ExceptionGroup):
        return error.split(CloseError)[1] is None
    return isinstance(error, CloseError)


async def serve(
    handler: Handler | None,
    host: str | list[str] | None = None,
    port: int = 0,
    *,
    upgrader: Upgrader | None = None,
    ssl: tls.SSLContext | None = None,
    http: Http | None = None,
    max_connections: int | None = None,
    on_start: Callable[[Server], object] | None = None,
    **options: Unpack[UpgraderOptions],
) -> None:
    """Serve until stopped: by SIGINT, by SIGTERM, or by being cancelled.

    Every connection then gets a Close with 1001, within ``close_timeout``. The signals
    are watched only in the main thread. ``options`` are those of ``Upgrader``, which may
    be given whole instead; the rest is as in ``Server``.
    """
    if upgrader is not None and options:
        raise TypeError(f"give upgrader= or its options, not both: {', '.join(options)}")
    server = Server(
        handler,
        host,
        port,
        upgrader=upgrader or Upgrader(**options),
        ssl=ssl,
        http=http,
        max_connections=max_connections,
    )
    async with server:
        if on_start is not None:
            on_start(server)
        with _signals(server):
            await server.wait_closed()


@contextmanager
def _signals(server: Server) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, watched = asyncio.get_running_loop(), []
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, server._begin_closing)
        except NotImplementedError:  # Windows: Ctrl-C cancels the task, as asyncio.run does
            break
        watched.append(number)
    try:
        yield
    finally:
        for number in watched:
            loop.remove_signal_handler(number)
