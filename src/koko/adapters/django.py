"""A WebSocket as a view of Django under WSGI; ``Upgrader.upgrade`` says in which servers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.db import connections
from django.http import HttpRequest, HttpResponse

from koko.adapters._view import Conversations, check_view, fields
from koko.sync.conn import Conn
from koko.sync.upgrade import Upgrader

Handler = Callable[..., object]
View = Callable[..., HttpResponse]


def websocket(
    upgrader: Upgrader, *, thread: bool = False, max_connections: int | None = None
) -> Callable[[Handler], View]:
    """Make a view of ``handler(conn, request, **arguments)``.

    Django closes the database connections of a request only when its view returns. In a long
    conversation call ``django.db.close_old_connections()`` before the database is used again:
    the database may have ended its side meanwhile.

    With ``thread`` each conversation runs in a thread of its own, and the server has its
    thread back at once. There may be ``max_connections`` of them; others are answered with 503.
    Database connections belong to threads: a conversation opens its own, and all of them are
    closed when it ends. Transactions, language and time zone of the request do not come along.
    """
    check_view(upgrader, max_connections)

    def decorate(handler: Handler) -> View:
        conversations = Conversations(upgrader, handler, thread, max_connections)

        @wraps(handler)
        def view(request: HttpRequest, **arguments: Any) -> HttpResponse:
            def run(conn: Conn) -> object:
                try:
                    return handler(conn, request, **arguments)
                finally:
                    # Not ``close_old_connections``: its thread ends, and nobody could use them.
                    if threading.current_thread() is not views:
                        connections.close_all()

            views = threading.current_thread()
            response = conversations.begin(request, run)
            return HttpResponse(
                response.body, status=response.status, headers=dict(fields(response))
            )

        return view

    return decorate
