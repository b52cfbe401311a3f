"""What is known of Starlette, and so of FastAPI, each thing in one place.

Its ``WebSocket`` keeps a state for each side, and two of its exceptions, raised out of an
endpoint, are answered by the application: a refusal is one of them here. Nothing is imported
before somebody has a ``WebSocket``.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from typing import Any

from koko.adapters._asgi_scope import Scope, can_deny
from koko.core.control import shorten
from koko.errors import HandshakeError
from koko.opening.handshake import refusal

POLICY = 1008  # the close code of a client that is refused after it was accepted
ITS_OWN = ("content-length", "content-type", "connection")  # headers that its response makes


def is_starlettes(given: Any) -> bool:
    """Tell whether this is a ``WebSocket`` of Starlette's."""
    module = sys.modules.get("starlette.websockets")
    return module is not None and isinstance(given, module.WebSocket)


def has_connected(websocket: Any) -> bool:
    """Tell whether ``websocket.connect`` was received."""
    return bool(websocket.client_state.name != "CONNECTING")


def has_accepted(websocket: Any) -> bool:
    """Tell whether ``accept()`` was called.

    Raises:
        RuntimeError: it was closed or refused.
    """
    state = websocket.application_state.name
    if state not in ("CONNECTING", "CONNECTED"):
        raise RuntimeError(f"upgrade() got a WebSocket that was closed already: it is {state}")
    return bool(state == "CONNECTED")


def note_open(websocket: Any) -> None:
    """Have its state say that it can be closed: it takes note of a Close before that is sent."""
    websocket.application_state = type(websocket.application_state).CONNECTED


def note_end(websocket: Any) -> None:
    """Have its states say that the connection is over, which ended without its knowledge."""
    over = type(websocket.application_state).DISCONNECTED
    websocket.application_state = websocket.client_state = over


def is_answered_by_it(error: BaseException | None) -> bool:
    """Tell whether an exception is a close that Starlette makes itself, with a code of its own."""
    module = sys.modules.get("starlette.exceptions")
    return module is not None and isinstance(error, module.WebSocketException)


def answered_by_it(error: HandshakeError, scope: Scope, accepted: bool) -> HandshakeError:
    """Return a refusal that Starlette answers, where the endpoint lets it pass.

    It is an ``HTTPException``, or a ``WebSocketException`` where no response can be sent.
    """
    exceptions = import_module("starlette.exceptions")
    if accepted or not can_deny(scope):
        closed = _refusal(exceptions.WebSocketException)(error.status, shorten(error.reason))
        closed.code = POLICY
        return _with(closed, error)
    response = error.response or refusal(error)
    denied = _refusal(exceptions.HTTPException)(error.status, error.reason)
    denied.status_code, denied.detail = response.status, response.body.decode(errors="replace")
    fields = response.headers.items()
    denied.headers = {name: value for name, value in fields if name.lower() not in ITS_OWN}
    return _with(denied, error)


def _with(made: Any, error: HandshakeError) -> HandshakeError:
    made.response, made.advice = error.response, error.advice
    refused: HandshakeError = made
    return refused


@cache
def _refusal(base: type[Exception]) -> Any:
    """Return the class of a ``HandshakeError`` that is an exception of Starlette's as well."""
    return type("Refused", (HandshakeError, base), {"__module__": __name__})
