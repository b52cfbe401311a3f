"""A WebSocket as a view of Django under WSGI; ``Upgrader.upgrade`` says in which servers."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponse

from koko.adapters._view import check_view, fields, run_view
from koko.sync.upgrade import Upgrader

Handler = Callable[..., object]
View = Callable[..., HttpResponse]


def websocket(upgrader: Upgrader) -> Callable[[Handler], View]:
    """Make a view of ``handler(conn, request, **arguments)``.

    Django closes the database connections of a request only when its view returns: close those
    that a long conversation does not need.
    """

    def decorate(handler: Handler) -> View:
        check_view(upgrader, handler)

        @wraps(handler)
        def view(request: HttpRequest, **arguments: Any) -> HttpResponse:
            response = run_view(upgrader, request, lambda conn: handler(conn, request, **arguments))
            return HttpResponse(
                response.body, status=response.status, headers=dict(fields(response))
            )

        return view

    return decorate
