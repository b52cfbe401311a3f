"""The server, for threads: listens, and gives each connection a thread of its own."""

from __future__ import annotations

import errno
import logging
import selectors
import signal
import socket
import ssl as tls
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Any, Self, Unpack

from koko import listening
from koko.core.address import written
from koko.places import Place, check_limit, place
from koko.sync.admit import Admission, Handler, Http
from koko.sync.conn import Conn
from koko.sync.door import turn_away
from koko.sync.transport import PlainStream
from koko.sync.upgrade import Upgrader
from koko.upgrading import UpgraderOptions

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_BACKLOG = 1024
_PAUSE = 1.0  # seconds to wait for somebody to give back what the system has run out of
_LEAVE = 1.0  # seconds that handlers get to come out after their sockets were dropped
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


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
        upgrader: which requests become connections, and with which options.
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
    ) -> None:
        if handler is None and http is None:
            raise TypeError("a server needs a handler, or http= that upgrades by itself")
        self.handler = handler
        self.upgrader = upgrader or Upgrader()
        self.logger = logger or logging.getLogger("koko.server")
        self.max_connections = check_limit(max_connections)
        self._admission = Admission(handler, self.upgrader, ssl, http, self.logger)
        self._ssl = ssl
        self._where = (host, port, sock, bool(reuse_port))
        self._listeners: list[socket.socket] = []
        self._changed = threading.Condition()  # guards what follows
        self._places = dict.fromkeys(Place, 0)  # how many have each of them, from accept to end
        self._guests: dict[int, PlainStream] = {}  # by thread, from accept to the end
        self._conns: dict[int, Conn] = {}  # by thread, those of them with an open connection
        self._stopping = threading.Event()
        self._goodbye = (1001, "")
        self._closed = threading.Event()
        self._on_closed: Callable[[], object] = int
        self._acceptor: threading.Thread | None = None
        self._waker: socket.socket | None = None

    # Life

    def start(self) -> None:
        """Begin to accept connections."""
        host, port, sock, reuse_port = self._where
        self._listeners = [sock] if sock else _listen(host, port, reuse_port)
        woken, self._waker = socket.socketpair()
        for listener in self._listeners:
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        name = f"koko-accept-{written(self.address)}"
        self._acceptor = threading.Thread(
            target=self._accept, args=(woken,), name=name, daemon=True
        )
        self._acceptor.start()

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
        waited for.
        """
        with self._changed:
            first = not self._stopping.is_set()
            if first:
                self._goodbye = (code, reason)
            self._stopping.set()
        if not first:
            self._closed.wait()
            return
        deadline = monotonic() + (self.upgrader.close_timeout if timeout is None else timeout)
        self._stop_accepting()
        self._admission.closing = True
        guests, conns = self._present()
        for thread, guest in guests.items():
            if thread not in conns:
                guest.hush()  # a request that is not whole yet gets its 503
        try:
            for conn in conns.values():
                conn._driver.start_close(code, reason)
            self._wait_for_guests(deadline)
        finally:  # a bad code, or Ctrl-C: who waits for the end is not left waiting
            self._drop_guests()
            self._closed.set()
            self._on_closed()

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
        with self._changed:
            return set(self._conns.values())

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The sockets it listens on."""
        return tuple(self._listeners)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the first socket it listens on."""
        name = self._listeners[0].getsockname()
        return (name[0], name[1]) if isinstance(name, tuple) else (name, 0)

    # Accepting

    def _accept(self, woken: socket.socket) -> None:
        with woken, selectors.DefaultSelector() as selector:
            selector.register(woken, selectors.EVENT_READ)
            for listener in self._listeners:
                selector.register(listener, selectors.EVENT_READ)
            while not self._stopping.is_set():
                for key, _ in selector.select():
                    if key.fileobj is not woken:
                        self._accept_one(key.fileobj)
        for listener in self._listeners:
            listener.close()

    def _accept_one(self, listener: Any) -> None:
        try:
            sock, peer = listener.accept()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                self._pause(error)
            return  # else: the peer, or another process, was faster
        given = self._place()
        if given is Place.NOWHERE:
            sock.close()
            self._leave(given)
            return
        thread = threading.Thread(
            target=self._serve, args=(sock, given), name=f"koko-{written(peer)}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            sock.close()
            self._leave(given)
            self._pause(error)

    def _place(self) -> Place:
        with self._changed:
            taken = self._places
            given = place(self.max_connections, taken[Place.SEAT], taken[Place.DOOR])
            taken[given] += 1
        return given

    def _leave(self, given: Place) -> None:
        with self._changed:
            self._places[given] -= 1

    def _pause(self, error: Exception) -> None:
        self.logger.error("cannot accept, next try in %g s: %s", _PAUSE, error)
        self._stopping.wait(_PAUSE)

    def _stop_accepting(self) -> None:
        if self._waker is not None and self._acceptor is not None:
            self._waker.close()  # the other end becomes readable
            self._acceptor.join(_LEAVE)

    # One connection, in its thread

    def _serve(self, sock: socket.socket, given: Place) -> None:
        thread = threading.get_ident()
        stream = PlainStream(sock)
        with self._changed:
            self._guests[thread] = stream
        try:
            if given is Place.DOOR:
                turn_away(stream, self._ssl, self.max_connections, self.logger)
            else:
                self._admission.admit(stream, partial(self._welcome, thread))
        finally:
            self._leave(given)
            with self._changed:
                self._conns.pop(thread, None)
                del self._guests[thread]
                self._changed.notify_all()

    def _welcome(self, thread: int, conn: Conn) -> None:
        with self._changed:
            self._conns[thread] = conn
        if self._stopping.is_set():  # too late for ``close`` to see it
            conn.close(*self._goodbye)

    # Closing

    def _present(self) -> tuple[dict[int, PlainStream], dict[int, Conn]]:
        with self._changed:
            return dict(self._guests), dict(self._conns)

    def _wait_for_guests(self, deadline: float) -> None:
        ours = {threading.get_ident()}
        with self._changed:
            self._changed.wait_for(lambda: self._guests.keys() <= ours, deadline - monotonic())

    def _drop_guests(self) -> None:
        guests, conns = self._present()
        for conn in conns.values():
            conn.abort()
        for thread, guest in guests.items():
            if thread not in conns:
                guest.shutdown()
        self._wait_for_guests(monotonic() + _LEAVE)


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
    with _stop_signals() as (stopped, stop), server:
        server._on_closed = lambda: stop.send(b"\0")
        if on_start is not None:
            on_start(server)
        while stopped.recv(1)[0] not in (0, *_SIGNALS):
            pass  # a signal that the application watches


@contextmanager
def _stop_signals() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield a pair of sockets, of which SIGINT and SIGTERM make the first one readable."""
    stopped, stop = socket.socketpair()
    with stopped, stop:
        if threading.current_thread() is not threading.main_thread():
            yield stopped, stop
            return
        # Waiting on a lock would lose a signal that comes just before the wait begins: its
        # handler runs only after. What the system writes into a socket is not lost.
        stop.setblocking(False)
        before = [signal.signal(number, lambda *_: None) for number in _SIGNALS]
        woken_before = signal.set_wakeup_fd(stop.fileno(), warn_on_full_buffer=False)
        try:
            yield stopped, stop
        finally:
            signal.set_wakeup_fd(woken_before)
            for number, handler in zip(_SIGNALS, before, strict=True):
                signal.signal(number, handler)


def _listen(host: str | list[str] | None, port: int, reuse_port: bool) -> list[socket.socket]:
    """Bind every address that ``host`` stands for, all of them to one port."""
    found = []
    for name in listening.names(host):
        found += socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return listening.bind(found, port, reuse_port)
