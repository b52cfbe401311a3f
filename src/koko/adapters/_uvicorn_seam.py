"""What is known here of uvicorn's inside, each thing in one place, and which versions have it.

uvicorn makes an object of our class in the middle of its own HTTP protocol, hands it the head
of the request, and only then tells the transport of it.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from asyncio import Transport
from contextlib import suppress
from types import FrameType
from typing import Any

import uvicorn

from koko.adapters._asgi_scope import Pairs
from koko.aio import transport as transports

OLDEST = "0.36.0"  # the first that takes an import string; tests/adapters/test_uvicorn.py
NEWEST = "0.54.0"

try:
    from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
    from uvicorn.protocols.utils import (
        ClientDisconnected,
        get_client_addr,
        get_local_addr,
        get_path_with_query_string,
        get_remote_addr,
        is_ssl,
    )
except ImportError as _missing:
    raise ImportError(
        f"uvicorn {uvicorn.__version__} does not have what koko.uvicorn:Protocol needs "
        f"({_missing}); {OLDEST} to {NEWEST} are known to"
    ) from None

__all__ = [
    "TRACE",
    "ClientDisconnected",
    "addresses",
    "behind_the_head",
    "changed",
    "client_of",
    "get_path_with_query_string",
    "get_remote_addr",
    "http_on",
    "is_ssl",
    "let_go",
    "moved",
    "told_by_proxies",
    "version_on",
]

TRACE = logging.DEBUG // 2  # uvicorn's own level


def changed(missing: AttributeError) -> RuntimeError:
    """Return the error for an attribute that this uvicorn does not have."""
    return RuntimeError(
        f"uvicorn {uvicorn.__version__} is not as koko.uvicorn:Protocol knows it: {missing}; "
        f"{OLDEST} to {NEWEST} are known to work"
    )


def moved(transport: Transport, sock: socket.socket | None) -> Transport | None:
    """Move the socket of uvicorn's transport to one of Koko's; None where it has to stay.

    So does one for whose peer something waits in the transport. uvicorn's own is told that it
    has lost its connection: it has a descriptor, and that ends.
    """
    if transports.ours is None or sock is None or transport.get_write_buffer_size():
        return None
    try:
        ours: Transport = transports.ours.adopt(os.dup(sock.fileno()))
    except (OSError, NotImplementedError):  # no descriptor is left, say
        return None
    transport.abort()
    return ours


def told_by_proxies(config: Any, transport: Transport, headers: Pairs) -> Any:
    """Return the client's address, as the proxies that uvicorn believes tell it.

    The application would be told by the same middleware.
    """
    peer = get_remote_addr(transport)
    if not config.proxy_headers:
        return peer
    scope: dict[str, Any] = {"type": "websocket", "client": peer, "headers": headers}
    middleware: Any = ProxyHeadersMiddleware(_no_application, config.forwarded_allow_ips)
    with suppress(StopIteration):
        middleware(scope, None, None).send(None)
    client = scope["client"]
    return (printable(client[0]), client[1]) if client else client


async def _no_application(*_: object) -> None:
    """Do nothing."""


def http_on(transport: Transport) -> Any:
    """Return uvicorn's HTTP protocol, while it hands the head over; None where there is none."""
    get_protocol = getattr(transport, "get_protocol", None)
    return get_protocol and get_protocol()


def version_on(http: Any) -> str | None:
    """Return the version of HTTP that came: uvicorn writes 1.1 into the head that it hands over."""
    scope: dict[str, Any] = getattr(http, "scope", None) or {}
    return scope.get("http_version")


def client_of(scope: Any) -> str:
    """Return the client as uvicorn logs it; what a proxy tells may be anything."""
    return printable(get_client_addr(scope))


def printable(told: str) -> str:
    """Return what may be anything as the log may have it."""
    return told if told.isprintable() else ascii(told)


def addresses(http: Any, transport: Transport) -> tuple[Any, Any]:
    """Return the addresses of the server and of the client.

    The HTTP protocol has asked for them; uvloop makes a socket for each answer.
    """
    try:
        return http.server, http.client
    except AttributeError:
        return get_local_addr(transport), get_remote_addr(transport)


def behind_the_head(http: Any, key: bytes) -> bytes:
    """Return what came behind a request in the same bytes, which uvicorn would drop.

    To be called while the head is handed over. ``key`` stands in that head and in no other.
    With zttp the head must have come in one piece.
    Where uvicorn has changed nothing is found, as if nothing had come.
    """
    trailing = getattr(getattr(http, "conn", None), "trailing_data", None)
    if trailing is not None:  # h11 keeps it
        return bytes(trailing[0])
    received = getattr(getattr(type(http), "data_received", None), "__code__", None)
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not received:
        frame = frame.f_back
    if frame is None:
        return b""
    data = bytes(frame.f_locals.get("data", b""))
    ended = sys.exc_info()[1]  # how httptools says where: the head may have begun before ``data``
    if type(ended).__name__ == "HttpParserUpgrade" and ended is not None and ended.args:
        return data[ended.args[0] :]
    _, blank, rest = data[max(data.find(key), 0) :].partition(b"\r\n\r\n")
    return rest if blank else b""


def let_go(http: Any) -> None:
    """Break the circle in which uvicorn leaves its HTTP protocol, that of httptools.

    Its ``connection_lost`` would do so, and is never called. A circle waits for the garbage
    collector, which costs more than the rest of a handshake that is not answered.
    """
    if getattr(http, "parser", None) is not None:
        http.parser = None
