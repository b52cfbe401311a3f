"""The client's side of the opening handshake, for threads."""

from __future__ import annotations

import socket
from contextlib import suppress
from time import monotonic
from typing import Unpack

from koko import dialing
from koko.core.connection import Connection
from koko.core.wire import Role
from koko.dial_progress import Progress
from koko.dialing import DialerOptions
from koko.errors import HandshakeError
from koko.http import Headers, Response
from koko.opening.head import ResponseParser, write_request
from koko.opening.target import Target
from koko.sync.conn import Conn
from koko.sync.driver import Driver
from koko.sync.network import open_stream, secure
from koko.sync.proxy import through_proxy
from koko.sync.transport import Stream, recv_by, write_by


class Dialer(dialing.Dialer):
    """Opens connections; see ``koko.dialing.Dialer`` for the options."""

    def dial(
        self, url: str, headers: Headers | None = None, *, sock: socket.socket | None = None
    ) -> Conn:
        """Connect to ``url`` and return the open connection, a context manager.

        ``headers`` are added to the dialer's own and replace those of the same name. The whole
        of it - name resolution, TCP, proxy, TLS, HTTP, redirects - takes at most
        ``handshake_timeout`` seconds; a name server that does not answer may keep a thread of
        ours busy for longer. ``sock`` is a socket
        that is connected already: it is closed if the handshake fails (a ``ValueError`` leaves it
        as it was), and as nobody can open a second one, redirects are not followed.

        Raises:
            ErrBadHandshake: the server answered, but not with an acceptance; see ``response``.
            HandshakeError: its answer was not HTTP.
            TimeoutError: the handshake took too long; it says what had not happened.
            OSError: no connection, or TLS failed.
            ValueError: the URL or a header cannot be used.
        """
        if sock is not None:
            return self.over(sock).dial(url, headers)
        outcome: Conn | Target = (target := self.target(url))
        progress = Progress(target, self.handshake_timeout, monotonic())
        try:
            while isinstance(outcome, Target):
                outcome = self._try(outcome, headers, progress)
        except TimeoutError as error:
            if progress.deadline is None or monotonic() < progress.deadline:
                raise  # the system's own patience ended first
            raise progress.timed_out() from error
        return outcome

    def _try(self, target: Target, headers: Headers | None, progress: Progress) -> Conn | Target:
        """Shake hands with one target; return the connection, or where it sends us."""
        progress.begin(target)
        request, key = self.request(target, headers)
        stream = self._connect(target, progress)
        try:
            parser = ResponseParser(self.head_limit)
            progress.ask(parser)
            write_by(stream, write_request(request), progress.deadline)
            response = _read_response(stream, parser, progress.deadline)
            outcome = self.conclude(target, key, response)
            if not isinstance(outcome, Target):
                core = Connection(Role.CLIENT, self, outcome.agreed, monotonic())
                driver = Driver(core, stream, parser.rest)
                return Conn(driver, request, response, outcome.subprotocol)
        except BaseException:
            stream.close()
            raise
        stream.close()
        return outcome

    def _connect(self, target: Target, progress: Progress) -> Stream:
        proxy = self.proxy_for(target)
        stream: Stream
        if proxy is None:
            stream = open_stream(self, target.host, target.port, progress)
        else:
            stream = through_proxy(self, proxy, target, progress)
        if not target.secure:
            return stream
        try:
            name = self.hostname(target)
        except BaseException:
            stream.close()
            raise
        return secure(stream, self.ssl, name, progress)


def _read_response(stream: Stream, parser: ResponseParser, deadline: float | None) -> Response:
    """Return the server's answer; what came behind it stays in the parser."""
    while True:
        try:
            octets = recv_by(stream, deadline)
        except OSError:
            # Of a refusal we show what came of its body; without a head there is none.
            with suppress(HandshakeError):
                return parser.feed_eof()
            raise
        response = parser.feed(octets) if octets else parser.feed_eof()
        if response is not None:
            return response


def dial(url: str, *, sock: socket.socket | None = None, **options: Unpack[DialerOptions]) -> Conn:
    """Connect to ``url`` and return the open connection, made for ``with``.

    ``options`` are those of ``Dialer``; ``sock`` and what is raised, as in ``Dialer.dial``.
    """
    dialing.check_dialer_options("dial()", options)
    return Dialer(**options).dial(url, sock=sock)
