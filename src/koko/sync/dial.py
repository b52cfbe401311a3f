"""The client's side of the opening handshake, for threads."""

from __future__ import annotations

import socket
from time import monotonic
from typing import Any, Unpack

from koko import dialing
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
from koko.misuse import refuse_async
from koko.sync.clock import time_left
from koko.sync.conn import Conn
from koko.sync.driver import Driver
from koko.sync.exchange import HttpExchange
from koko.sync.network import connect, resolve


class Dialer(dialing.Dialer):
    """Opens connections; see ``koko.dialing.Dialer`` for the options."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_async("Dialer()", "net_dial=", self.net_dial)

    def dial(
        self, url: str, headers: Headers | None = None, *, sock: socket.socket | None = None
    ) -> Conn:
        """Connect to ``url`` and return the open connection, a context manager.

        ``headers`` are added to the dialer's own and replace those of the same name. All steps
        together - name resolution, TCP, proxy, TLS, HTTP, redirects - take at most
        ``handshake_timeout`` seconds; a name server that does not answer may keep a thread of
        ours busy for longer. ``sock`` is a socket that is connected already: it is closed if the
        handshake fails (a ``ValueError`` leaves it unchanged). Since there is no second socket,
        redirects are not followed.

        Raises:
            ErrBadHandshake: the server answered, but not with an acceptance; see ``response``.
            HandshakeError: its answer was not HTTP.
            TimeoutError: the handshake took too long; it says what had not happened.
            OSError: no connection, or TLS failed.
            ValueError: the URL or a header cannot be used.
        """
        dialer = self if sock is None else self.over(sock)
        dial = Dial(dialer, url, headers, monotonic())
        runner = _StepRunner(dial.deadline)
        try:
            done = runner.run(dial.steps())
            core = Connection(Role.CLIENT, dialer, done.opened.agreed, monotonic())
            driver = Driver(core, runner.exchange.stream, done.early)
            return Conn(driver, done.request, done.response, done.opened.subprotocol)
        except BaseException:
            runner.exchange.close()
            raise


class _StepRunner:
    """Performs the steps of a dial, each before the deadline, on one connection."""

    def __init__(self, deadline: float | None) -> None:
        self._deadline = deadline
        self.exchange = HttpExchange(deadline)

    def run(self, steps: Steps) -> Done:
        step = next(steps)
        while not isinstance(step, Done):
            try:
                answer = self._perform_in_time(step)
            except Exception as error:
                step = steps.throw(error)
            else:
                step = steps.send(answer)
        return step

    def _perform_in_time(self, step: Step) -> Any:
        try:
            return self._perform(step)
        except TimeoutError as error:
            if time_left(self._deadline) != 0:
                raise  # a timeout of the system, such as ETIMEDOUT
            raise OutOfTimeError from error

    def _perform(self, step: Step) -> Any:
        match step:
            case Exchange():
                return self.exchange.ask(step)
            case Resolve():
                return resolve(step, self._deadline)
            case StartTLS():
                return self.exchange.start_tls(step)
            case Disconnect():
                self.exchange.close()
            case Connect() | ConnectUnix() | CallNetDial():
                sock = connect(step, self._deadline)
                self.exchange.attach(step, sock)


def dial(url: str, *, sock: socket.socket | None = None, **options: Unpack[DialerOptions]) -> Conn:
    """Connect to ``url`` and return the open connection, made for ``with``.

    ``options`` are those of ``Dialer``; ``sock`` and what is raised, as in ``Dialer.dial``.
    """
    dialing.check_dialer_options("dial()", options)
    return Dialer(**options).dial(url, sock=sock)
