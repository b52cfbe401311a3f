"""A way through a proxy: CONNECT spoken here, SOCKS by python-socks.

The proxy itself may speak TLS (``https``); a second TLS may run inside the tunnel.
"""

from __future__ import annotations

import socket
from typing import Any

from koko.aio.asking import LONG, Asking, ask_on
from koko.aio.network import open_socket, resolve
from koko.dial_progress import Progress
from koko.dialing import Dialer, socks
from koko.opening.target import Target
from koko.opening.tunnel import Proxy, TunnelParser


async def open_tunnel(dialer: Dialer, proxy: Proxy, target: Target, progress: Progress) -> Asking:
    """Return the way to ``target`` through an HTTP proxy; reading is paused.

    Raises:
        ErrBadHandshake: the proxy answered, but does not let us through.
        OSError: no connection to the proxy.
    """
    progress.reach(proxy)
    sock = await open_socket(dialer, proxy.host, proxy.port, progress)
    name = proxy.host if proxy.is_secure else None
    parser, context = TunnelParser(dialer.head_limit), dialer.proxy_ssl or dialer.ssl
    asking = await ask_on(sock, parser, context, name, dialer.close_timeout, progress)
    try:
        progress.ask_proxy(parser)
        response = await asking.ask(proxy.connect_request(target.host, target.port))
        proxy.check(response, asking.early)
    except BaseException:
        asking.abort()
        raise
    return asking


async def through_socks(
    dialer: Dialer, proxy: Proxy, target: Target, progress: Progress
) -> socket.socket:
    """Return a socket that leads to ``target`` through a SOCKS proxy.

    Raises:
        ImportError: python-socks is not installed.
        OSError: no connection to the proxy, or through it.
    """
    with socks(proxy) as options:
        from python_socks.async_.asyncio import Proxy as Socks

        host = target.host
        if not proxy.resolves:
            family = socket.AF_INET if proxy.scheme == "socks4" else socket.AF_UNSPEC
            host = (await resolve(host, target.port, progress, family))[0][4][0]
        progress.reach(proxy)
        hop: Any = _OurWay(dialer, progress)
        client = Socks(**options, rdns=True, forward=hop)
        return await client.connect(host, target.port, timeout=LONG)


class _OurWay:
    """The way to a SOCKS proxy, where python-socks expects a proxy in front of it."""

    def __init__(self, dialer: Dialer, progress: Progress) -> None:
        self._dialer, self._progress = dialer, progress

    async def connect(self, dest_host: str, dest_port: int, timeout: float | None) -> socket.socket:
        sock = await open_socket(self._dialer, dest_host, dest_port, self._progress)
        self._progress.ask_proxy()
        sock.setblocking(False)
        return sock
