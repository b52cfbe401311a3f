"""Reads the PROXY header of an accepted connection, and no byte behind it."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

from koko.opening.proxy_protocol import LIMIT, ProxyHeader, ProxyHeaderError, ProxyHeaderParser
from koko.serving import HUNG_UP


async def read_proxy_header(sock: socket.socket, deadline: float | None) -> ProxyHeader:
    """Read what a proxy says of the connection, all of it before the deadline of the loop's clock.

    The socket is as it was accepted: it has no transport yet.

    Raises:
        ProxyHeaderError: it says nothing, or nothing that may be said.
        TimeoutError: it was not whole in time.
    """
    parser = ProxyHeaderParser()
    async with asyncio.timeout_at(deadline):
        while parser.header is None:
            with suppress(BlockingIOError):
                if not (octets := sock.recv(LIMIT, socket.MSG_PEEK)):
                    raise ProxyHeaderError(HUNG_UP, "")
                sock.recv(parser.feed(octets))  # what follows stays for TLS, or for the transport
                continue
            await _readable(sock.fileno())
    return parser.header


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    loop.add_reader(descriptor, _wake, readable)
    try:
        await readable
    finally:
        loop.remove_reader(descriptor)


def _wake(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)
