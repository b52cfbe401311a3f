"""The server, for asyncio: listens, shakes hands, runs a handler for each connection."""

from __future__ import annotations

import asyncio
import inspect
import logging
import socket
import ssl as tls
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self, Unpack

from koko import upgrading
from koko.aio.accept import Listening, Reception, listen_on
from koko.aio.admit import Http, Opening
from koko.aio.conn import Conn
from koko.aio.door import Door
from koko.aio.forking import disown, disown_transport, keep
from koko.aio.handling import end_with
from koko.aio.listen import bind
from koko.aio.logs import tell
from koko.aio.protocol import ConnProtocol
from koko.aio.signals import stopped_by_signals
from koko.aio.tasks import clock_of
from koko.aio.timers import TimerWheel
from koko.aio.upgrade import Upgrader
from koko.core.connection import Connection
from koko.core.control import close_payload
from koko.core.wire import Role
from koko.errors import Close
from koko.http import Request
from koko.listening import address_of
from koko.misuse import (
    check_face,
    check_handler,
    not_awaitable,
    refuse_async,
)
from koko.places import Place, check_limit, place
from koko.serving import CLOSED, CLOSING, HURRIED, LATE, LISTENING, addresses
from koko.upgrading import Accepted, UpgraderOptions, check_server_options

BACKLOG = 1024  # connections that wait to be accepted, if the system allows as many
LEAVE = 1.0  # seconds that cancelled handlers may take to come out

Handler = Callable[[Conn], Awaitable[object]]


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
        **options: Unpack[UpgraderOptions],
    ) -> None:
        check_server_options("Server()", upgrader, options)
        check_face("Server()", "upgrader", upgrader, Upgrader)
        if handler is None and http is None:
            raise TypeError("a server needs a handler, or http= that upgrades by itself")
        check_handler("Server()", handler)
        self.handler = handler
        self.upgrader = upgrader or Upgrader(**options)
        self._http = http
        self.logger = logger or logging.getLogger("koko.server")
        self.max_connections = check_limit(max_connections)
        self._ssl = ssl
        self._where = (host, port, sock, reuse_port)
        self._timers: TimerWheel  # of the loop it was started in
        self._listeners: list[Listening] = []
        self._listened: list[Any] = []  # the addresses, kept after its end
        self._reception: Reception | None = None
        self._doors: set[Door] = set()
        self._openings: set[Opening] = set()
        self._no_openings = asyncio.Event()  # set while it closes
        self._handlers: dict[Conn, asyncio.Task[None] | None] = {}  # None until it is known
        self._closing: asyncio.Task[None] | None = None
        self._patience: asyncio.Timeout | None = None  # with those who are to leave
        self._hurried = False
        self._stop = asyncio.Event()
        self._started = False

    # Life

    async def start(self) -> None:
        """Begin to accept connections. Where that fails nothing is left open.

        Raises:
            RuntimeError: it was started before; a server serves once.
            OSError: it cannot listen there.
        """
        if self._started or self._is_closing:
            raise RuntimeError("this server was started before; make another Server to serve again")
        self._started = True
        try:
            await self._listen()
        except BaseException:
            self._started = False
            raise
        tell(self.logger, logging.INFO, LISTENING, addresses(self._listened))

    async def _listen(self) -> None:
        self._timers = TimerWheel(asyncio.get_running_loop())
        keep(self)
        host, port, sock, reuse_port = self._where
        opening = partial(Opening, self)
        self._reception = Reception(opening, self.upgrader, self._ssl, self.logger)
        sockets = [sock] if sock is not None else await bind(host, port, bool(reuse_port))
        try:
            for bound in sockets:
                self._listeners.append(await listen_on(bound, BACKLOG, self._reception))
            self._listened = [bound.getsockname() for bound in sockets]
        except BaseException:
            self._unbind([] if sock is not None else sockets[len(self._listeners) :])
            raise

    def _disown(self) -> None:
        for sock in self.sockets:
            disown(sock.fileno())
        for conn in self.connections:
            conn._disown()
        for opening in self._openings:
            disown_transport(opening.transport)
        for door in self._doors:
            disown_transport(door.transport)

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
            close_payload(Close(code, reason))  # misuse is told before anything has changed
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
        return set(self._handlers)

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The sockets it listens on; none before its start and after its end."""
        found = (sock for listener in self._listeners for sock in listener.sockets)
        return tuple(sock for sock in found if sock.fileno() >= 0)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the first socket it listens on; of a Unix socket its path and 0.

        After the server's end still where it listened.

        Raises:
            RuntimeError: it has not been started.
        """
        return address_of(self._listened)

    @property
    def _is_closing(self) -> bool:
        return self._closing is not None

    # How it works inside

    def _turns_away(self, opening: Opening) -> bool:
        """Tell whether there is no place for a client; it is told so, or hung up on."""
        seated = len(self._openings) + len(self._handlers)
        given = place(self.max_connections, seated, len(self._doors))
        if given is Place.NOWHERE:
            opening.transport.abort()
        elif given is Place.DOOR:
            door = Door(self, opening.transport, opening.peer)
            self._doors.add(door)
            opening.transport.set_protocol(door)
        return given is not Place.SEAT

    def _welcome(self, opening: Opening) -> None:
        """Take note of somebody whose handshake has begun."""
        self._openings.add(opening)

    def _forget(self, opening: Opening) -> None:
        """Take note that his handshake is over."""
        self._openings.discard(opening)
        if self._is_closing and not self._openings:
            self._no_openings.set()

    def _admit(
        self,
        transport: asyncio.Transport,
        upgrader: upgrading.Upgrader,
        request: Request,
        accepted: Accepted,
    ) -> tuple[ConnProtocol, Conn]:
        """Make a connection of an accepted handshake; from now on it counts."""
        loop = asyncio.get_running_loop()
        core = Connection(Role.SERVER, upgrader, accepted.agreed, clock_of(loop)())
        protocol = ConnProtocol(core, transport, loop, self._timers)
        conn = Conn(protocol, request, accepted.response, accepted.subprotocol)
        self._handlers[conn] = None
        return protocol, conn

    def _serve(self, conn: Conn) -> None:
        """Run the handler of a connection, in a task of its own."""
        try:
            task = asyncio.get_running_loop().create_task(self._run(conn))
        except BaseException:  # one that is eager has begun there
            self._release(conn)
            raise
        self._own(conn, task)

    def _own(self, conn: Conn, task: asyncio.Task[None]) -> None:
        """Take note of who looks after a connection: it lives no longer than that task."""
        self._handlers[conn] = task
        task.add_done_callback(lambda _: self._release(conn))

    def _release(self, conn: Conn) -> None:
        self._handlers.pop(conn, None)
        if conn._core.may_send:  # the task never began, or failed where nobody expects it
            conn.abort()

    async def _run(self, conn: Conn) -> None:
        assert self.handler is not None
        error = None
        try:
            result = self.handler(conn)
            if not inspect.isawaitable(result):
                raise not_awaitable("handler", self.handler, result)
            await result
        except BaseException as raised:
            error = raised
        try:
            await end_with(conn, error, self.logger, self._others)
        finally:
            error = None  # it holds this frame

    def _others(self) -> int:
        """Return how many connections are open beside the one that is ending."""
        return len(self._handlers) - 1

    # Closing

    def _stop_by_signal(self) -> None:
        """Close; where that is under way, at once."""
        if self._closing is None:
            self._begin_closing()
        elif not self._hurried:
            tell(self.logger, logging.WARNING, HURRIED)
            self._hurried = True
            if self._patience is not None and not self._patience.expired():
                self._patience.reschedule(asyncio.get_running_loop().time())

    async def _close(
        self, code: int, reason: str, timeout: float, caller: asyncio.Task[Any] | None
    ) -> None:
        began = asyncio.get_running_loop().time()
        given_up = self._accept_no_more()
        if not self._openings:
            self._no_openings.set()
        if self._handlers and not self._hurried:
            names = addresses([conn.remote_address for conn in self._handlers])
            tell(self.logger, logging.INFO, CLOSING, timeout, len(self._handlers), names)
        goings: set[asyncio.Task[Any]] = {
            *given_up,
            asyncio.create_task(self._no_openings.wait()),
            *(asyncio.create_task(conn.close(code, reason, timeout)) for conn in self.connections),
            *(task for task in self._handlers.values() if task and task is not caller),
        }
        with suppress(TimeoutError):
            async with asyncio.timeout(0 if self._hurried else timeout) as self._patience:
                await asyncio.wait(goings)
        self._patience = None
        self._complain_of_late([conn for conn, task in self._handlers.items() if task in goings])
        self._drop_all()
        for task in goings:
            task.cancel()
        # A handler that does not let itself be cancelled is left behind: nobody can end it.
        await asyncio.wait(goings, timeout=LEAVE)
        self._timers.settle()
        lasted = asyncio.get_running_loop().time() - began
        tell(self.logger, logging.INFO, CLOSED, lasted, addresses(self._listened))

    def _accept_no_more(self) -> set[asyncio.Task[Any]]:
        for listener in self._listeners:
            listener.close()
        for door in tuple(self._doors):
            door.transport.abort()
        for opening in tuple(self._openings):
            opening.refuse_as_closing()
        return self._reception.close() if self._reception else set()

    def _complain_of_late(self, conns: list[Conn]) -> None:
        if conns and not self._hurried:
            names = addresses([conn.remote_address for conn in conns])
            tell(self.logger, logging.WARNING, LATE, len(conns), names)

    def _drop_all(self) -> None:
        for opening in tuple(self._openings):
            opening.transport.abort()
        for conn in self.connections:
            conn.abort()


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

    Every connection then gets a Close with 1001, within ``close_timeout``; a second signal
    drops them at once. The signals are watched only in the main thread, and handled as
    before when this returns. ``options`` are those of ``Upgrader``, which may
    be given whole instead; the rest is as in ``Server``.
    """
    check_server_options("serve()", upgrader, options)
    refuse_async("serve()", "on_start=", on_start)
    server = Server(
        handler,
        host,
        port,
        upgrader=upgrader,
        ssl=ssl,
        http=http,
        max_connections=max_connections,
        **options,
    )
    async with server:
        if on_start is not None:
            on_start(server)
        with stopped_by_signals(server._stop_by_signal):
            await server.wait_closed()
