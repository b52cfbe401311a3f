"""Listening sockets, for threads, and the thread that accepts their connections."""

from __future__ import annotations

import logging
import selectors
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

from koko import listening, serving
from koko.opening.address import written
from koko.sync.logs import tell

_JOIN = 1.0  # seconds to wait for the end of the thread, which ends at once


def bind(host: str | list[str] | None, port: int, reuse_port: bool) -> list[socket.socket]:
    """Bind a socket to each address of ``host``; a free port is chosen once, for all of them.

    Raises:
        OSError: a name is unknown, a port is taken, or none of the addresses is here.
    """
    found = []
    for name in listening.names(host):
        found += socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return listening.bind(found, port, reuse_port)


class Acceptor:
    """Bound sockets that listen, and a thread that accepts their connections.

    Each connection is given to ``admit`` with the peer's address. A RuntimeError of ``admit``
    means that the system has no thread for it.

    Attributes:
        sockets: the sockets that listen.
    """

    def __init__(
        self,
        sockets: list[socket.socket],
        admit: Callable[[socket.socket, Any], object],
        logger: logging.Logger,
    ) -> None:
        self.sockets = sockets
        self._admit = admit
        self._logger = logger
        self._stopping = threading.Event()
        needed = ExitStack()  # closes what was made if something cannot be made
        try:
            woken, self._waker = map(needed.enter_context, socket.socketpair())
            selector = needed.enter_context(selectors.DefaultSelector())
            for sock in sockets:
                listening.listen(sock)
                sock.setblocking(False)
            names = [sock.getsockname() for sock in sockets]
            name, args = f"koko-accept-{written(names[0])}", (names, woken, selector)
            self._thread = threading.Thread(target=self._accept, args=args, name=name, daemon=True)
            self._thread.start()
        except BaseException:
            needed.close()
            raise

    def close(self) -> None:
        """Accept no more, and close the sockets."""
        self._stopping.set()
        with suppress(OSError):
            self._waker.send(b"\0")  # closing it does not wake the thread if a child holds a copy
        self._thread.join(_JOIN)
        self._waker.close()

    def disown(self) -> None:
        """Let go of the sockets in a child of fork: they belong to the parent."""
        listening.close_all(self.sockets)
        self._waker.close()

    def _accept(
        self, names: list[Any], woken: socket.socket, selector: selectors.BaseSelector
    ) -> None:
        tell(self._logger, logging.INFO, serving.LISTENING, serving.addresses(names))
        with woken, selector:
            selector.register(woken, selectors.EVENT_READ)
            for sock in self.sockets:
                selector.register(sock, selectors.EVENT_READ)
            while not self._stopping.is_set():
                for key, _ in selector.select():
                    if key.fileobj is not woken:
                        self._accept_one(key.fileobj)
        listening.close_all(self.sockets)

    def _accept_one(self, listener: Any) -> None:
        try:
            self._admit(*listener.accept())
        except BlockingIOError:
            pass  # another process has accepted it
        except OSError as error:
            if error.errno not in serving.GONE:
                self._pause(error)
        except RuntimeError as error:  # the system has no thread for it
            self._pause(error)

    def _pause(self, error: Exception) -> None:
        tell(self._logger, logging.ERROR, "%s", serving.cannot_accept(error))
        self._stopping.wait(serving.RETRY)
