"""Listening on every address of a name, for asyncio, whose resolver runs in a thread."""

from __future__ import annotations

import socket

from koko import listening
from koko.aio.network import ask_resolver


async def bind(
    host: str | list[str] | None, port: int, reuse_port: bool = False
) -> list[socket.socket]:
    """Bind a socket to each address of ``host``; a free port is chosen once, for all of them.

    Raises:
        OSError: a name is unknown, a port is taken, or none of the addresses is here.
    """
    found = []
    for name in listening.names(host):
        found += await ask_resolver(name, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return listening.bind(found, port, reuse_port)
