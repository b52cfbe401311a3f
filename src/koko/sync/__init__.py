"""Koko for threads: the same names as ``koko.aio``, without await. Never loads asyncio."""

from koko.sync.conn import Conn
from koko.sync.dial import Dialer, dial
from koko.sync.serve import Server, serve
from koko.sync.upgrade import Upgrader

__all__ = ["Conn", "Dialer", "Server", "Upgrader", "dial", "serve"]
