"""One dial as a generator of steps: proxies, TLS, redirects and the deadline, without I/O.

A face holds one connection and performs each step on it; it sends in the answer or throws in the
error. What the generator raises ends the dial: the face then drops the connection.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from koko.dial_steps import (
    Attempts,
    CallNetDial,
    Connect,
    ConnectUnix,
    Disconnect,
    Done,
    Exchange,
    Resolve,
    StartTLS,
    Step,
    Waiting,
)
from koko.dialing import Dialer, Opened, log
from koko.errors import HandshakeError
from koko.http import Headers, Response
from koko.logs import tell
from koko.opening.head import ResponseParser, write_request
from koko.opening.socks import SocksReader
from koko.opening.target import Target
from koko.opening.tunnel import Proxy, TunnelParser

if TYPE_CHECKING:
    from ssl import SSLContext, SSLObject

Steps = Generator[Step, Any, None]
Answer = Generator[Step, Any, Any]


class OutOfTimeError(TimeoutError):
    """``handshake_timeout`` is over. A face throws this in; a timeout of the system is not one."""


class Dial:
    """One dial with a dialer.

    Attributes:
        deadline: when all of it must be over, by the clock of ``now``; None for never.
    """

    def __init__(self, dialer: Dialer, url: str, headers: Headers | None, now: float) -> None:
        self._dialer, self._headers = dialer, headers
        self._target = dialer.target(url)
        self._shown = self._target.shown  # the URL that was dialed, also after a redirect
        self._context = ""  # what the text of a timeout begins with: a redirect, a proxy
        self._step: Waiting | None = None
        timeout = dialer.handshake_timeout
        self.deadline = None if timeout is None else now + timeout

    def steps(self) -> Steps:
        """Yield the steps; ``Done`` is the last one.

        Raises:
            ErrBadHandshake: the server or a proxy answered, but not with an acceptance.
            HandshakeError: an answer was not HTTP, or TLS is not for HTTP/1.1.
            TimeoutError: the time was over; it says what had not happened.
        """
        try:
            yield from self._legs()
        except OutOfTimeError as error:
            raise self._timed_out() from error

    def _legs(self) -> Steps:
        """Shake hands with the target, and with those that it redirects to."""
        while True:
            target = self._target
            request, key = self._dialer.request(target, self._headers)
            octets = write_request(request)  # a header that cannot be used raises now
            self._context = f"after a redirect to {target.shown}, " if target.redirects else ""
            yield from self._reach(target)
            parser = ResponseParser(self._dialer.head_limit)
            response, late = yield from self._ask(Exchange(octets, parser))
            outcome = self._dialer.conclude(target, key, response)
            if isinstance(outcome, Opened):
                yield Done(outcome, request, response, parser.rest)
                return
            if late is not None:
                raise late
            yield Disconnect()
            self._target = outcome

    def _begin(self, step: Waiting) -> Answer:
        """Log a step that may take time, and yield it."""
        self._step = step
        if not isinstance(step, Connect):  # each of its attempts is logged
            tell(log, logging.DEBUG, "%s: %s", self._target.shown, step.doing)
        return (yield step)

    def _ask(self, step: Exchange) -> Generator[Step, Any, tuple[Response, OutOfTimeError | None]]:
        """Return the answer to the request, and the error if the time ended within its body."""
        try:
            return (yield from self._begin(step)), None
        except OSError as error:
            # A refusal is shown with as much of its body as came; without a head there is none.
            response = _so_far(step)
            if response is None:
                raise
            return response, error if isinstance(error, OutOfTimeError) else None

    # Reaching a target

    def _reach(self, target: Target) -> Steps:
        """Connect to a target, through its proxy if it has one; with TLS, if it is secure."""
        proxy = self._dialer.proxy_for(target)
        name = self._dialer.hostname(target)
        if proxy is None:
            yield from self._connect(target.host, target.port, target.secure)
        elif proxy.is_socks:
            yield from self._reach_by_socks(proxy, target)
        else:
            yield from self._reach_by_connect(proxy, target)
        if target.secure:
            yield from self._start_tls(name, self._dialer.ssl)

    def _connect(self, host: str, port: int, for_tls: bool) -> Steps:
        """Connect to the first hop, the proxy or the server, as the dialer says."""
        dialer = self._dialer
        if dialer.net_dial is not None:
            yield from self._begin(CallNetDial(host, port, for_tls, dialer.net_dial))
        elif dialer.unix is not None:
            yield from self._begin(ConnectUnix(host, port, for_tls, os.fspath(dialer.unix)))
        else:
            addresses = yield from self._begin(Resolve(host, port))
            attempts = Attempts(self._target.shown, host, port, addresses)
            yield from self._begin(Connect(host, port, for_tls, attempts))

    def _start_tls(self, name: str, context: SSLContext | None) -> Steps:
        check_session(name, (yield from self._begin(StartTLS(name, context))))

    def _connect_to_proxy(self, proxy: Proxy, target: Target) -> Steps:
        before = self._context
        self._context = f"{before}the proxy {proxy.name} was not reached: "
        yield from self._connect(proxy.host, proxy.port, proxy.is_secure or target.secure)
        if proxy.is_secure:
            yield from self._start_tls(proxy.host, self._dialer.proxy_ssl or self._dialer.ssl)
        self._context = before

    def _reach_by_connect(self, proxy: Proxy, target: Target) -> Steps:
        yield from self._connect_to_proxy(proxy, target)
        parser = TunnelParser(self._dialer.head_limit)
        request = write_request(proxy.connect_request(target.host, target.port))
        response = yield from self._begin(Exchange(request, parser, proxy.name))
        proxy.check(response, parser.rest)

    def _reach_by_socks(self, proxy: Proxy, target: Target) -> Steps:
        reader, host = SocksReader(proxy), target.host
        if not proxy.resolves:
            only_ipv4 = proxy.scheme == "socks4"
            addresses = yield from self._begin(Resolve(host, target.port, only_ipv4))
            host = addresses[0][4][0]
        yield from self._connect_to_proxy(proxy, target)
        asking = reader.ask(host, target.port)
        octets = yield from self._begin(Exchange(asking, reader, proxy.name))
        while octets:
            octets = yield Exchange(octets, reader, proxy.name)
        if reader.rest:
            early = f"the proxy {proxy.name} sent {reader.rest[:40]!r} before the target was asked"
            raise ConnectionError(early)

    # When the time is over

    def _timed_out(self) -> TimeoutError:
        """Return the error of the dial: it names what did not happen."""
        step = self._step
        assert step is not None
        lacking = self._context + step.lacking
        if isinstance(step, Exchange) and step.reader.begun:
            lacking += ", only the beginning of one"
        within = f"did not finish within {self._dialer.handshake_timeout:g} s"
        return TimeoutError(f"the handshake with {self._shown} {within}: {lacking}")


def _so_far(step: Exchange) -> Response | None:
    """Return the part of a response that has come, None before the end of its head."""
    try:
        response: Response = step.reader.feed_eof()
        return response
    except HandshakeError:
        return None


def check_session(name: str, session: SSLObject) -> None:
    """Raise unless HTTP/1.1 may be spoken in a TLS session with ``name``.

    Raises:
        HandshakeError: the context offers another protocol in ALPN, and the peer chose it.
    """
    chosen = session.selected_alpn_protocol()
    tell(log, logging.DEBUG, "TLS with %s: %s, ALPN %s", name, session.version(), chosen)
    if chosen not in (None, "http/1.1"):
        raise HandshakeError(
            0, f"{name} chose {chosen!r} in ALPN; ssl= may offer only 'http/1.1' (RFC 6455 §4.1)"
        )
