"""A WebSocket in a ``BaseHTTPRequestHandler`` of ``http.server``."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from http.server import BaseHTTPRequestHandler
from typing import TypeVar

from koko.adapters._view import OVER, Conversations, check_view
from koko.opening.head import write_response
from koko.sync.conn import Conn
from koko.sync.upgrade import Upgrader

H = TypeVar("H", bound=BaseHTTPRequestHandler)


def websocket(
    upgrader: Upgrader, *, thread: bool = False, max_connections: int | None = None
) -> Callable[[Callable[[H, Conn], object]], Callable[[H], None]]:
    """Turn a method ``(self, conn)`` into one that is, or is called by, ``do_GET``.

    Use a ``ThreadingHTTPServer``, or ``thread``: each conversation then runs in a thread of its
    own. Any other server serves no other client during a conversation. There may be
    ``max_connections`` of them; others are answered with 503.
    """
    check_view(upgrader, max_connections)

    def decorate(method: Callable[[H, Conn], object]) -> Callable[[H], None]:
        conversations = Conversations(upgrader, method, thread, max_connections)

        @wraps(method)
        def answer(self: H) -> None:
            response = conversations.begin(self, lambda conn: method(self, conn))
            self.close_connection = True
            self.log_request(response.status)
            if response is not OVER:
                self.wfile.write(write_response(response))

        return answer

    return decorate
