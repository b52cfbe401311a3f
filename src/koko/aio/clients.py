"""The clients of one server: in their opening handshake, refused, or connected."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Protocol

from koko.aio.conn import Conn
from koko.aio.forking import disown_transport
from koko.errors import HandshakeError
from koko.serving import MOST_REFUSED, Admission, admission, server_full


class Client(Protocol):
    """A client that has no connection yet, or never gets one."""

    transport: asyncio.Transport


class Handshake(Client, Protocol):
    """A client in its opening handshake."""

    def refuse_as_closing(self) -> None: ...


class Clients:
    """Holds every client of a server, from the moment it is accepted until it is gone.

    Attributes:
        limit: ``max_connections``.
        closing: whether the server is closing.
        handshakes: clients in their opening handshake, or in plain HTTP.
        refused: clients that get a 503, since the server is full.
        handlers: the connections, and the task of each handler; None until the task exists.
        no_handshakes: set when the server is closing and the last handshake is over.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.closing = False
        self.handshakes: set[Handshake] = set()
        self.refused: set[Client] = set()
        self.handlers: dict[Conn, asyncio.Task[None] | None] = {}
        self.no_handshakes = asyncio.Event()

    def admission(self) -> Admission:
        """Return what becomes of the next client."""
        served = len(self.handshakes) + len(self.handlers)
        return admission(self.limit, served, len(self.refused))

    def excess(self, connecting: int) -> HandshakeError | None:
        """Return why a client may not begin TLS beside ``connecting`` others; None if it may.

        Those count only when TLS is done. Until then as many may be under way as would be
        served or refused.
        """
        if self.limit is None:
            return None
        known = len(self.handshakes) + len(self.handlers) + len(self.refused)
        full = known + connecting >= self.limit + MOST_REFUSED
        return server_full(self.limit) if full else None

    def others(self) -> int:
        """Return how many connections are open beside the one that is ending."""
        return len(self.handlers) - 1

    def end_handshake(self, handshake: Handshake) -> None:
        """Remove a client whose opening handshake is over."""
        self.handshakes.discard(handshake)
        if self.closing and not self.handshakes:
            self.no_handshakes.set()

    def bind(self, conn: Conn, task: asyncio.Task[None]) -> None:
        """Remove a connection when the task of its handler ends."""
        self.handlers[conn] = task
        task.add_done_callback(partial(self.remove, conn))

    def remove(self, conn: Conn, task: object = None) -> None:
        """Remove a connection; drop it if its handler never began or left it open."""
        self.handlers.pop(conn, None)
        core = conn._core
        if core.ending is None and core.may_send:
            conn.abort()

    def refuse_all(self) -> None:
        """Refuse or drop every client without a connection: the server is closing."""
        self.closing = True
        for client in tuple(self.refused):
            client.transport.abort()
        for handshake in tuple(self.handshakes):
            handshake.refuse_as_closing()
        if not self.handshakes:
            self.no_handshakes.set()

    def drop_all(self) -> None:
        """Drop all clients at once."""
        for handshake in tuple(self.handshakes):
            handshake.transport.abort()
        for conn in tuple(self.handlers):
            conn.abort()

    def disown(self) -> None:
        """Let go of all clients in a child of fork: they belong to the parent."""
        for conn in tuple(self.handlers):
            conn._disown()
        for client in (*self.handshakes, *self.refused):
            disown_transport(client.transport)
