"""Koko for asyncio: the same names as ``koko.sync``, awaited."""

from koko.aio.broadcast import broadcast
from koko.aio.conn import Conn, join_messages
from koko.aio.dial import Dialer, dial
from koko.aio.reconnect import reconnect
from koko.aio.serve import Server, serve
from koko.aio.upgrade import Upgrader
from koko.broadcasting import Delivery
from koko.reconnecting import Backoff, is_transient

__all__ = [
    "Backoff",
    "Conn",
    "Delivery",
    "Dialer",
    "Server",
    "Upgrader",
    "broadcast",
    "dial",
    "is_transient",
    "join_messages",
    "reconnect",
    "serve",
]
