"""A WebSocket as a WSGI application (PEP 3333)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from koko.adapters._view import Conversations, check_view, fields
from koko.sync.conn import Conn
from koko.sync.upgrade import Upgrader

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


def websocket(
    upgrader: Upgrader, *, thread: bool = False, max_connections: int | None = None
) -> Callable[[Callable[[Conn, Environ], object]], Application]:
    """Make a WSGI application of ``handler(conn, environ)``.

    It runs in the server's thread, and keeps it until the conversation is over. With ``thread``
    it runs in a thread of its own, and the server has its thread back at once. There may be
    ``max_connections`` conversations; others are answered with 503. See ``Upgrader.upgrade``
    for the servers that hand over their socket.
    """
    check_view(upgrader, max_connections)

    def decorate(handler: Callable[[Conn, Environ], object]) -> Application:
        conversations = Conversations(upgrader, handler, thread, max_connections)

        @wraps(handler)
        def application(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
            response = conversations.begin(environ, lambda conn: handler(conn, environ))
            start_response(f"{response.status} {response.reason}", fields(response))
            return [response.body] if response.body else []

        return application

    return decorate
