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

OVER = Response(101)  # what a view returns after the conversation: only the access log shows it


def check_view(upgrader: Any, handler: Callable[..., object]) -> None:
    """Raise if these belong to asyncio, so that no view can be made of them."""
    check_face("websocket()", "upgrader", upgrader, Upgrader)
    refuse_async("websocket()", "handler", handler)


def run_view(upgrader: Upgrader, request: Any, handler: Callable[..., object]) -> Response:
    """Upgrade a request and run ``handler(conn)``; return the view's answer."""
    try:
        conn = upgrader.upgrade(request)
    except HandshakeError as error:
        level = logging.ERROR if error.status >= 500 else level_of(error)
        tell(_LOGGER, level, "refused: %s", sentence_of(error))
        return error.response or refusal(error)
    run_handler(conn, partial(handler, conn), _LOGGER)
    return OVER


def fields(response: Response) -> list[tuple[str, str]]:
    """Return the headers of a response; PEP 3333 forbids subclasses of ``str``."""
    return [(str(name), str(value)) for name, value in response.headers.items()]
