"""What ``koko serve`` runs on threads."""

from __future__ import annotations

from typing import Any

from koko.sync import Conn, broadcast, serve

PATIENCE = 5.0  # seconds until a broadcast closes a connection that does not read


def run(what: str, loop: str, **serving: Any) -> None:
    """Run the server called ``what`` until it is stopped."""
    serve({"echo": echo, "broadcast": Audience().broadcast}[what], **serving)


def echo(conn: Conn) -> None:
    """Send every message back."""
    with conn.cork():
        for message in conn:
            conn.send(message)


class Audience:
    """The connections that get every message."""

    def __init__(self) -> None:
        self._members: set[Conn] = set()

    def broadcast(self, conn: Conn) -> None:
        """Send every message of ``conn`` to all connections, encoded once."""
        self._members.add(conn)
        try:
            for message in conn:
                # A copy: other threads add and remove members.
                broadcast(self._members.copy(), message, slow="close", timeout=PATIENCE)
        finally:
            self._members.discard(conn)
