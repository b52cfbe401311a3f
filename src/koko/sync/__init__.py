"""Koko for threads: the same names as ``koko.aio``, without await. Never loads asyncio."""

from koko.broadcasting import Delivery
from koko.reconnecting import Backoff, is_transient
from koko.sync.broadcast import broadcast
from koko.sync.conn import Conn, join_messages
from koko.sync.dial import Dialer, dial
from koko.sync.reconnect import reconnect
from koko.sync.serve import Server, serve
from koko.sync.upgrade import Upgrader

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
