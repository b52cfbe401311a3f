"""What every framework for threads has in common: one request, one conversation."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from koko.errors import HandshakeError
from koko.http import Response
from koko.misuse import check_face, refuse_async
from koko.opening.handshake import refusal
from koko.serving import level_of, sentence_of
from koko.sync.handling import run_handler
from koko.sync.logs import tell
from koko.sync.upgrade import Upgrader

_LOGGER = logging.getLogger("koko.server")

OVER = Response(101)  # what a view returns after the conversation: for the access log alone


def check_view(upgrader: Any, handler: Callable[..., object]) -> None:
    """Raise where no view can be made of these, since they belong to asyncio."""
    check_face("websocket()", "upgrader", upgrader, Upgrader)
    refuse_async("websocket()", "handler", handler)


def run_view(upgrader: Upgrader, request: Any, handler: Callable[..., object]) -> Response:
    """Upgrade a request and run ``handler(conn)``; return what the view is to answer."""
    try:
        conn = upgrader.upgrade(request)
    except HandshakeError as error:
        level = logging.ERROR if error.status >= 500 else level_of(error)
        tell(_LOGGER, level, "refused: %s", sentence_of(error))
        return error.response or refusal(error)
    run_handler(conn, partial(handler, conn), _LOGGER)
    return OVER


def fields(response: Response) -> list[tuple[str, str]]:
    """Return the headers of a response; PEP 3333 wants exactly ``str``, not a kind of it."""
    return [(str(name), str(value)) for name, value in response.headers.items()]
