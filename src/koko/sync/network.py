"""From a name and a port to a connected socket by a deadline; a failure leaves nothing open."""

from __future__ import annotations

import errno
import os
import queue
import selectors
import socket
import threading
from contextlib import suppress
from functools import partial
from time import sleep
from typing import Any

from koko.dial_steps import Attempts, CallNetDial, Connect, Connecting, ConnectUnix, Resolve
from koko.dialing import check_connected, check_socket
from koko.misuse import check_returned
from koko.opening.eyeballs import ROOM, Address
from koko.sync.clock import earliest, time_left

_STARTED = (0, errno.EINPROGRESS, errno.EWOULDBLOCK)


def connect(step: Connecting, deadline: float | None) -> socket.socket:
    """Return a connected socket.

    Raises:
        TimeoutError: no connection was accepted in time.
        OSError: no connection was accepted.
    """
    match step:
        case Connect():
            return Race(step.attempts, deadline).run()
        case ConnectUnix():
            return _connect_unix(step.path, deadline)
        case CallNetDial():
            return _call_net_dial(step, deadline)


def _call_net_dial(step: CallNetDial, deadline: float | None) -> socket.socket:
    sock: socket.socket = step.function(step.host, step.port, time_left(deadline))
    check_returned("net_dial=", step.function, sock)
    try:
        check_socket(sock)
        check_connected(sock)
        _check_time(deadline)
    except (TypeError, OSError):
        if hasattr(sock, "close"):  # the application would not
            sock.close()
        raise
    return sock


def _connect_unix(path: str | bytes, deadline: float | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(0)
        while not _has_room(sock, path):
            _check_time(deadline)
            sleep(ROOM)
    except BaseException:
        sock.close()
        raise
    return sock


def _has_room(sock: socket.socket, path: str | bytes) -> bool:
    try:
        sock.connect(path)
    except BlockingIOError:
        return False
    return True


def _check_time(deadline: float | None) -> None:
    if time_left(deadline) == 0:
        raise TimeoutError("no time was left to connect")


class Race:
    """Attempts to connect that run side by side; the first to succeed is the connection."""

    def __init__(self, attempts: Attempts, deadline: float | None) -> None:
        self._attempts, self._deadline = attempts, deadline
        self._running: dict[socket.socket, Address] = {}

    def run(self) -> socket.socket:
        """Return the first socket that is connected; all others are closed.

        Raises:
            TimeoutError: no address accepted before the deadline.
            OSError: every address refused.
        """
        with selectors.DefaultSelector() as selector:
            try:
                while self._attempts.left or self._running:
                    _check_time(self._deadline)
                    # Each round starts one more: after the delay, or at once when one has failed.
                    self._start_next(selector)
                    ready = selector.select(self._patience()) if self._running else ()
                    for key, _ in ready:
                        if winner := self._finish(selector, key.fileobj):
                            return winner
            finally:
                for sock in self._running:
                    sock.close()
        raise self._attempts.error()

    def _patience(self) -> float | None:
        return earliest(time_left(self._deadline), self._attempts.patience)

    def _start_next(self, selector: selectors.BaseSelector) -> None:
        while self._attempts.left:
            address = self._attempts.begin()
            try:
                sock = _begin(address)
            except OSError as error:
                self._attempts.failed(address, error)
                continue
            self._running[sock] = address
            selector.register(sock, selectors.EVENT_WRITE)
            return

    def _finish(self, selector: selectors.BaseSelector, sock: Any) -> socket.socket | None:
        selector.unregister(sock)
        address = self._running.pop(sock)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not code:
            won: socket.socket = sock
            return won
        sock.close()
        self._attempts.failed(address, OSError(code, os.strerror(code)))
        return None


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


def resolve(step: Resolve, deadline: float | None) -> list[Address]:
    """Return the addresses of a host, as ``getaddrinfo`` does, before the deadline.

    Raises:
        TimeoutError: the system's resolver did not answer in time.
        socket.gaierror: the name is unknown.
    """
    family = socket.AF_INET if step.only_ipv4 else socket.AF_UNSPEC
    look_up = partial(socket.getaddrinfo, step.host, step.port, family, socket.SOCK_STREAM)
    with suppress(socket.gaierror):  # not an address: a name
        return look_up(flags=socket.AI_NUMERICHOST)
    if deadline is None:
        return look_up()
    # The system's resolver cannot be interrupted: leave its thread behind.
    answer: queue.SimpleQueue[list[Any] | Exception] = queue.SimpleQueue()
    threading.Thread(target=_ask, args=(look_up, answer), name="koko-resolver", daemon=True).start()
    try:
        found = answer.get(timeout=time_left(deadline))
    except queue.Empty:
        raise TimeoutError(f"the name {step.host!r} was not resolved in time") from None
    if isinstance(found, socket.gaierror):
        raise socket.gaierror(found.errno, f"{found.strerror}: {step.host!r}") from None
    if isinstance(found, Exception):
        raise found
    return found


def _ask(look_up: Any, answer: queue.SimpleQueue[list[Any] | Exception]) -> None:
    try:
        answer.put(look_up())
    except Exception as error:
        answer.put(error)
