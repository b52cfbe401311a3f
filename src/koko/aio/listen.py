"""Listening on every address of a name, for asyncio, whose resolver runs in a thread."""

from __future__ import annotations

import asyncio
import socket

from koko import listening


async def bind(
    host: str | list[str] | None, port: int, reuse_port: bool = False
) -> list[socket.socket]:
    """Bind a socket to each address of ``host``; a free port is chosen once, for all of them.

    Raises:
        OSError: a name is unknown, a port is taken, or none of the addresses is here.
    """
    loop = asyncio.get_running_loop()
    found = []
    for name in listening.names(host):
        found += await loop.getaddrinfo(name, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return listening.bind(found, port, reuse_port)
