"""A WebSocket as a view of Flask; ``Upgrader.upgrade`` says which servers Flask may run in."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import flask

from koko.adapters._view import check_view, fields, run_view
from koko.sync.upgrade import Upgrader

Handler = Callable[..., object]
View = Callable[..., flask.Response]


def websocket(upgrader: Upgrader) -> Callable[[Handler], View]:
    """Make a view of ``handler(conn, **arguments)``; the arguments are those of the route.

    The route must be marked as a WebSocket: ``@app.get("/chat", websocket=True)``, above this.

    ``flask.request`` and ``flask.session`` can be used as in any view; changes of the session
    are lost, since no response is sent that could carry them.
    """

    def decorate(handler: Handler) -> View:
        check_view(upgrader, handler)

        @wraps(handler)
        def view(**arguments: Any) -> flask.Response:
            response = run_view(upgrader, flask.request, lambda conn: handler(conn, **arguments))
            return flask.Response(response.body, response.status, fields(response))

        return view

    return decorate
