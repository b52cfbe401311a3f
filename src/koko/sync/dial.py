"""The client's side of the opening handshake, for threads."""

from __future__ import annotations

import socket
from contextlib import suppress
from time import monotonic
from typing import Unpack

from koko import dialing
from koko.core.connection import Connection
from koko.core.head import Headers, Response, ResponseParser, write_request
from koko.core.target import Target
from koko.core.wire import Role
from koko.dialing import DialerOptions
from koko.errors import HandshakeError
from koko.sync.clock import deadline_in
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
            TimeoutError: the handshake took too long.
            OSError: no connection, or TLS failed.
            ValueError: the URL or a header cannot be used.
        """
        if sock is not None:
            return self.over(sock).dial(url, headers)
        deadline = deadline_in(self.handshake_timeout)
        outcome: Conn | Target = self.target(url)
        try:
            while isinstance(outcome, Target):
                target = outcome
                outcome = self._try(target, headers, deadline)
        except TimeoutError as error:
            if deadline is None or monotonic() < deadline:
                raise  # the system's own patience ended first
            timeout = self.handshake_timeout
            raise TimeoutError(f"no handshake with {target.shown} within {timeout:g} s") from error
        return outcome

    def _try(
        self, target: Target, headers: Headers | None, deadline: float | None
    ) -> Conn | Target:
        """Shake hands with one target; return the connection, or where it sends us."""
        request, key = self.request(target, headers)
        stream = self._connect(target, deadline)
        try:
            write_by(stream, write_request(request), deadline)
            response, early = _read_response(stream, self.head_limit, deadline)
            outcome = self.conclude(target, key, response)
            if not isinstance(outcome, Target):
                core = Connection(Role.CLIENT, self, outcome.agreed, monotonic())
                return Conn(Driver(core, stream, early), request, response, outcome.subprotocol)
        except BaseException:
            stream.close()
            raise
        stream.close()
        return outcome

    def _connect(self, target: Target, deadline: float | None) -> Stream:
        proxy = self.proxy_for(target)
        stream: Stream
        if proxy is None:
            stream = open_stream(self, target.host, target.port, deadline)
        else:
            stream = through_proxy(self, proxy, target, deadline)
        if not target.secure:
            return stream
        try:
            name = self.hostname(target)
        except BaseException:
            stream.close()
            raise
        return secure(stream, self.ssl, name, deadline)


def _read_response(
    stream: Stream, head_limit: int, deadline: float | None
) -> tuple[Response, bytes]:
    """Return the server's answer and what came behind it."""
    parser = ResponseParser(head_limit)
    while True:
        try:
            octets = recv_by(stream, deadline)
        except OSError:
            # Of a refusal we show what came of its body; without a head there is none.
            with suppress(HandshakeError):
                return parser.feed_eof(), b""
            raise
        response = parser.feed(octets) if octets else parser.feed_eof()
        if response is not None:
            return response, parser.rest


def dial(url: str, *, sock: socket.socket | None = None, **options: Unpack[DialerOptions]) -> Conn:
    """Connect to ``url`` and return the open connection, made for ``with``.

    ``options`` are those of ``Dialer``; ``sock`` and what is raised, as in ``Dialer.dial``.
    """
    dialing.check_dialer_options("dial()", options)
    return Dialer(**options).dial(url, sock=sock)
