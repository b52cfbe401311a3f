"""The client's side of the opening handshake, for asyncio."""

from __future__ import annotations

import asyncio
import ssl as tls
from collections.abc import Generator
from types import TracebackType
from typing import Any, Unpack

from koko import dialing
from koko.aio.asking import Asking
from koko.aio.conn import Conn
from koko.aio.proxy import open_tunnel, through_socks
from koko.aio.pump import Pump
from koko.aio.reflex import clock_of
from koko.core.connection import Connection
from koko.core.head import Headers, ResponseParser
from koko.core.tunnel import Proxy
from koko.core.wire import Role
from koko.dialing import DialerOptions, Target


class Dialer(dialing.Dialer):
    """Opens connections; see ``koko.dialing.Dialer`` for the options."""

    def dial(self, url: str, headers: Headers | None = None) -> Dialing:
        """Connect to ``url``; await the result for a ``Conn``, or use it in ``async with``.

        ``headers`` are added to the dialer's own. The whole of it - name resolution, TCP,
        proxy, TLS, HTTP, redirects - takes at most ``handshake_timeout`` seconds.
        Cancelling it leaves nothing open.

        Raises:
            ErrBadHandshake: the server answered, but not with an acceptance; see ``response``.
            HandshakeError: its answer was not HTTP.
            TimeoutError: the handshake took too long.
            OSError: no connection, or TLS failed.
            ValueError: the URL or a header cannot be used.
        """
        return Dialing(self, url, headers)


class Dialing:
    """A connection being opened: an awaitable and an async context manager."""

    def __init__(self, dialer: Dialer, url: str, headers: Headers | None) -> None:
        self._dialer = dialer
        self._url = url
        self._headers = headers
        self._conn: Conn | None = None

    def __await__(self) -> Generator[Any, None, Conn]:
        return self._open().__await__()

    async def __aenter__(self) -> Conn:
        self._conn = await self._open()
        return self._conn

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._conn is not None
        await self._conn.__aexit__(kind, error, traceback)

    async def _open(self) -> Conn:
        timeout = self._dialer.handshake_timeout
        outcome: Conn | Target = self._dialer.target(self._url)
        try:
            async with asyncio.timeout(timeout) as limit:
                while isinstance(outcome, Target):
                    target = outcome
                    outcome = await self._try(target)
        except TimeoutError as error:
            if not limit.expired():
                raise  # the system's own patience ended first
            raise TimeoutError(f"no handshake with {target.url} within {timeout:g} s") from error
        return outcome

    async def _try(self, target: Target) -> Conn | Target:
        """Shake hands with one target; return the connection, or where it sends us."""
        dialer = self._dialer
        request, key = dialer.request(target, self._headers)
        asking = await self._connect(target)
        try:
            response = await asking.ask(request)
            outcome = dialer.conclude(target, key, response)
        except BaseException:
            asking.transport.abort()
            raise
        if isinstance(outcome, Target):
            asking.transport.abort()
            return outcome
        loop = asyncio.get_running_loop()
        core = Connection(Role.CLIENT, dialer, outcome.agreed, clock_of(loop)())
        pump = Pump(core, asking.transport, loop)
        asking.hand_over(pump)
        return Conn(pump, request, response, outcome.subprotocol)

    async def _connect(self, target: Target) -> Asking:
        loop = asyncio.get_running_loop()
        secure = self._secure(target) if target.secure else {}
        url = self._dialer.proxy_for(target)
        proxy = Proxy.of(url) if url else None
        if proxy is None:
            where: dict[str, Any] = {"host": target.host, "port": target.port}
        elif proxy.is_socks:
            where = {"sock": await through_socks(proxy, target)}
        else:
            tunnel = await open_tunnel(proxy, target, self._dialer.ssl)
            return await _ask_through(tunnel, secure)
        _, asking = await loop.create_connection(_asking, **where, **secure)
        return asking

    def _secure(self, target: Target) -> dict[str, Any]:
        name = self._dialer.server_hostname or target.host.partition("%")[0]
        return {"ssl": self._dialer.ssl or tls.create_default_context(), "server_hostname": name}


def _asking() -> Asking:
    return Asking(ResponseParser())


async def _ask_through(tunnel: asyncio.Transport, secure: dict[str, Any]) -> Asking:
    asking, inner = _asking(), tunnel
    if secure:
        loop, name = asyncio.get_running_loop(), secure["server_hostname"]
        started = await loop.start_tls(tunnel, asking, secure["ssl"], server_hostname=name)
        assert started is not None
        inner = started
    else:
        tunnel.set_protocol(asking)
    asking.connection_made(inner)
    inner.resume_reading()
    return asking


def dial(url: str, **options: Unpack[DialerOptions]) -> Dialing:
    """Connect to ``url``; await the result for a ``Conn``, or use it in ``async with``.

    ``options`` are those of ``Dialer``; raises as ``Dialer.dial``.
    """
    return Dialer(**options).dial(url)
