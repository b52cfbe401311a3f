"""From a listening socket to a protocol for each client: TCP, and TLS where it is asked for.

Koko accepts by itself, because the loops do not report a client whose TLS handshake failed;
here each one is a line of the log, with its address. The loop accepts only where it cannot
watch descriptors (Windows).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from koko import listening, serving, upgrading
from koko.aio import transport
from koko.aio.exchange import LONG
from koko.aio.forking import disown, keep
from koko.aio.logs import tell
from koko.aio.network import ask_resolver
from koko.aio.proxied import read_proxy_header
from koko.errors import HandshakeError
from koko.opening.address import written
from koko.opening.proxy_protocol import ProxyHeader
from koko.upgrading import check_proxy

# It gets the peer's address, unless the transport knows it, the PROXY header, the deadline of the
# handshake, if that has begun, and what to call in ``connection_made``. From then on the protocol
# that it makes has an attribute ``transport``.
Factory = Callable[..., asyncio.Protocol]
Task = asyncio.Task[Any]


class Listening(Protocol):
    """What a server needs of a listener, be it the native one or the loop's."""

    @property
    def sockets(self) -> tuple[socket.socket, ...]: ...

    def close(self) -> None: ...


class AcceptedSocket:
    """A socket that has no protocol yet."""

    def __init__(
        self, protocol: Factory, sock: socket.socket, peer: Any, arrived: Callable[[], None]
    ) -> None:
        self.sock = sock
        self.peer = peer
        self.deadline: float | None = None  # of a handshake that has begun
        self.proxied: ProxyHeader | None = None
        self.protocol: asyncio.Protocol | None = None  # None: it has no transport either
        self._factory = protocol
        self._arrived = arrived

    def make(self) -> asyncio.Protocol:
        self.protocol = self._factory(self.peer, self.proxied, self.deadline, self._arrived)
        return self.protocol

    @property
    def has_arrived(self) -> bool:
        """True once its protocol has a transport: from then on the protocol logs the end."""
        return hasattr(self.protocol, "transport")


class Acceptor:
    """Gives each accepted socket a protocol; logs one line for each that never gets one."""

    def __init__(
        self,
        protocol: Factory,
        upgrader: upgrading.Upgrader,
        context: ssl.SSLContext | None,
        proxy_protocol: bool,
        logger: logging.Logger,
        excess: Callable[[int], HandshakeError | None],
    ) -> None:
        self.protocol = protocol
        self._excess = excess  # why no more may be connecting, beside so many
        self.proxy_protocol = proxy_protocol
        self.tls: dict[str, Any] = {}
        if context is not None:
            self.tls["ssl"] = context
            self.tls["ssl_handshake_timeout"] = upgrader.handshake_timeout or LONG
            self.tls["ssl_shutdown_timeout"] = upgrader.close_timeout
        self._upgrader = upgrader
        self._logger = logger
        self._loop = asyncio.get_running_loop()
        self._connect = transport.connector(self._loop, self.tls)
        self._connecting: dict[Task, AcceptedSocket] = {}
        self._not_arrived = 0  # of those; the others count as clients already
        keep(self)

    def admit(self, sock: socket.socket, peer: Any) -> None:
        """Give an accepted socket a protocol, after the PROXY header and the TLS handshake."""
        error = self._excess(self._not_arrived)
        if error is not None:
            sock.close()
            client = written(peer)
            tell(self._logger, logging.INFO, serving.CLIENT, client, serving.UNKNOWN, error)
            return
        accepted = AcceptedSocket(self.protocol, sock, peer, self._arrived)
        self._not_arrived += 1
        proxied = self.proxy_protocol
        connect = self._pass(accepted) if proxied else self._connect(accepted.make, sock)
        task = self._loop.create_task(connect)
        self._connecting[task] = accepted
        task.add_done_callback(self._conclude)

    def exhausted(self, error: OSError) -> None:
        """Log that the system is out of something: no client can be accepted now."""
        tell(self._logger, logging.ERROR, "%s", serving.cannot_accept(error))

    def close(self) -> set[Task]:
        """Cancel the TLS handshakes; return the tasks of all sockets without a protocol."""
        for task, accepted in self._connecting.items():
            if (self.tls or self.proxy_protocol) and not accepted.has_arrived:
                task.cancel()
        return set(self._connecting)

    def _arrived(self) -> None:
        self._not_arrived -= 1

    def _conclude(self, task: Task) -> None:
        accepted = self._connecting.pop(task)
        error: BaseException | None = ConnectionError(serving.GOING_AWAY)
        if not task.cancelled():
            error = task.exception()
        if accepted.has_arrived:
            return
        self._not_arrived -= 1
        # After a cancellation the transport closes itself, once its output is written.
        if accepted.protocol is None or not task.cancelled():
            accepted.sock.close()
        self._tell(accepted, error or ConnectionResetError())

    async def _pass(self, accepted: AcceptedSocket) -> None:
        """Read the PROXY header of a socket, and go on as with any other."""
        check_proxy(self._upgrader, accepted.peer)
        timeout, now = self._upgrader.handshake_timeout, self._loop.time
        deadline = accepted.deadline = None if timeout is None else now() + timeout
        accepted.proxied = await read_proxy_header(accepted.sock, deadline)
        if not self.tls:
            await transport.attach(accepted.sock, accepted.make())
            return
        tls = dict(self.tls)
        if deadline is not None:
            tls["ssl_handshake_timeout"] = max(deadline - now(), 0.001)  # 0 would be an error
        await transport.connector(self._loop, tls)(accepted.make, accepted.sock)

    def _tell(self, accepted: AcceptedSocket, error: BaseException) -> None:
        proxied = accepted.proxied
        client = written((proxied and proxied.source) or accepted.peer)
        if not isinstance(error, OSError):
            tell(self._logger, logging.ERROR, "could not admit %s", client, error=error)
            return
        level = serving.level_for(proxied, serving.level_of(error))
        sentence = self._sentence_of(error, self.proxy_protocol and proxied is None)
        tell(self._logger, level, serving.CLIENT, client, serving.UNKNOWN, sentence)

    def _sentence_of(self, error: OSError, before_tls: bool) -> str:
        # At the timeout the loops and aiofastnet raise the first, and we the second; an error of
        # the system has an errno.
        if isinstance(error, ConnectionAbortedError | TimeoutError) and error.errno is None:
            return serving.too_slow(self._upgrader.handshake_timeout)
        if self.tls and not before_tls:
            return serving.no_tls(error)
        return serving.HUNG_UP if error.errno or not before_tls else serving.sentence_of(error)

    def _disown(self) -> None:
        for accepted in self._connecting.values():
            disown(accepted.sock.fileno())


class Listener:
    """A listening socket whose connections go to an acceptor.

    Raises:
        NotImplementedError: the loop cannot watch descriptors; the socket is unchanged.
    """

    def __init__(self, sock: socket.socket, backlog: int, acceptor: Acceptor) -> None:
        self.sockets = (sock,)
        self._backlog = backlog
        self._acceptor = acceptor
        self._retry: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self._sock = sock.dup()  # the caller may close the original
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
        """Accept the clients that wait, at most one backlog: the loop has other work."""
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
                self._acceptor.admit(sock, peer)

    def _pause(self, error: OSError) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._retry = self._loop.call_later(serving.RETRY, self._watch)
        self._acceptor.exhausted(error)

    def _disown(self) -> None:
        disown(self._sock.fileno())


async def bind(
    host: str | list[str] | None, port: int, reuse_port: bool = False
) -> list[socket.socket]:
    """Bind a socket to each address of ``host``; a free port is chosen once, for all of them.

    Raises:
        OSError: a name is unknown, a port is taken, or none of the addresses is here.
    """
    found = []
    for name in listening.names(host):
        found += await ask_resolver(name, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return listening.bind(found, port, reuse_port)


async def listen_on(sock: socket.socket, backlog: int, acceptor: Acceptor) -> Listening:
    """Accept connections on a bound socket."""
    transport.hasten(sock)  # accepted sockets inherit the option
    listening.listen(sock, backlog)  # not by uvloop: it ignores that the port is taken
    with suppress(NotImplementedError):
        if transport.ours is not None and not (acceptor.tls or acceptor.proxy_protocol):
            listener: Listening = transport.ours.Listener(
                sock, acceptor.protocol, acceptor.exhausted
            )
            return listener
        return Listener(sock, backlog, acceptor)
    if acceptor.proxy_protocol:
        raise RuntimeError("proxy_protocol= needs a loop that can watch descriptors")
    loop = asyncio.get_running_loop()
    return await loop.create_server(acceptor.protocol, sock=sock, backlog=backlog, **acceptor.tls)
