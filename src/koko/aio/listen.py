"""Listening on every address that a name stands for, all of them on one port.

TLS is aiofastnet's where that is installed: it spends a third of what the loops' own does
on a small message (``bench/run.py --only tls``).
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

aiofastnet: Any = None
with suppress(ImportError):
    import aiofastnet

_ABSENT = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})  # as IPv6 on many a machine


async def listen(
    protocol: Callable[[], asyncio.Protocol],
    host: str | list[str] | None,
    port: int,
    **options: Any,
) -> list[asyncio.Server]:
    """Listen on all addresses of ``host``; a free port is chosen once, for all of them.

    Raises:
        OSError: a name is unknown, a port is taken, or none of the addresses is here.
    """
    listeners: list[asyncio.Server] = []
    failure: OSError | None = None
    try:
        for address in await _addresses(host):
            try:
                options.update(host=address, port=port)
                listeners.append(await create_server(protocol, **options))
            except OSError as error:
                if error.errno is not None and error.errno not in _ABSENT:
                    raise  # asyncio since 3.12 says that an address is absent in words alone
                failure = error
            else:
                port = port or listeners[0].sockets[0].getsockname()[1]
        if failure and not listeners:
            raise failure
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


async def create_server(protocol: Callable[[], asyncio.Protocol], **options: Any) -> asyncio.Server:
    """Listen as ``loop.create_server`` does."""
    loop = asyncio.get_running_loop()
    if aiofastnet is None or options.get("ssl") is None:
        return await loop.create_server(protocol, **options)
    listener: asyncio.Server = await aiofastnet.create_server(loop, protocol, **options)
    return listener


async def _addresses(host: str | list[str] | None) -> list[str]:
    loop = asyncio.get_running_loop()
    found = [
        await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for name in (host if isinstance(host, list) else [host or None])
    ]
    return list(dict.fromkeys(str(info[4][0]) for infos in found for info in infos))
