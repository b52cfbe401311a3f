"""What ``koko serve`` runs on threads."""

from __future__ import annotations

from typing import Any

from koko import CloseError, PreparedMessage
from koko.message import kind_of
from koko.sync import Conn, serve

PATIENCE = 5.0  # seconds a broadcast waits for one who does not read, then drops him


def run(what: str, loop: str, **serving: Any) -> None:
    """Run the server called ``what`` until it is stopped."""
    serve({"echo": echo, "broadcast": Audience().broadcast}[what], **serving)


def echo(conn: Conn) -> None:
    """Send every message back."""
    with conn.cork():
        for message in conn:
            conn.send(message)


class Audience:
    """Everybody who is to hear a message."""

    def __init__(self) -> None:
        self._members: set[Conn] = set()

    def broadcast(self, conn: Conn) -> None:
        """Send every message of ``conn`` to everybody, encoded once."""
        self._members.add(conn)
        try:
            for message in conn:
                self._tell(PreparedMessage(kind_of(message), message))
        finally:
            self._members.discard(conn)

    def _tell(self, message: PreparedMessage) -> None:
        for conn in self._members.copy():  # other threads come and go
            try:
                conn.write_prepared(message, timeout=PATIENCE)
            except TimeoutError:
                conn.abort()
            except CloseError:
                pass  # gone meanwhile; its own thread hears of it
