"""A way through a proxy: CONNECT spoken here, SOCKS by python-socks.

The proxy itself may speak TLS (``https``); the tunnel is then a stream like any
other, and a second TLS may run inside it.
"""

from __future__ import annotations

import socket
from typing import Any

from koko.dial_progress import Progress
from koko.dialing import Dialer, socks
from koko.opening.head import write_request
from koko.opening.target import Target
from koko.opening.tunnel import Proxy, TunnelParser
from koko.sync.clock import time_left
from koko.sync.network import open_stream, resolve, secure
from koko.sync.transport import PlainStream, Stream, recv_by, write_by


def through_proxy(dialer: Dialer, proxy: Proxy, target: Target, progress: Progress) -> Stream:
    """Return a stream to ``target`` through a proxy.

    Raises:
        ErrBadHandshake: the proxy answered, but does not let us through.
        ImportError: it is a SOCKS proxy and python-socks is not installed.
        OSError: no connection to the proxy, or through it.
    """
    if proxy.is_socks:
        return _through_socks(dialer, proxy, target, progress)
    progress.reach(proxy)
    stream: Stream = open_stream(dialer, proxy.host, proxy.port, progress)
    if proxy.is_secure:
        stream = secure(stream, dialer.proxy_ssl or dialer.ssl, proxy.host, progress)
    try:
        _tunnel(stream, dialer.head_limit, proxy, target, progress)
    except BaseException:
        stream.close()
        raise
    return stream


def _tunnel(
    stream: Stream, head_limit: int, proxy: Proxy, target: Target, progress: Progress
) -> None:
    request = proxy.connect_request(target.host, target.port)
    parser, response = TunnelParser(head_limit), None
    progress.ask_proxy(parser)
    write_by(stream, write_request(request), progress.deadline)
    while response is None:
        octets = recv_by(stream, progress.deadline)
        response = parser.feed(octets) if octets else parser.feed_eof()
    proxy.check(response, parser.rest)


def _through_socks(dialer: Dialer, proxy: Proxy, target: Target, progress: Progress) -> Stream:
    with socks(proxy) as options:
        from python_socks.sync import Proxy as Socks

        host = target.host
        if not proxy.resolves:
            family = socket.AF_INET if proxy.scheme == "socks4" else socket.AF_UNSPEC
            host = resolve(host, target.port, progress, family)[0][4][0]
        progress.reach(proxy)
        hop: Any = _ByDeadline(dialer, progress)
        try:
            Socks(**options, rdns=True, forward=hop).connect(host, target.port)
            return PlainStream(hop.sock)
        except BaseException:
            hop.close()
            raise


class _ByDeadline:
    """The way to a SOCKS proxy, where python-socks expects a proxy in front of it.

    As its ``forward`` we connect in our manner (``net_dial``, every address); as the socket
    that it then uses we give each of its steps only what time is left for all of them.
    """

    def __init__(self, dialer: Dialer, progress: Progress) -> None:
        self._dialer, self._progress = dialer, progress
        self.sock: socket.socket | None = None

    def connect(self, dest_host: str, dest_port: int, timeout: float | None) -> _ByDeadline:
        self.sock = open_stream(self._dialer, dest_host, dest_port, self._progress).socket
        self._progress.ask_proxy()
        return self

    def sendall(self, octets: bytes) -> None:
        self._bounded().sendall(octets)

    def recv(self, size: int) -> bytes:
        return self._bounded().recv(size)

    def _bounded(self) -> socket.socket:
        left = time_left(self._progress.deadline)
        if left == 0:
            raise TimeoutError
        assert self.sock is not None  # python-socks connects first
        self.sock.settimeout(left)
        return self.sock

    def close(self) -> None:
        if self.sock is not None:
            self.sock.close()
