"""The clients of one server: served, refused or connected; and the wait for their end."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from time import monotonic
from typing import Any

from koko.http import Request
from koko.opening.address import written
from koko.opening.forwarded import Source
from koko.opening.proxy_protocol import ProxyHeader
from koko.serving import DROP, SERVE, Admission, admission
from koko.sync.conn import Conn
from koko.sync.monitor import News, hold
from koko.sync.transport import PlainStream
from koko.upgrading import Upgrader, source_of


@dataclass(slots=True)
class Client:
    """A client that a thread serves or refuses.

    Attributes:
        peer: the address at the other end of the connection.
        proxied: what its PROXY header says, None where there is none.
        told: the address that a trusted proxy has told, None while none has.
    """

    stream: PlainStream
    peer: Any
    proxied: ProxyHeader | None = None
    told: Any = None

    @property
    def name(self) -> str:
        """Its address, for the log."""
        return written(self.told or self.peer)

    def pass_on(self, proxied: ProxyHeader) -> None:
        """Note what a proxy says of the connection."""
        self.proxied, self.told = proxied, proxied.source

    def source_by(self, upgrader: Upgrader, request: Request, secure: bool) -> Source:
        """Return where a request came from, as far as the proxies of ``upgrader`` tell."""
        return source_of(upgrader, request, self.peer, secure, self.proxied)


class Clients:
    """Holds every client of a server, from the moment it is accepted until it is gone.

    Attributes:
        limit: ``max_connections``.
        closing: whether the server is closing.
        served, refused: how many clients are served, and how many get a 503.
        threads: the clients, by the thread that serves or refuses them.
        conns: the open connections, by the same threads.
        deadline: when ``wait`` ends; ``hurry`` makes that now.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.closing = False
        self.served = self.refused = 0
        self.threads: dict[int, Client] = {}
        self.conns: dict[int, Conn] = {}
        self.deadline = 0.0
        self._lock = threading.Lock()
        self._left = News()  # threads that wait for clients to leave

    def admission(self) -> Admission:
        """Return what becomes of the next client; it counts from now on."""
        return hold(self._lock, self._admission)  # type: ignore[no-any-return]

    def count_out(self, given: Admission) -> None:
        """Stop counting a client."""
        hold(self._lock, self._count, given, -1)

    def remove(self, thread: int, given: Admission) -> None:
        """Remove a client, and stop counting it."""
        hold(self._lock, self._remove, thread, given)

    def others(self) -> int:
        """Return how many connections are open beside the one that is ending."""
        return len(self.conns) - 1

    @property
    def of_others(self) -> dict[int, Client]:
        """The clients that other threads serve."""
        me = threading.get_ident()
        return {thread: client for thread, client in tuple(self.threads.items()) if thread != me}

    def wait(self) -> None:
        """Wait until the clients of all other threads have left, or for the deadline."""
        while True:
            ticket = hold(self._lock, self._left.ticket)
            left = self.deadline - monotonic()
            if left <= 0 or not self.of_others:
                return
            self._left.wait(ticket, left)

    def hurry(self) -> None:
        """End every ``wait``."""
        self.deadline = 0.0
        hold(self._lock, self._left.tell)

    def refuse_all(self) -> None:
        """Answer every client without a connection with 503: the server is closing."""
        self.closing = True
        for thread, client in self.of_others.items():
            if thread not in self.conns:
                client.stream.end_reading()  # its thread finds the end of the request, and answers

    def drop_all(self) -> None:
        """Drop all clients at once: their threads find the end of the stream."""
        for conn in tuple(self.conns.values()):
            conn.abort()
        for client in self.of_others.values():
            client.stream.shutdown()

    def disown(self) -> None:
        """Let go of all clients in a child of fork: they belong to the parent."""
        self._lock = threading.Lock()
        for client in self.threads.values():
            client.stream.close()
        self.threads.clear()
        self.conns.clear()

    def _admission(self) -> Admission:
        given = admission(self.limit, self.served, self.refused)
        self._count(given, 1)
        return given

    def _count(self, given: Admission, change: int) -> None:
        if given is SERVE:
            self.served += change
        elif given is not DROP:
            self.refused += change

    def _remove(self, thread: int, given: Admission) -> None:
        self._count(given, -1)
        self.conns.pop(thread, None)
        self.threads.pop(thread, None)
        self._left.tell()
