"""The server, for threads: listens, and gives each connection a thread of its own."""

from __future__ import annotations

import logging
import os
import socket
import ssl as tls
import threading
import weakref
from collections.abc import Callable
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Any, Self, Unpack

from koko import serving
from koko.core.control import check_closing
from koko.listening import address_of, close_all
from koko.misuse import BOTH, check_function, check_returned, refuse_async
from koko.opening.address import written
from koko.serving import DROP, REFUSE, Admission
from koko.sync.accept import Acceptor, bind
from koko.sync.admit import Http, OpeningHandshake, Service
from koko.sync.clients import Client, Clients
from koko.sync.conn import Conn
from koko.sync.handling import Handler
from koko.sync.logs import tell
from koko.sync.monitor import LOOK, Role, hold
from koko.sync.refuse import refuse
from koko.sync.signals import Signals, stop_signals
from koko.sync.transport import PlainStream
from koko.sync.upgrade import Upgrader
from koko.upgrading import UpgraderOptions

_LEAVE = 1.0  # seconds that handlers have to end after their sockets were dropped


class Server:
    """Accepts connections and runs ``handler(conn)`` in a thread of its own for each.

    A handler that returns closes its connection with 1000; one that raises is logged
    with its traceback and closes it with 1011; a ``CloseError`` that leaves a handler
    is an ordinary end. The end of each connection is one line at INFO.

    ``with`` starts the server, which accepts in a thread of its own, and gracefully closes
    it; without it, call ``start``. Every method may be called from any thread. All threads
    are daemons: the process ends when the main thread does.

    Args:
        handler: a function that gets each open ``Conn``, or None to leave them to ``http``.
        host: the address or name to listen on, a list of them, or None for all interfaces.
        port: 0 for any free port; ``address`` says which.
        upgrader: which requests become connections, and with which options; or these
            ``options`` themselves, as for ``serve``.
        ssl: a context for wss.
        http: a function for requests that ask for no WebSocket. It gets the ``Request`` and
            returns a ``Response``, or None to refuse with 426; to refuse otherwise it raises
            ``HandshakeError``. Without a handler it gets every request, and may make a
            connection of it by ``Upgrader.upgrade``; from then on the rules for handlers
            hold for it. It may take longer than ``handshake_timeout``, since no function can
            be ended in a thread: its answer is sent all the same.
        max_connections: how many clients it serves at once. Any more get 503 and can try
            again. Handshakes and plain HTTP count as well. None: no limit.
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
        serving.check_server("Server()", handler, http, upgrader, Upgrader, options)
        serving.check_place(host, port, sock, ssl, proxy_protocol, logger)
        refuse_async("Server()", "handler", handler)
        refuse_async("Server()", "http=", http)
        self.handler = handler
        self.upgrader = upgrader or Upgrader(**options)
        self.logger = logger or logging.getLogger("koko.server")
        self._clients = clients = Clients(serving.check_limit(max_connections))
        self._service = Service(
            handler, http, self.upgrader, ssl, proxy_protocol, self.logger, clients
        )
        self._where = (host, port, sock, bool(reuse_port))
        self._acceptor: Acceptor | None = None
        self._listened: list[Any] = []  # the addresses; kept after the end
        self._lock = threading.Lock()
        self._closer: Role | None = None  # the thread that closes it
        self._close_with = (1001, "")
        self._stopping = threading.Event()
        self._closed = threading.Event()
        self._on_closed: Callable[[], object] = int

    # Life

    def start(self) -> None:
        """Begin to accept connections. If that fails nothing is left open.

        Raises:
            RuntimeError: it was started before; a server starts only once.
            OSError: it cannot listen there.
        """
        if self._acceptor is not None or self._stopping.is_set():
            raise RuntimeError("this server was started before; make another Server to serve again")
        host, port, sock, reuse_port = self._where
        sockets = [sock] if sock else bind(host, port, reuse_port)
        try:
            self._listened = [bound.getsockname() for bound in sockets]
            self._acceptor = Acceptor(sockets, self._admit, self.logger)
        except BaseException:
            self._listened = []
            if sock is None:  # else it is still the caller's
                close_all(sockets)
            raise
        _servers.add(self)

    def serve_forever(self) -> None:
        """Serve until ``close`` is called; when interrupted, close gracefully with 1001.

        Raises:
            RuntimeError: it has not been started.
        """
        if self._acceptor is None and not self._stopping.is_set():
            raise RuntimeError("this server was not started: call start(), or use with")
        try:
            # A signal that comes just before a wait does not end it: wait in short steps.
            while not self._closed.wait(1.0):
                pass
        except BaseException:
            self.close()
            raise

    def close(self, code: int = 1001, reason: str = "", timeout: float | None = None) -> None:
        """Stop accepting, close every connection and wait for the handlers.

        New handshakes get 503, every open connection gets the Close. Whatever is not over
        after ``timeout`` seconds (default: the upgrader's ``close_timeout``) is dropped. A
        handler that still does not end is left behind: no thread can be ended from
        outside. Calling it again waits for the first call; a handler that calls it is not
        waited for. One line at INFO says how many are waited for, one at WARNING which did not
        end.
        """
        check_closing(code, reason, timeout)
        mine: Role = [threading.get_ident()]
        timeout = self.upgrader.close_timeout if timeout is None else timeout
        try:
            while not self._closed.is_set():
                if hold(self._lock, self._become_closer, mine, (code, reason), timeout):
                    return self._close(timeout)
                self._closed.wait(LOOK)  # then take over if the other call was interrupted
        finally:
            if self._closer is mine:
                self._closer = None

    def _hurry(self) -> None:
        """End the wait of a ``close`` in another thread, which then drops what is left."""
        self._clients.hurry()

    def wait_closed(self) -> None:
        """Wait until the server has been closed and its last handler has ended."""
        self._closed.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # State

    @property
    def connections(self) -> set[Conn]:
        """The open connections, as they are now."""
        return set(self._clients.conns.values())

    @property
    def max_connections(self) -> int | None:
        """How many clients it serves at once; a new limit applies to new clients."""
        return self._clients.limit

    @max_connections.setter
    def max_connections(self, limit: int | None) -> None:
        self._clients.limit = serving.check_limit(limit)

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The sockets it listens on; empty before its start and after its end."""
        found = self._acceptor.sockets if self._acceptor else []
        return tuple(sock for sock in found if sock.fileno() >= 0)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the first socket it listens on; for a Unix socket, its path and 0.

        After the end it is the address where the server listened.

        Raises:
            RuntimeError: it has not been started.
        """
        return address_of(self._listened)

    # One client

    def _admit(self, sock: socket.socket, peer: Any) -> None:
        """Serve or refuse an accepted client in a thread of its own, or drop it."""
        given = self._clients.admission()
        why = str(serving.server_full(self.max_connections))
        try:
            if given is not DROP:
                return self._start(Client(PlainStream(sock), peer), given)
        except OSError:
            why = serving.HUNG_UP
        except RuntimeError:
            self._drop(sock, peer, given, serving.NO_THREAD)
            raise
        self._drop(sock, peer, given, why)

    def _drop(self, sock: socket.socket, peer: Any, given: Admission, why: str) -> None:
        sock.close()
        self._clients.count_out(given)
        tell(self.logger, logging.INFO, serving.CLIENT, written(peer), serving.UNKNOWN, why)

    def _start(self, client: Client, given: Admission) -> None:
        arguments, name = (client, given), f"koko-{client.name}"
        threading.Thread(target=self._serve, args=arguments, name=name, daemon=True).start()

    def _serve(self, client: Client, given: Admission) -> None:
        thread = threading.get_ident()
        self._clients.threads[thread] = client
        try:
            if given is REFUSE:
                service = self._service
                limit, tls_of = self.max_connections, service.ssl
                refuse(client, limit, self.upgrader, tls_of, service.proxy_protocol, self.logger)
            else:
                OpeningHandshake(self._service, client, partial(self._opened, thread)).run()
        except BaseException as error:  # the application's: the server goes on
            tell(self.logger, logging.ERROR, "what serves %s failed", client.name, error=error)
        finally:
            self._clients.remove(thread, given)

    def _opened(self, thread: int, conn: Conn) -> None:
        self._clients.conns[thread] = conn
        if self._stopping.is_set():  # ``close`` has not seen this connection
            conn.close(*self._close_with)

    # Closing

    def _become_closer(self, mine: Role, close_with: tuple[int, str], timeout: float) -> bool:
        if self._closer is not None or self._closed.is_set():
            return False
        self._closer = mine
        if not self._stopping.is_set():
            self._close_with = close_with
            self._clients.deadline = monotonic() + timeout
        self._stopping.set()
        return True

    def _close(self, timeout: float) -> None:
        began = monotonic()
        if self._acceptor is not None:
            self._acceptor.close()
        conns = tuple(self._clients.conns.values())
        self._clients.refuse_all()
        try:
            if conns:
                names = serving.addresses([conn.remote_address for conn in conns])
                tell(self.logger, logging.INFO, serving.CLOSING, timeout, len(conns), names)
            for conn in conns:
                conn._driver.start_close(*self._close_with)
            self._clients.wait()
        finally:  # also after Ctrl-C, for the threads that wait for the end
            self._drop_all()
            try:
                self._tell_closed(monotonic() - began)
            finally:
                self._closed.set()
                self._on_closed()

    def _drop_all(self) -> None:
        self._clients.drop_all()
        self._clients.deadline = monotonic() + _LEAVE
        self._clients.wait()
        if late := [client.name for client in self._clients.of_others.values()]:
            names = serving.addresses(late)
            tell(self.logger, logging.WARNING, serving.LATE, len(late), names)

    def _tell_closed(self, lasted: float) -> None:
        if names := serving.addresses(self._listened):
            tell(self.logger, logging.INFO, serving.CLOSED, lasted, names)

    def _disown(self) -> None:
        self._lock = threading.Lock()
        self._stopping, self._closed = threading.Event(), threading.Event()
        self._stopping.set()
        self._closed.set()
        self._clients.disown()
        if self._acceptor is not None:
            self._acceptor.disown()


def serve(
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
    """Serve until stopped by SIGINT or SIGTERM.

    Every connection then gets a Close with 1001, within ``close_timeout``. The signals
    are watched only in the main thread; elsewhere it serves until the process ends, or
    until ``close`` is called on the ``Server`` that ``on_start`` gets. ``options`` are those
    of ``Upgrader``, unless ``upgrader`` is given; the rest is as in ``Server``.
    """
    serving.check_server("serve()", handler, http, upgrader, Upgrader, options)
    refuse_async("serve()", "handler", handler)
    refuse_async("serve()", "http=", http)
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
    with stop_signals() as signals, server:
        server._on_closed = signals.tell
        if on_start is not None:
            check_returned("on_start=", on_start, on_start(server), BOTH)
        if signals.wait():
            _close_by_signal(server, signals)


def _close_by_signal(server: Server, signals: Signals) -> None:
    """Close in another thread, so that this one can notice a second signal."""
    try:
        threading.Thread(target=server.close, name="koko-closing", daemon=True).start()
    except RuntimeError:  # the system has no thread for it
        return
    if signals.wait():
        tell(server.logger, logging.WARNING, serving.HURRIED)
        server._hurry()


_servers: weakref.WeakSet[Server] = weakref.WeakSet()


def _disown_all() -> None:
    for server in tuple(_servers):
        server._disown()


# Otherwise a child would hold the port without accepting its connections.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_all)
