"""Koko for asyncio: the same names as ``koko.sync``, awaited."""

from koko.aio.conn import Conn
from koko.aio.dial import Dialer, dial
from koko.aio.serve import Server, serve
from koko.aio.upgrade import Upgrader

__all__ = ["Conn", "Dialer", "Server", "Upgrader", "dial", "serve"]
