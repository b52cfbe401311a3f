"""A way through a proxy: CONNECT spoken here, SOCKS by python-socks.

The proxy itself may speak TLS (``https``); the tunnel is then a stream like any
other, and a second TLS may run inside it.
"""

from __future__ import annotations

import ssl as tls
from typing import TYPE_CHECKING

from koko.core.head import write_request
from koko.core.tunnel import Proxy, TunnelParser
from koko.sync.network import connect, secure
from koko.sync.transport import PlainStream, Stream, recv_by, time_left, write_by

if TYPE_CHECKING:
    from koko.dialing import Target


def through_proxy(
    url: str, target: Target, context: tls.SSLContext | None, deadline: float | None
) -> Stream:
    """Return a stream to ``target`` through the proxy at ``url``.

    Raises:
        ErrBadHandshake: the proxy answered, but does not let us through.
        ImportError: it is a SOCKS proxy and python-socks is not installed.
        OSError: no connection to the proxy, or through it.
    """
    proxy = Proxy.of(url)
    if proxy.is_socks:
        return _through_socks(proxy, target, deadline)
    stream: Stream = connect(proxy.host, proxy.port, deadline)
    if proxy.is_secure:
        stream = secure(stream, context or tls.create_default_context(), proxy.host, deadline)
    try:
        _tunnel(stream, proxy, target, deadline)
    except BaseException:
        stream.close()
        raise
    return stream


def _tunnel(stream: Stream, proxy: Proxy, target: Target, deadline: float | None) -> None:
    request = proxy.connect_request(target.host, target.port)
    write_by(stream, write_request(request), deadline)
    parser, response = TunnelParser(), None
    while response is None:
        octets = recv_by(stream, deadline)
        response = parser.feed(octets) if octets else parser.feed_eof()
    proxy.check(response, parser.rest)


def _through_socks(proxy: Proxy, target: Target, deadline: float | None) -> Stream:
    try:
        from python_socks import ProxyError, ProxyTimeoutError, ProxyType
        from python_socks.sync import Proxy as Socks
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
        return PlainStream(through.connect(target.host, target.port, timeout=time_left(deadline)))
    except ProxyTimeoutError as error:
        raise TimeoutError(f"the proxy {proxy.name} did not answer in time") from error
    except ProxyError as error:
        raise ConnectionError(f"the proxy {proxy.name} refused: {error}") from error
