"""From a listening socket to a protocol for each client: TCP, and TLS where it is asked for.

Accepting is our own, because no loop tells anybody of a client with which TLS did not come
about; here each is one line, with its address. Only where a loop can watch no descriptors
(Windows) does the loop accept.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from koko import serving, upgrading
from koko.aio import transport
from koko.aio.exchange import LONG
from koko.aio.forking import disown, keep
from koko.aio.logs import tell
from koko.opening.address import written

# Gets the peer's address, unless the transport knows it. What it makes has its ``transport`` as an
# attribute from ``connection_made`` on.
Factory = Callable[..., asyncio.Protocol]
Task = asyncio.Task[tuple[asyncio.Transport, asyncio.Protocol]]


class Listening(Protocol):
    """What a server needs of whatever accepts for it."""

    @property
    def sockets(self) -> tuple[socket.socket, ...]: ...

    def close(self) -> None: ...


class Newcomer:
    """An accepted socket on its way to its protocol."""

    def __init__(self, protocol: Factory, sock: socket.socket, peer: Any) -> None:
        self.sock = sock
        self.peer = peer
        self.protocol: asyncio.Protocol | None = None  # not asked for, and so no transport either
        self._factory = protocol

    def make(self) -> asyncio.Protocol:
        self.protocol = self._factory(self.peer)
        return self.protocol

    @property
    def has_arrived(self) -> bool:
        """True when its protocol has it, which tells of its end."""
        return hasattr(self.protocol, "transport")


class Reception:
    """The clients that were accepted and have no protocol yet; how each that gets none is told."""

    def __init__(
        self,
        protocol: Factory,
        upgrader: upgrading.Upgrader,
        context: ssl.SSLContext | None,
        logger: logging.Logger,
    ) -> None:
        self.protocol = protocol
        self.tls: dict[str, Any] = {}
        if context is not None:
            self.tls["ssl"] = context
            self.tls["ssl_handshake_timeout"] = upgrader.handshake_timeout or LONG
            self.tls["ssl_shutdown_timeout"] = upgrader.close_timeout
        self._timeout = upgrader.handshake_timeout
        self._logger = logger
        self._loop = asyncio.get_running_loop()
        self._connect = transport.connector(self._loop, self.tls)
        self._connecting: dict[Task, Newcomer] = {}
        keep(self)

    def admit(self, sock: socket.socket, peer: Any) -> None:
        """Give an accepted socket a protocol, once TLS has come about."""
        newcomer = Newcomer(self.protocol, sock, peer)
        task = self._loop.create_task(self._connect(newcomer.make, sock))
        self._connecting[task] = newcomer
        task.add_done_callback(self._conclude)

    def exhausted(self, error: OSError) -> None:
        """Take note that nobody can be accepted now."""
        tell(self._logger, logging.ERROR, "%s", serving.cannot_accept(error))

    def close(self) -> set[Task]:
        """Give up those that are still at TLS; return what ends when all have arrived or ended."""
        for task, newcomer in self._connecting.items():
            if self.tls and not newcomer.has_arrived:
                task.cancel()
        return set(self._connecting)

    def _conclude(self, task: Task) -> None:
        newcomer = self._connecting.pop(task)
        error: BaseException | None = ConnectionError(serving.GOING_AWAY)
        if not task.cancelled():
            error = task.exception()
        if newcomer.has_arrived:
            return
        # Cancelled, a transport closes itself, once what it has to write is written.
        if newcomer.protocol is None or not task.cancelled():
            newcomer.sock.close()
        self._tell(newcomer.peer, error or ConnectionResetError())

    def _tell(self, peer: Any, error: BaseException) -> None:
        who = written(peer)
        if not isinstance(error, OSError):
            tell(self._logger, logging.ERROR, "could not admit %s", who, error=error)
            return
        # What the loops and aiofastnet raise when the time is over; the system's has a number.
        if isinstance(error, ConnectionAbortedError) and error.errno is None:
            sentence = serving.too_slow(self._timeout)
        else:
            sentence = serving.no_tls(error) if self.tls else serving.HUNG_UP
        tell(self._logger, logging.INFO, serving.CLIENT, who, serving.UNKNOWN, sentence)

    def _disown(self) -> None:
        for newcomer in self._connecting.values():
            disown(newcomer.sock.fileno())


class Listener:
    """A listening socket whose connections go to a reception.

    Raises:
        NotImplementedError: the loop can watch no descriptors; the socket is as it was.
    """

    def __init__(self, sock: socket.socket, backlog: int, reception: Reception) -> None:
        self.sockets = (sock,)
        self._backlog = backlog
        self._reception = reception
        self._retry: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self._sock = sock.dup()  # that one may be closed by whoever has it
        try:
            self._watch()
        except BaseException:
            self._sock.close()
            raise
        keep(self)

    def close(self) -> None:
        """Accept no more."""
        if self._sock.fileno() < 0:
            return
        self._loop.remove_reader(self._sock.fileno())
        if self._retry is not None:
            self._retry.cancel()
        self._sock.close()
        self.sockets[0].close()

    def _watch(self) -> None:
        self._loop.add_reader(self._sock.fileno(), self._accept)

    def _accept(self) -> None:
        """Accept all that wait, but no more than may wait: others have their turn."""
        for _ in range(self._backlog):
            try:
                sock, peer = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in serving.GONE:
                    return self._pause(error)
            else:
                sock.setblocking(False)
                self._reception.admit(sock, peer)

    def _pause(self, error: OSError) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._retry = self._loop.call_later(serving.RETRY, self._watch)
        self._reception.exhausted(error)

    def _disown(self) -> None:
        disown(self._sock.fileno())


async def listen_on(sock: socket.socket, backlog: int, reception: Reception) -> Listening:
    """Accept connections on a bound socket."""
    transport.hasten(sock)  # the sockets that are accepted inherit it
    sock.listen(backlog)  # here, since uvloop does not tell of a port that another listens on
    with suppress(NotImplementedError):
        if transport.ours is not None and not reception.tls:
            listening: Listening = transport.ours.Listener(
                sock, reception.protocol, reception.exhausted
            )
            return listening
        return Listener(sock, backlog, reception)
    loop = asyncio.get_running_loop()
    return await loop.create_server(reception.protocol, sock=sock, backlog=backlog, **reception.tls)
