"""A way through a proxy: CONNECT spoken here, SOCKS by python-socks.

The proxy itself may speak TLS (``https``); a second TLS may run inside the tunnel.
"""

from __future__ import annotations

import asyncio
import socket
import ssl as tls

from koko.aio.asking import Asking
from koko.core.tunnel import Proxy, TunnelParser
from koko.dialing import Target


async def open_tunnel(
    proxy: Proxy, target: Target, context: tls.SSLContext | None
) -> asyncio.Transport:
    """Return a transport to ``target`` through an HTTP proxy; reading is paused.

    Raises:
        ErrBadHandshake: the proxy answered, but does not let us through.
        OSError: no connection to the proxy.
    """
    ssl = (context or tls.create_default_context()) if proxy.is_secure else None
    loop = asyncio.get_running_loop()
    _, asking = await loop.create_connection(
        lambda: Asking(TunnelParser()), proxy.host, proxy.port, ssl=ssl
    )
    try:
        response = await asking.ask(proxy.connect_request(target.host, target.port))
        proxy.check(response, asking.early)
    except BaseException:
        asking.transport.abort()
        raise
    return asking.transport


async def through_socks(proxy: Proxy, target: Target) -> socket.socket:
    """Return a socket that leads to ``target`` through a SOCKS proxy.

    Raises:
        ImportError: python-socks is not installed.
        OSError: no connection to the proxy, or through it.
    """
    try:
        from python_socks import ProxyError, ProxyType
        from python_socks.async_.asyncio import Proxy as Socks
    except ImportError as error:
        needs = f"the proxy {proxy.name} needs the extra: pip install 'koko[proxy]'"
        raise ImportError(needs) from error
    through = Socks(
        ProxyType.SOCKS4 if proxy.scheme.startswith("socks4") else ProxyType.SOCKS5,
        proxy.host,
        proxy.port,
        proxy.user.decode(),
        proxy.password.decode(),
        rdns=proxy.resolves,
    )
    try:
        return await through.connect(target.host, target.port)
    except ProxyError as error:
        raise ConnectionError(f"the proxy {proxy.name} refused: {error}") from error
