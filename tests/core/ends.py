"""Connections to test, at time 0, and frames from their peers."""

from __future__ import annotations

from typing import Any

import pytest

from koko.core.connection import Connection
from koko.core.deflate import Agreed
from koko.core.options import ConnectionOptions
from koko.core.wire import Role
from koko.errors import CloseError
from tests.wire import wire

NO_KEY = bytes(4)  # masks to the same bytes, so that what a client says can be read here


def at_interval() -> float:
    """Have each ping leave when its interval has passed, and none earlier."""
    return 0.0


def server(agreed: Agreed | None = None, **options: Any) -> Connection:
    """Return the server's end."""
    return Connection(Role.SERVER, ConnectionOptions(**options), agreed, 0.0, at_interval)


def client(agreed: Agreed | None = None, **options: Any) -> Connection:
    """Return the client's end."""
    return Connection(Role.CLIENT, ConnectionOptions(**options), agreed, 0.0, at_interval)


def said(first: str, payload: bytes = b"") -> bytes:
    """Return a frame of a client's; ``first`` is its first byte in bits."""
    return wire(f"{first} 1 len", payload, key=NO_KEY)


def ending(end: Connection) -> CloseError:
    """Read on to the end of a connection and return how it is."""
    with pytest.raises(CloseError) as raised:
        list(iter(end.next_message, None))
    return raised.value
