"""What ``koko serve`` runs on threads."""

from __future__ import annotations

from typing import Any

from koko.sync import Conn, broadcast, serve

PATIENCE = 5.0  # seconds a broadcast waits for those who do not read, then closes them


def run(what: str, loop: str, **serving: Any) -> None:
    """Run the server called ``what`` until it is stopped."""
    serve({"echo": echo, "broadcast": Audience().broadcast}[what], **serving)


def echo(conn: Conn) -> None:
    """Send every message back."""
    with conn.cork():
        for message in conn:
            conn.send(message)


class Audience:
    """Everybody who hears a message."""

    def __init__(self) -> None:
        self._members: set[Conn] = set()

    def broadcast(self, conn: Conn) -> None:
        """Send every message of ``conn`` to everybody, encoded once."""
        self._members.add(conn)
        try:
            for message in conn:
                # A copy: other threads come and go.
                broadcast(self._members.copy(), message, slow="close", timeout=PATIENCE)
        finally:
            self._members.discard(conn)
