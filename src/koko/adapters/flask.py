"""A WebSocket as a view of Flask; ``Upgrader.upgrade`` says which servers Flask may run in."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import flask

from koko.adapters._view import Conversations, check_view, fields
from koko.sync.conn import Conn
from koko.sync.upgrade import Upgrader

Handler = Callable[..., object]
View = Callable[..., flask.Response]


def websocket(
    upgrader: Upgrader, *, thread: bool = False, max_connections: int | None = None
) -> Callable[[Handler], View]:
    """Make a view of ``handler(conn, **arguments)``; the arguments are those of the route.

    The route must be marked as a WebSocket: ``@app.get("/chat", websocket=True)``, above this.

    ``flask.request`` and ``flask.session`` can be used as in any view; changes of the session
    are lost, since no response is sent that could carry them.

    With ``thread`` each conversation runs in a thread of its own, and the server has its
    thread back at once. There may be ``max_connections`` of them; others are answered with 503.
    The conversation has a copy of the request context (``copy_current_request_context``) and
    another ``flask.g``; functions for ``teardown_request`` run for both.
    """
    check_view(upgrader, max_connections)

    def decorate(handler: Handler) -> View:
        conversations = Conversations(upgrader, handler, thread, max_connections)

        @wraps(handler)
        def view(**arguments: Any) -> flask.Response:
            def run(conn: Conn) -> object:
                return handler(conn, **arguments)

            carried = flask.copy_current_request_context(run) if thread else run
            response = conversations.begin(flask.request, carried)
            return flask.Response(response.body, response.status, fields(response))

        return view

    return decorate
