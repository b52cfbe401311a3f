"""What is known here of uvicorn's inside, each thing in one place, and which versions have it.

uvicorn makes an object of our class in the middle of its own HTTP protocol, hands it the head
of the request, and only then tells the transport of it.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from asyncio import BaseProtocol, BaseTransport, Transport
from collections.abc import Iterator
from types import FrameType
from typing import Any, cast

import uvicorn

from koko.aio import transport as transports

OLDEST = "0.36.0"  # the first that takes an import string; tests/adapters/test_uvicorn.py
NEWEST = "0.54.0"

try:
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
    "behind_the_head",
    "changed",
    "get_client_addr",
    "get_local_addr",
    "get_path_with_query_string",
    "get_remote_addr",
    "is_ssl",
    "let_go",
    "moved",
]

TRACE = logging.DEBUG // 2  # uvicorn's own level


def changed(missing: AttributeError) -> RuntimeError:
    """Return the error for an attribute that this uvicorn does not have."""
    return RuntimeError(
        f"uvicorn {uvicorn.__version__} is not as koko.uvicorn:Protocol knows it: {missing}; "
        f"{OLDEST} to {NEWEST} are known to work"
    )


class Mover(BaseProtocol):
    """Learns which transport a socket has got."""

    transport: Transport

    def connection_made(self, transport: BaseTransport) -> None:
        self.transport = cast(Transport, transport)


def moved(transport: Transport) -> Transport | None:
    """Move the socket of uvicorn's transport to one of Koko's; None where it has to stay.

    TLS stays, and so does a socket for whose peer something waits in the transport. uvicorn's
    own is told that it has lost its connection: it has a descriptor, and that ends.
    """
    sock = transport.get_extra_info("socket")
    if transports.ours is None or sock is None or is_ssl(transport):
        return None
    if transport.get_write_buffer_size():
        return None
    mover = Mover()
    try:
        # With all four the system need not be asked what it is.
        own = socket.socket(sock.family, sock.type, sock.proto, os.dup(sock.fileno()))
        with own:  # detached where that goes well
            transports.ours.attach(own, mover)
    except (OSError, NotImplementedError):  # no descriptor is left, say
        return None
    transport.abort()
    return mover.transport


def behind_the_head(transport: Transport, key: bytes) -> bytes:
    """Return what came behind a request in the same bytes, which uvicorn would drop.

    To be called while the head is handed over. ``key`` stands in that head and in no other.
    Where uvicorn has changed nothing is found, as if nothing had come.
    """
    get_protocol = getattr(transport, "get_protocol", None)
    http: Any = get_protocol and get_protocol()
    if http is None:
        return b""
    trailing = getattr(getattr(http, "conn", None), "trailing_data", None)
    if trailing is not None:  # h11 keeps it
        return bytes(trailing[0])
    for frame in _callers():
        if frame.f_code.co_name == "data_received" and frame.f_locals.get("self") is http:
            data = bytes(frame.f_locals.get("data", b""))
            _, blank, rest = data[max(data.find(key), 0) :].partition(b"\r\n\r\n")
            return rest if blank else b""
    return b""


def let_go(transport: Transport) -> None:
    """Break the circle in which uvicorn leaves its HTTP protocol, that of httptools.

    Its ``connection_lost`` would do so, and is never called. A circle waits for the garbage
    collector, which costs more than the rest of a handshake that is not answered.
    """
    get_protocol = getattr(transport, "get_protocol", None)
    http: Any = get_protocol and get_protocol()
    if getattr(http, "parser", None) is not None:
        http.parser = None


def _callers() -> Iterator[FrameType]:
    frame = sys._getframe(2)
    while frame is not None:
        yield frame
        frame = frame.f_back  # type: ignore[assignment]
