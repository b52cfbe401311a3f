"""Listening on every address that a name stands for, all of them on one port."""

from __future__ import annotations

import asyncio
import errno
import os
import socket

from koko.core.address import written

_ABSENT = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})  # as IPv6 on many a machine


async def bind(
    host: str | list[str] | None, port: int, reuse_port: bool = False
) -> list[socket.socket]:
    """Bind a socket to each address of ``host``; a free port is chosen once, for all of them.

    Raises:
        OSError: a name is unknown, a port is taken, or none of the addresses is here.
    """
    bound: list[socket.socket] = []
    failure: OSError | None = None
    try:
        for address in await _addresses(host):
            try:
                bound.append(_bind(address, port, reuse_port))
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                failure = error
            else:
                port = port or bound[0].getsockname()[1]
        if failure and not bound:
            raise failure
    except BaseException:
        for sock in bound:
            sock.close()
        raise
    return bound


def _bind(address: str, port: int, reuse_port: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Everywhere but on Windows, where it would let another process steal the port.
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:  # the address of the other family has a socket of its own
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
    except OSError as error:
        sock.close()
        said = f"could not listen on {written((address, port))}: {str(error.strerror).lower()}"
        raise OSError(error.errno, said) from None
    return sock


async def _addresses(host: str | list[str] | None) -> list[str]:
    loop = asyncio.get_running_loop()
    found = [
        await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for name in (host if isinstance(host, list) else [host or None])
    ]
    return list(dict.fromkeys(str(info[4][0]) for infos in found for info in infos))
