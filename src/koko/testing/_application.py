"""What an ASGI application is; what is none is told so at once."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from koko.misuse import name_of, not_awaitable

Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Application = Callable[[dict[str, Any], Receive, Send], Awaitable[object]]

# What takes so many arguments instead of three is perhaps this.
_PERHAPS = {
    0: "; give the application that it makes",
    1: "; applications of ASGI 2 are not supported",
    2: "; a WSGI application has no WebSockets",
}


def check_application(app: Any) -> None:
    """Raise for what cannot be called as an application is."""
    if not callable(app):
        raise TypeError(f"asgi() got {app!r} as app, expected an ASGI application")
    try:
        signature = inspect.signature(app)
    except (TypeError, ValueError):  # of a function in C
        return
    if _takes(signature, 3):
        return
    perhaps = next((said for count, said in _PERHAPS.items() if _takes(signature, count)), "")
    raise TypeError(
        f"asgi() got {name_of(app)}, which cannot be called with scope, receive and send{perhaps}"
    )


async def call(app: Application, scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Run an application with a scope.

    Raises:
        WrongKindError: it is a plain function, or a generator.
    """
    running = app(scope, receive, send)
    if not inspect.isawaitable(running):
        raise not_awaitable("the application", app, running)
    await running


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True
