"""From a name and a port to a stream: resolution, TCP, TLS, each before a deadline."""

from __future__ import annotations

import errno
import os
import queue
import selectors
import socket
import ssl
import threading
from collections import deque
from functools import partial
from time import sleep
from typing import Any

from koko import dialing
from koko.dial_progress import Progress
from koko.misuse import check_returned
from koko.opening.eyeballs import DELAY, ROOM, Address, interleaved, no_connection
from koko.sync.clock import time_left
from koko.sync.tls import TLSStream
from koko.sync.transport import PlainStream, Stream

_STARTED = (0, errno.EINPROGRESS, errno.EWOULDBLOCK)


def open_stream(dialer: dialing.Dialer, host: str, port: int, progress: Progress) -> PlainStream:
    """Connect to the first that is on the way: a proxy or the server, as the dialer says.

    Raises:
        TimeoutError: not in time.
        OSError: the name is unknown, or no address wants us.
    """
    if dialer.net_dial is not None:
        progress.net_dial()
        sock: socket.socket = dialer.net_dial(host, port, time_left(progress.deadline))
        check_returned("net_dial=", dialer.net_dial, sock)
        try:
            dialing.check_socket(sock)
            _check_time(progress)
        except (TypeError, TimeoutError):
            if hasattr(sock, "close"):  # nobody else knows it
                sock.close()
            raise
    elif dialer.unix is not None:
        sock = _connect_unix(os.fspath(dialer.unix), progress)
    else:
        sock = Race(resolve(host, port, progress), progress).run(host, port)
    try:
        dialing.log.debug("connected to %s port %d: %s", host, port, sock)
        return PlainStream(sock)
    except BaseException:
        sock.close()
        raise


def _connect_unix(path: str, progress: Progress) -> socket.socket:
    progress.connect_unix(path)
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(0)
        while not _has_room(sock, path):
            _check_time(progress)
            sleep(ROOM)
    except BaseException:
        sock.close()
        raise
    return sock


def _has_room(sock: socket.socket, path: str) -> bool:
    try:
        sock.connect(path)
    except BlockingIOError:
        return False
    return True


def _check_time(progress: Progress) -> None:
    if time_left(progress.deadline) == 0:
        raise TimeoutError("no time was left to connect")


class Race:
    """Attempts to connect that run side by side; the first to succeed is the connection."""

    def __init__(self, addresses: list[Address], progress: Progress) -> None:
        self._progress = progress
        self._waiting = deque(interleaved(addresses))
        self._running: dict[socket.socket, Address] = {}
        self._failures: list[tuple[Address, OSError]] = []

    def run(self, host: str, port: int) -> socket.socket:
        """Return the winner; all others are closed.

        Raises:
            TimeoutError: there was none before the deadline.
            OSError: every address refused.
        """
        with selectors.DefaultSelector() as selector:
            try:
                while self._waiting or self._running:
                    _check_time(self._progress)
                    # Every turn starts one more: after the delay, or at once when one failed.
                    self._start_next(selector)
                    ready = selector.select(self._patience()) if self._running else ()
                    for key, _ in ready:
                        if winner := self._finish(selector, key.fileobj):
                            return winner
            finally:
                for sock in self._running:
                    sock.close()
        raise no_connection(host, port, self._failures)

    def _patience(self) -> float | None:
        left = time_left(self._progress.deadline)
        if not self._waiting:
            return left
        return DELAY if left is None else min(DELAY, left)

    def _start_next(self, selector: selectors.BaseSelector) -> None:
        started = False
        while self._waiting and not started:
            address = self._waiting.popleft()
            self._progress.connect(address)
            try:
                sock = _begin(address)
            except OSError as error:
                self._fail(address, error)
                continue
            started = True
            self._running[sock] = address
            selector.register(sock, selectors.EVENT_WRITE)

    def _finish(self, selector: selectors.BaseSelector, sock: Any) -> socket.socket | None:
        selector.unregister(sock)
        address = self._running.pop(sock)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not code:
            won: socket.socket = sock
            return won
        sock.close()
        self._fail(address, OSError(code, os.strerror(code)))
        return None

    def _fail(self, address: Address, error: OSError) -> None:
        self._failures.append((address, error))
        self._progress.connect_failed(address, error)


def _begin(address: Address) -> socket.socket:
    family, kind, protocol, _, where = address
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        code = sock.connect_ex(where)
        if code not in _STARTED:
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock


def resolve(
    host: str, port: int, progress: Progress, family: int = socket.AF_UNSPEC
) -> list[Address]:
    """Return the addresses of ``host``, as ``getaddrinfo`` does, before the deadline.

    Raises:
        TimeoutError: the system did not know in time.
        socket.gaierror: the name is unknown.
    """
    progress.resolve(host)
    look_up = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM)
    try:
        return look_up(flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass  # a name
    if progress.deadline is None:
        return look_up()
    # The system's resolver cannot be interrupted, only left behind.
    answer: queue.SimpleQueue[list[Any] | Exception] = queue.SimpleQueue()
    threading.Thread(target=_ask, args=(look_up, answer), name="koko-resolver", daemon=True).start()
    try:
        found = answer.get(timeout=time_left(progress.deadline))
    except queue.Empty:
        raise TimeoutError(f"the name {host!r} was not resolved in time") from None
    if isinstance(found, socket.gaierror):
        raise socket.gaierror(found.errno, f"{found.strerror}: {host!r}") from None
    if isinstance(found, Exception):
        raise found
    return found


def _ask(look_up: Any, answer: queue.SimpleQueue[list[Any] | Exception]) -> None:
    try:
        answer.put(look_up())
    except Exception as error:
        answer.put(error)


def secure(
    stream: Stream, context: ssl.SSLContext | None, name: str, progress: Progress
) -> TLSStream:
    """Start TLS with a server that must prove to be ``name``; close the stream if it cannot."""
    try:
        progress.secure(name)
        context = context or ssl.create_default_context()
        session = TLSStream(stream, context, server_hostname=name)
        session.handshake(progress.deadline)
        dialing.check_session(name, session.session)
    except BaseException:
        stream.close()
        raise
    return session
