"""The client's side of the opening handshake, for asyncio."""

from __future__ import annotations

import asyncio
import socket
from typing import Unpack

from koko import dialing
from koko.aio.asking import Asking, ask_on, ask_plainly, ask_through
from koko.aio.conn import Conn
from koko.aio.forking import keep
from koko.aio.network import open_socket
from koko.aio.pending import Pending
from koko.aio.protocol import ConnProtocol
from koko.aio.proxy import open_tunnel, through_socks
from koko.aio.tasks import clock_of
from koko.core.connection import Connection
from koko.core.wire import Role
from koko.dial_progress import Progress
from koko.dialing import DialerOptions, Opened
from koko.http import Headers, Request, Response
from koko.opening.head import ResponseParser
from koko.opening.target import Target


class Dialer(dialing.Dialer):
    """Opens connections; see ``koko.dialing.Dialer`` for the options."""

    def dial(
        self, url: str, headers: Headers | None = None, *, sock: socket.socket | None = None
    ) -> Dialing:
        """Connect to ``url``; await the result for a ``Conn``, or use it in ``async with``.

        ``headers`` are added to the dialer's own and replace those of the same name. The whole
        of it - name resolution, TCP, proxy, TLS, HTTP, redirects - takes at most
        ``handshake_timeout`` seconds. Cancelling it leaves nothing open. ``sock`` is a socket
        that is connected already: its descriptor becomes the connection's, and ``sock`` is as
        after ``detach`` (a ``ValueError`` leaves it as it was). As nobody can open a second one,
        redirects are not followed.

        Raises:
            ErrBadHandshake: the server answered, but not with an acceptance; see ``response``.
            HandshakeError: its answer was not HTTP.
            TimeoutError: the handshake took too long; it says what had not happened.
            OSError: no connection, or TLS failed.
            ValueError: the URL or a header cannot be used.
        """
        return Dialing(self if sock is None else self.over(sock), url, headers)


class Dialing(Pending[Conn]):
    """A connection being opened to a server."""

    def __init__(self, dialer: dialing.Dialer, url: str, headers: Headers | None) -> None:
        self._dialer = dialer
        self._url = url
        self._headers = headers

    async def _open(self) -> Conn:
        outcome: Conn | Target = (target := self._dialer.target(self._url))
        now = asyncio.get_running_loop().time()
        progress = Progress(target, self._dialer.handshake_timeout, now)
        try:
            async with asyncio.timeout_at(progress.deadline) as limit:
                while isinstance(outcome, Target):
                    outcome = await self._try(outcome, limit, progress)
        except TimeoutError as error:
            if not limit.expired():
                raise  # the system's own patience ended first
            raise progress.timed_out() from error
        return outcome

    async def _try(
        self, target: Target, limit: asyncio.Timeout, progress: Progress
    ) -> Conn | Target:
        """Shake hands with one target; return the connection, or where it sends us."""
        progress.begin(target)
        dialer = self._dialer
        request, key = dialer.request(target, self._headers)
        asking = await self._connect(target, progress)
        try:
            progress.ask(asking.parser)
            response = await _answer(asking, request, limit)
            outcome = dialer.conclude(target, key, response)
            if isinstance(outcome, Opened):
                return self._conn_on(asking, outcome, request, response)
        except BaseException:
            asking.abort()
            raise
        asking.abort()
        if limit.expired():
            raise TimeoutError
        return outcome

    def _conn_on(
        self, asking: Asking, outcome: Opened, request: Request, response: Response
    ) -> Conn:
        loop = asyncio.get_running_loop()
        core = Connection(Role.CLIENT, self._dialer, outcome.agreed, clock_of(loop)())
        protocol = ConnProtocol(core, asking.transport, loop)
        asking.hand_over(protocol)
        conn = Conn(protocol, request, response, outcome.subprotocol)
        keep(conn)
        return conn

    async def _connect(self, target: Target, progress: Progress) -> Asking:
        dialer = self._dialer
        name = dialer.hostname(target) if target.secure else None
        proxy = dialer.proxy_for(target)
        parser, farewell = ResponseParser(dialer.head_limit), dialer.close_timeout
        if proxy is None:
            sock = await open_socket(dialer, target.host, target.port, progress)
        elif proxy.is_socks:
            sock = await through_socks(dialer, proxy, target, progress)
        else:
            tunnel = (await open_tunnel(dialer, proxy, target, progress)).transport
            return await ask_through(tunnel, parser, dialer.ssl, name, farewell, progress)
        if name is None:
            return await ask_plainly(sock, parser)
        return await ask_on(sock, parser, dialer.ssl, name, farewell, progress)


async def _answer(asking: Asking, request: Request, limit: asyncio.Timeout) -> Response:
    try:
        return await asking.ask(request)
    except asyncio.CancelledError:
        # Of a refusal we show what came of its body in time; without a head there is none.
        begun = asking.begun() if limit.expired() else None
        if begun is None:
            raise
        return begun


def dial(
    url: str, *, sock: socket.socket | None = None, **options: Unpack[DialerOptions]
) -> Dialing:
    """Connect to ``url``; await the result for a ``Conn``, or use it in ``async with``.

    ``options`` are those of ``Dialer``; ``sock`` and what is raised, as in ``Dialer.dial``.
    """
    dialing.check_dialer_options("dial()", options)
    return Dialer(**options).dial(url, sock=sock)
