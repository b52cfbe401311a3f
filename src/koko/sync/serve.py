"""The server, for threads: listens, and gives each connection a thread of its own."""

from __future__ import annotations

import logging
import os
import selectors
import socket
import ssl as tls
import threading
import weakref
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Any, Self, Unpack

from koko import serving
from koko.listening import address_of
from koko.misuse import check_face, check_handler, refuse_async
from koko.opening.address import written
from koko.places import Place, check_limit, full
from koko.sync.admit import Admission, Handler, Http
from koko.sync.conn import Conn
from koko.sync.crowd import Crowd, Guest
from koko.sync.door import turn_away
from koko.sync.listen import close_all, listen, open_up
from koko.sync.monitor import LOOK, Role, hold
from koko.sync.signals import Signals, stop_signals
from koko.sync.transport import PlainStream
from koko.sync.upgrade import Upgrader, complain
from koko.upgrading import UpgraderOptions, check_server_options

_LEAVE = 1.0  # seconds that handlers get to come out after their sockets were dropped


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
        http: answers the requests that ask for no WebSocket: gets the ``Request``,
            returns a ``Response``, or None to refuse with 426; may raise ``HandshakeError``
            to refuse otherwise. Without a handler it gets every request and may make a
            connection of it by ``Upgrader.upgrade``; what holds for a handler holds for it
            from there on.
        max_connections: how many it serves at once. Whoever comes then gets 503 and can try
            again; handshakes and plain HTTP count as well. None: as many as come.
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
        refuse_async("Server()", "handler", handler)
        refuse_async("Server()", "http=", http)
        self.handler = handler
        self.upgrader = upgrader or Upgrader(**options)
        self.logger = logger or logging.getLogger("koko.server")
        self.max_connections = check_limit(max_connections)
        self._admission = Admission(handler, self.upgrader, ssl, http, self.logger, self._others)
        self._ssl = ssl
        self._where = (host, port, sock, bool(reuse_port))
        self._listeners: list[socket.socket] = []
        self._listened: list[Any] = []  # the addresses, kept after its end
        self._crowd = Crowd()
        self._lock = threading.Lock()
        self._closer: Role | None = None  # who closes it
        self._goodbye = (1001, "")
        self._stopping = threading.Event()
        self._closed = threading.Event()
        self._on_closed: Callable[[], object] = int
        self._acceptor: threading.Thread | None = None
        self._waker: socket.socket | None = None

    # Life

    def start(self) -> None:
        """Begin to accept connections. Where that fails nothing is left open.

        Raises:
            RuntimeError: it was started before; a server serves once.
            OSError: it cannot listen there.
        """
        if self._acceptor is not None or self._stopping.is_set():
            raise RuntimeError("this server was started before; make another Server to serve again")
        host, port, sock, reuse_port = self._where
        listeners = [sock] if sock else listen(host, port, reuse_port)
        needed = ExitStack()  # closed where one of them is not to be had
        try:
            woken, waker = map(needed.enter_context, socket.socketpair())
            selector = needed.enter_context(selectors.DefaultSelector())
            open_up(listeners)
            self._listeners = listeners
            self._listened = [listener.getsockname() for listener in listeners]
            name = f"koko-accept-{written(self._listened[0])}"
            arguments = (woken, selector)
            acceptor = threading.Thread(target=self._accept, args=arguments, name=name, daemon=True)
            acceptor.start()
        except BaseException:
            self._listeners, self._listened = [], []
            needed.close()
            if sock is None:  # else it is still the caller's
                close_all(listeners)
            raise
        self._waker, self._acceptor = waker, acceptor
        _servers.add(self)

    def serve_forever(self) -> None:
        """Serve until ``close`` is called; when interrupted, close gracefully with 1001."""
        try:
            # A signal that comes just before a wait begins would otherwise not be seen in it.
            while not self._closed.wait(1.0):
                pass
        except BaseException:
            self.close()
            raise

    def close(self, code: int = 1001, reason: str = "", timeout: float | None = None) -> None:
        """Stop accepting, close every connection and wait for the handlers.

        New handshakes get 503, every open connection gets the Close. Whatever is not over
        after ``timeout`` seconds (default: the upgrader's ``close_timeout``) is dropped. A
        handler that does not come out then is left behind: no thread can be ended from
        outside. Calling it again waits for the first call; a handler that calls it is not
        waited for. One line at INFO says how many are waited for, one at WARNING who did not
        come out.
        """
        mine: Role = [threading.get_ident()]
        timeout = self.upgrader.close_timeout if timeout is None else timeout
        try:
            while not self._closed.is_set():
                if hold(self._lock, self._become_closer, mine, (code, reason), timeout):
                    return self._close(timeout)
                self._closed.wait(LOOK)  # and take over from a call that was interrupted
        finally:
            if self._closer is mine:
                self._closer = None

    def _hurry(self) -> None:
        """Drop everything that a ``close`` in another thread still waits for."""
        self._crowd.hurry()

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

    # What there is

    @property
    def connections(self) -> set[Conn]:
        """The open connections, as they are now."""
        return set(self._crowd.conns.values())

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The sockets it listens on; none before its start and after its end."""
        return tuple(sock for sock in self._listeners if sock.fileno() >= 0)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the first socket it listens on; of a Unix socket its path and 0.

        After the server's end still where it listened.

        Raises:
            RuntimeError: it has not been started.
        """
        return address_of(self._listened)

    # Accepting

    def _accept(self, woken: socket.socket, selector: selectors.BaseSelector) -> None:
        told = serving.addresses(self._listened)
        complain(self.logger, serving.LISTENING, told, level=logging.INFO)
        with woken, selector:
            selector.register(woken, selectors.EVENT_READ)
            for listener in self._listeners:
                selector.register(listener, selectors.EVENT_READ)
            while not self._stopping.is_set():
                for key, _ in selector.select():
                    if key.fileobj is not woken:
                        self._accept_one(key.fileobj)
        close_all(self._listeners)

    def _accept_one(self, listener: Any) -> None:
        # Whatever fails here, a log handler of the application's say, the next one is accepted.
        try:
            sock, peer = listener.accept()
        except BlockingIOError:
            return  # another process was faster
        except OSError as error:
            if error.errno not in serving.GONE:
                self._pause(error)
            return
        given = self._crowd.take_place(self.max_connections)
        try:
            if given is not Place.NOWHERE:
                return self._start(PlainStream(sock), written(peer), given)
            told = (written(peer), serving.UNKNOWN, full(self.max_connections))
            complain(self.logger, serving.CLIENT, *told, level=logging.INFO)
        except OSError:
            pass  # it has hung up already
        except RuntimeError as error:  # the system has no thread for it
            self._pause(error)
        sock.close()
        self._crowd.give_back(given)

    def _start(self, stream: PlainStream, peer: str, given: Place) -> None:
        arguments, name = (stream, peer, given), f"koko-{peer}"
        threading.Thread(target=self._serve, args=arguments, name=name, daemon=True).start()

    def _pause(self, error: Exception) -> None:
        complain(self.logger, "%s", serving.cannot_accept(error))
        self._stopping.wait(serving.RETRY)

    # One connection, in its thread

    def _serve(self, stream: PlainStream, peer: str, given: Place) -> None:
        thread = threading.get_ident()
        self._crowd.guests[thread] = Guest(stream, peer)
        try:
            if given is Place.DOOR:
                head_limit = self.upgrader.head_limit
                turn_away(stream, peer, self._ssl, self.max_connections, head_limit, self.logger)
            else:
                self._admission.admit(stream, peer, partial(self._welcome, thread))
        except BaseException as error:  # of an application's: it was told, and we go on
            complain(self.logger, "what serves %s failed", peer, exc_info=error)
        finally:
            self._crowd.see_out(thread, given)

    def _welcome(self, thread: int, conn: Conn) -> None:
        self._crowd.conns[thread] = conn
        if self._stopping.is_set():  # too late for ``close`` to see it
            conn.close(*self._goodbye)

    def _others(self) -> int:
        """Return how many connections are open beside the one that is ending."""
        return len(self._crowd.conns) - 1

    # Closing

    def _become_closer(self, mine: Role, goodbye: tuple[int, str], timeout: float) -> bool:
        if self._closer is not None or self._closed.is_set():
            return False
        self._closer = mine
        if not self._stopping.is_set():
            self._goodbye = goodbye
            self._crowd.deadline = monotonic() + timeout
        self._stopping.set()
        return True

    def _close(self, timeout: float) -> None:
        began = monotonic()
        self._stop_accepting()
        self._admission.closing = True
        conns, others = dict(self._crowd.conns), self._crowd.others
        if conns:
            names = serving.addresses([conn.remote_address for conn in conns.values()])
            told = (timeout, len(conns), names)
            complain(self.logger, serving.CLOSING, *told, level=logging.INFO)
        for thread, guest in others.items():
            if thread not in conns:
                guest.stream.hush()  # a request that is not whole yet gets its 503
        try:
            for conn in conns.values():
                conn._driver.start_close(*self._goodbye)
            self._crowd.wait()
        finally:  # a bad code, or Ctrl-C: who waits for the end is not left waiting
            self._drop_guests()
            try:
                self._say_closed(monotonic() - began)
            finally:
                self._closed.set()
                self._on_closed()

    def _stop_accepting(self) -> None:
        if self._waker is not None and self._acceptor is not None:
            with suppress(OSError):
                self._waker.send(b"\0")  # to close it says nothing while a child has it, too
            self._acceptor.join(_LEAVE)
            self._waker.close()

    def _drop_guests(self) -> None:
        for conn in tuple(self._crowd.conns.values()):
            conn.abort()
        for guest in self._crowd.others.values():
            guest.stream.shutdown()
        self._crowd.deadline = monotonic() + _LEAVE
        self._crowd.wait()
        if late := [guest.peer for guest in self._crowd.others.values()]:
            names = serving.addresses(late)
            complain(self.logger, serving.LATE, len(late), names, level=logging.WARNING)

    def _say_closed(self, lasted: float) -> None:
        if names := serving.addresses(self._listened):
            complain(self.logger, serving.CLOSED, lasted, names, level=logging.INFO)

    def _disown(self) -> None:
        self._lock = threading.Lock()
        self._stopping, self._closed = threading.Event(), threading.Event()
        self._stopping.set()
        self._closed.set()
        self._crowd.disown()
        close_all(self._listeners)
        if self._waker is not None:
            self._waker.close()


def serve(
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
    """Serve until stopped by SIGINT or SIGTERM.

    Every connection then gets a Close with 1001, within ``close_timeout``. The signals
    are watched only in the main thread; elsewhere it serves until the process ends, or
    until ``on_start`` has given the ``Server`` to somebody who closes it. ``options`` are
    those of ``Upgrader``, which may be given whole instead; the rest is as in ``Server``.
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
    with stop_signals() as signals, server:
        server._on_closed = signals.tell
        if on_start is not None:
            on_start(server)
        if signals.wait():
            _close_by_signal(server, signals)


def _close_by_signal(server: Server, signals: Signals) -> None:
    """Close, in another thread, since a second signal means now."""
    try:
        threading.Thread(target=server.close, name="koko-closing", daemon=True).start()
    except RuntimeError:  # the system has no thread for it
        return
    if signals.wait():
        complain(server.logger, serving.HURRIED, level=logging.WARNING)
        server._hurry()


_servers: weakref.WeakSet[Server] = weakref.WeakSet()


def _disown_all() -> None:
    for server in tuple(_servers):
        server._disown()


# A child that lives on would hold the port, and connections wait in it for nobody.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_all)
