"""The server, for asyncio: listens, shakes hands, runs a handler for each connection."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl as tls
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self, Unpack

from koko.aio.accept import Acceptor, Listening, bind, listen_on
from koko.aio.admit import Http, OpeningHandshake, Service
from koko.aio.clients import Clients
from koko.aio.conn import Conn
from koko.aio.forking import disown, keep
from koko.aio.handling import Handler
from koko.aio.logs import tell
from koko.aio.signals import stopped_by_signals
from koko.aio.tasks import clock_of
from koko.aio.timers import TimerWheel
from koko.aio.upgrade import Upgrader
from koko.core.control import check_closing
from koko.listening import BACKLOG, address_of, close_all
from koko.misuse import BOTH, check_function, check_returned, refuse_async
from koko.serving import (
    CLOSED,
    CLOSING,
    HURRIED,
    LATE,
    LISTENING,
    addresses,
    check_limit,
    check_place,
    check_server,
)
from koko.upgrading import UpgraderOptions

LEAVE = 1.0  # seconds that cancelled handlers have to end


class Server:
    """Accepts connections and runs ``handler(conn)`` in a task of its own for each.

    A handler that returns closes its connection with 1000; one that raises is logged
    with its traceback and closes it with 1011, whatever it raises; a ``CloseError`` that
    leaves a handler is an ordinary end. SystemExit and KeyboardInterrupt then end the loop,
    as from any task. The end of each connection is one line at INFO.

    ``async with`` starts and gracefully closes the server; without it, call ``start``.

    Args:
        handler: a coroutine function that gets each open ``Conn``, or None to leave them to
            ``http``.
        host: the address or name to listen on, a list of them, or None for all interfaces.
        port: 0 for any free port; ``address`` says which.
        upgrader: which requests become connections, and with which options; or these
            ``options`` themselves, as for ``serve``.
        ssl: a context for wss.
        http: a function, or coroutine function, for requests that ask for no WebSocket. It
            gets the ``Request`` and returns a ``Response``, or None to refuse with 426; to
            refuse otherwise it raises ``HandshakeError``. Without a handler it gets every
            request, and may make a connection of it by ``Upgrader.upgrade``; from then on
            the rules for handlers hold for it. Until then it has ``handshake_timeout``: after
            that it is cancelled, and the client gets 503.
        max_connections: how many clients it serves at once. Any more get 503 and can try
            again. Handshakes and plain HTTP count as well, TLS included: 16 more may be at
            that before any are dropped. None: no limit.
        proxy_protocol: require a PROXY header (version 1 or 2) at the beginning of every
            connection, from haproxy or a load balancer in TCP mode, and take the client's
            address from it. If ``trusted_proxies`` are named, only they may connect.
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
        proxy_protocol: bool = False,
        sock: socket.socket | None = None,
        reuse_port: bool | None = None,
        logger: logging.Logger | None = None,
        **options: Unpack[UpgraderOptions],
    ) -> None:
        check_server("Server()", handler, http, upgrader, Upgrader, options)
        check_place(host, port, sock, ssl, proxy_protocol, logger)
        self.handler = handler
        self.upgrader = upgrader or Upgrader(**options)
        self._http = http
        self.logger = logger or logging.getLogger("koko.server")
        self._clients = Clients(check_limit(max_connections))
        self._ssl = ssl
        self._proxy_protocol = proxy_protocol
        self._where = (host, port, sock, reuse_port)
        self._timers: TimerWheel  # of the loop that the server was started in
        self._acceptor: Acceptor | None = None
        self._listeners: list[Listening] = []
        self._listened: list[Any] = []  # the addresses; kept after the end
        self._closing: asyncio.Task[None] | None = None
        self._waiting: asyncio.Timeout | None = None  # bounds the wait for handlers to end
        self._hurried = False
        self._stop = asyncio.Event()
        self._started = False

    # Life

    async def start(self) -> None:
        """Begin to accept connections. If that fails nothing is left open.

        Raises:
            RuntimeError: it was started before; a server starts only once.
            OSError: it cannot listen there.
        """
        if self._started or self._closing is not None:
            raise RuntimeError("this server was started before; make another Server to serve again")
        self._started = True
        try:
            await self._listen()
        except BaseException:
            self._started = False
            raise
        tell(self.logger, logging.INFO, LISTENING, addresses(self._listened))

    async def _listen(self) -> None:
        keep(self)
        host, port, sock, reuse_port = self._where
        handshake = partial(OpeningHandshake, self._service())
        self._acceptor = Acceptor(
            handshake,
            self.upgrader,
            self._ssl,
            self._proxy_protocol,
            self.logger,
            self._clients.excess,
        )
        sockets = [sock] if sock is not None else await bind(host, port, bool(reuse_port))
        try:
            for bound in sockets:
                self._listeners.append(await listen_on(bound, BACKLOG, self._acceptor))
            self._listened = [bound.getsockname() for bound in sockets]
        except BaseException:
            self._unbind([] if sock is not None else sockets[len(self._listeners) :])
            raise

    def _service(self) -> Service:
        loop = asyncio.get_running_loop()
        self._timers = TimerWheel(loop)
        return Service(
            self.handler,
            self._http,
            self.upgrader,
            self.logger,
            self._clients,
            self._timers,
            loop,
            clock_of(loop),
        )

    def _unbind(self, sockets: Iterable[socket.socket]) -> None:
        """Close the listeners of a start that failed, and ``sockets``."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        close_all(sockets)

    def _disown(self) -> None:
        for sock in self.sockets:
            disown(sock.fileno())
        self._clients.disown()

    async def serve_forever(self) -> None:
        """Serve until ``close`` is called; when cancelled, close gracefully with 1001.

        Raises:
            RuntimeError: it has not been started.
        """
        if not self._started and self._closing is None:
            raise RuntimeError("this server was not started: call start(), or use async with")
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
        check_closing(code, reason, timeout)
        await asyncio.shield(self._begin_closing(code, reason, timeout))

    def _begin_closing(
        self, code: int = 1001, reason: str = "", timeout: float | None = None
    ) -> asyncio.Task[None]:
        """Start the task that closes the server, without waiting for it; return the task."""
        if self._closing is None:
            if timeout is None:
                timeout = self.upgrader.close_timeout
            # A handler that closes its server waits for this task: do not wait for that handler.
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

    # State

    @property
    def connections(self) -> set[Conn]:
        """The open connections, as they are now."""
        return set(self._clients.handlers)

    @property
    def max_connections(self) -> int | None:
        """How many clients it serves at once; a new limit applies to new clients."""
        return self._clients.limit

    @max_connections.setter
    def max_connections(self, limit: int | None) -> None:
        self._clients.limit = check_limit(limit)

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The sockets it listens on; empty before its start and after its end."""
        found = (sock for listener in self._listeners for sock in listener.sockets)
        return tuple(sock for sock in found if sock.fileno() >= 0)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the first socket it listens on; for a Unix socket, its path and 0.

        After the end it is the address where the server listened.

        Raises:
            RuntimeError: it has not been started.
        """
        return address_of(self._listened)

    # Closing

    def _stop_by_signal(self) -> None:
        """Close the server; if it is closing already, drop everything at once."""
        if self._closing is None:
            self._begin_closing()
        elif not self._hurried:
            tell(self.logger, logging.WARNING, HURRIED)
            self._hurried = True
            if self._waiting is not None and not self._waiting.expired():
                self._waiting.reschedule(asyncio.get_running_loop().time())

    async def _close(
        self, code: int, reason: str, timeout: float, caller: asyncio.Task[Any] | None
    ) -> None:
        began, handlers = asyncio.get_running_loop().time(), self._clients.handlers
        accepting = self._stop_accepting()
        self._clients.refuse_all()
        if handlers and not self._hurried:
            names = addresses([conn.remote_address for conn in handlers])
            tell(self.logger, logging.INFO, CLOSING, timeout, len(handlers), names)
        ends: set[asyncio.Task[Any]] = {
            *accepting,
            asyncio.create_task(self._clients.no_handshakes.wait()),
            *(asyncio.create_task(conn.close(code, reason, timeout)) for conn in handlers),
            *(task for task in handlers.values() if task and task is not caller),
        }
        with suppress(TimeoutError):
            async with asyncio.timeout(0 if self._hurried else timeout) as self._waiting:
                await asyncio.wait(ends)
        self._waiting = None
        late = [conn.remote_address for conn, task in handlers.items() if task in ends]
        if late and not self._hurried:
            tell(self.logger, logging.WARNING, LATE, len(late), addresses(late))
        self._clients.drop_all()
        for task in ends:
            task.cancel()
        # A handler that ignores its cancellation is left behind: it cannot be ended.
        await asyncio.wait(ends, timeout=LEAVE)
        self._timers.settle()
        lasted = asyncio.get_running_loop().time() - began
        tell(self.logger, logging.INFO, CLOSED, lasted, addresses(self._listened))

    def _stop_accepting(self) -> set[asyncio.Task[Any]]:
        for listener in self._listeners:
            listener.close()
        return set(self._acceptor.close()) if self._acceptor else set()


async def serve(
    handler: Handler | None,
    host: str | list[str] | None = None,
    port: int = 0,
    *,
    upgrader: Upgrader | None = None,
    ssl: tls.SSLContext | None = None,
    http: Http | None = None,
    max_connections: int | None = None,
    proxy_protocol: bool = False,
    sock: socket.socket | None = None,
    reuse_port: bool | None = None,
    logger: logging.Logger | None = None,
    on_start: Callable[[Server], object] | None = None,
    **options: Unpack[UpgraderOptions],
) -> None:
    """Serve until stopped: by SIGINT, by SIGTERM, or by being cancelled.

    Every connection then gets a Close with 1001, within ``close_timeout``; a second signal
    drops them at once. The signals are watched only in the main thread; when this returns
    their former handlers are back. ``options`` are those of ``Upgrader``, unless
    ``upgrader`` is given; the rest is as in ``Server``.
    """
    check_server("serve()", handler, http, upgrader, Upgrader, options)
    check_function("serve()", "on_start=", on_start)
    refuse_async("serve()", "on_start=", on_start, BOTH)
    server = Server(
        handler,
        host,
        port,
        upgrader=upgrader,
        ssl=ssl,
        http=http,
        max_connections=max_connections,
        proxy_protocol=proxy_protocol,
        sock=sock,
        reuse_port=reuse_port,
        logger=logger,
        **options,
    )
    async with server:
        if on_start is not None:
            check_returned("on_start=", on_start, on_start(server), BOTH)
        with stopped_by_signals(server._stop_by_signal):
            await server.wait_closed()
