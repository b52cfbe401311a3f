"""Gorilla WebSocket for Python: client and server, for threads and for asyncio.

``koko.sync`` and ``koko.aio`` hold the verbs, under the same names. This package
holds what both share: message kinds, close codes, errors, helpers. Importing it
loads no event loop.
"""

from koko.core.deflate import Compression
from koko.errors import (
    Close,
    CloseError,
    ErrBadHandshake,
    ErrCloseSent,
    ErrReadLimit,
    HandshakeError,
    ProtocolError,
    WebSocketError,
)
from koko.http import Request, Response
from koko.message import (
    CloseCode,
    Kind,
    PreparedMessage,
    format_close_message,
    is_close_error,
    is_unexpected_close_error,
)
from koko.opening.handshake import is_websocket_upgrade, subprotocols

__version__ = "0.1.0"

__all__ = [
    "Close",
    "CloseCode",
    "CloseError",
    "Compression",
    "ErrBadHandshake",
    "ErrCloseSent",
    "ErrReadLimit",
    "HandshakeError",
    "Kind",
    "PreparedMessage",
    "ProtocolError",
    "Request",
    "Response",
    "WebSocketError",
    "__version__",
    "format_close_message",
    "is_close_error",
    "is_unexpected_close_error",
    "is_websocket_upgrade",
    "subprotocols",
]
