"""The client's side of the opening handshake, for asyncio."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Unpack

from koko import dialing
from koko.aio.conn import Conn
from koko.aio.exchange import HttpExchange
from koko.aio.forking import keep
from koko.aio.network import connect, resolve
from koko.aio.pending import Pending
from koko.aio.protocol import ConnProtocol
from koko.aio.tasks import clock_of
from koko.core.connection import Connection
from koko.core.wire import Role
from koko.dial_plan import Dial, OutOfTimeError, Steps
from koko.dial_steps import (
    CallNetDial,
    Connect,
    ConnectUnix,
    Disconnect,
    Done,
    Exchange,
    Resolve,
    StartTLS,
    Step,
)
from koko.dialing import DialerOptions
from koko.http import Headers


class Dialer(dialing.Dialer):
    """Opens connections; see ``koko.dialing.Dialer`` for the options."""

    def dial(
        self, url: str, headers: Headers | None = None, *, sock: socket.socket | None = None
    ) -> Dialing:
        """Connect to ``url``; await the result for a ``Conn``, or use it in ``async with``.

        ``headers`` are added to the dialer's own and replace those of the same name. All steps
        together - name resolution, TCP, proxy, TLS, HTTP, redirects - take at most
        ``handshake_timeout`` seconds. Cancelling it leaves nothing open. ``sock`` is a socket
        that is connected already: its descriptor becomes the connection's, and ``sock`` is as
        after ``detach`` (a ``ValueError`` leaves it unchanged). Since there is no second
        socket, redirects are not followed.

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
        now = asyncio.get_running_loop().time()
        dial = Dial(self._dialer, self._url, self._headers, now)
        runner = _StepRunner(self._dialer, dial.deadline)
        try:
            done = await runner.run(dial.steps())
            return self._conn_on(runner.exchange, done)
        except BaseException:
            runner.exchange.abort()
            raise

    def _conn_on(self, exchange: HttpExchange, done: Done) -> Conn:
        loop = asyncio.get_running_loop()
        core = Connection(Role.CLIENT, self._dialer, done.opened.agreed, clock_of(loop)())
        protocol = ConnProtocol(core, exchange.transport, loop)
        exchange.hand_over(protocol, done.early)
        conn = Conn(protocol, done.request, done.response, done.opened.subprotocol)
        keep(conn)
        return conn


class _StepRunner:
    """Performs the steps of a dial, each before the deadline, on one connection."""

    def __init__(self, dialer: dialing.Dialer, deadline: float | None) -> None:
        self._close_timeout = dialer.close_timeout
        self._deadline = deadline
        self.exchange = HttpExchange()

    async def run(self, steps: Steps) -> Done:
        step = next(steps)
        while not isinstance(step, Done):
            try:
                answer = await self._perform_in_time(step)
            except Exception as error:
                step = steps.throw(error)
            else:
                step = steps.send(answer)
        return step

    async def _perform_in_time(self, step: Step) -> Any:
        try:
            async with asyncio.timeout_at(self._deadline) as limit:
                return await self._perform(step)
        except TimeoutError as error:
            if not limit.expired():
                raise  # a timeout of the system, such as ETIMEDOUT
            raise OutOfTimeError from error

    async def _perform(self, step: Step) -> Any:
        match step:
            case Exchange():
                return await self.exchange.ask(step)
            case Resolve():
                return await resolve(step)
            case StartTLS():
                return await self.exchange.start_tls(step, self._close_timeout)
            case Disconnect():
                self.exchange.abort()
                self.exchange = HttpExchange()
            case Connect() | ConnectUnix() | CallNetDial():
                sock = await connect(step, self._deadline)
                await self.exchange.attach(step, sock)


def dial(
    url: str, *, sock: socket.socket | None = None, **options: Unpack[DialerOptions]
) -> Dialing:
    """Connect to ``url``; await the result for a ``Conn``, or use it in ``async with``.

    ``options`` are those of ``Dialer``; ``sock`` and what is raised, as in ``Dialer.dial``.
    """
    dialing.check_dialer_options("dial()", options)
    return Dialer(**options).dial(url, sock=sock)
