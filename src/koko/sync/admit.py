"""From an accepted socket to an open connection, or to the answer that there is none.

Runs in the thread of its connection. All of it, TLS included, has one deadline: a
client that sends a byte now and then gains nothing by it.
"""

from __future__ import annotations

import logging
import ssl as tls
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

from koko.core.address import written
from koko.core.connection import Connection
from koko.core.handshake import is_websocket_upgrade, refusal
from koko.core.head import Request, RequestParser, Response, write_response
from koko.core.wire import Role
from koko.errors import HandshakeError
from koko.sync.conn import Conn
from koko.sync.pump import Pump
from koko.sync.tls import TLSStream
from koko.sync.transport import PlainStream, Stream, deadline_in, peer_name, recv_by, write_by
from koko.sync.upgrade import Upgrader
from koko.upgrading import Accepted, Refused

Http = Callable[[Request], Response | None]

_LINGER = 2.0  # seconds a refused client gets to read its answer and to hang up


class Admission:
    """What a server does with those who come."""

    def __init__(
        self,
        upgrader: Upgrader,
        ssl: tls.SSLContext | None,
        http: Http | None,
        logger: logging.Logger,
    ) -> None:
        self.closing = False
        self._upgrader = upgrader
        self._ssl = ssl
        self._http = http
        self._logger = logger

    def admit(self, plain: PlainStream) -> Conn | None:
        """Return the open connection, None when there is none; its socket is closed then."""
        stream: Stream = plain
        deadline = deadline_in(self._upgrader.handshake_timeout)
        conn = None
        try:
            if self._ssl is not None:
                stream = session = TLSStream(plain, self._ssl, server_side=True)
                session.handshake(deadline)
            conn = self._converse(stream, deadline)
        except OSError as error:
            self._log(stream, None, error)
        except Exception:
            self._logger.exception("could not answer a request")
        finally:
            if conn is None:
                stream.close()
        return conn

    def _converse(self, stream: Stream, deadline: float | None) -> Conn | None:
        parser = RequestParser()
        request: Request | None = None
        answer: Accepted | Refused | Response
        try:
            request = self._read_request(stream, parser, deadline)
        except HandshakeError as error:
            answer = Refused(refusal(error), error)
        else:
            answer = self._decide(request)
            if isinstance(answer, Accepted):
                return _open(self._upgrader, stream, request, parser.rest, answer, deadline)
        if isinstance(answer, Refused):
            self._log(stream, request, answer.error)
            answer = answer.response
        octets = write_response(answer)
        if request is not None and request.method == "HEAD":
            octets = octets[: len(octets) - len(answer.body)]  # RFC 9110 §9.3.2
        _say_and_leave(stream, octets, deadline)
        return None

    def _read_request(
        self, stream: Stream, parser: RequestParser, deadline: float | None
    ) -> Request:
        request = None
        while request is None:
            octets = recv_by(stream, deadline)
            if self.closing:
                raise HandshakeError(503, "the server is going away, try again later")
            if not octets:
                raise ConnectionError("the client hung up before its request was whole")
            request = parser.feed(octets)
        return request

    def _decide(self, request: Request) -> Accepted | Refused | Response:
        try:
            if self._http is not None and not is_websocket_upgrade(request):
                response = self._http(request)
                if response is not None:
                    return response
            return self._upgrader.decide(request, secure=self._ssl is not None)
        except HandshakeError as error:
            return Refused(refusal(error), error)
        except Exception:
            self._logger.exception("could not answer %s", request.target)
            failure = HandshakeError(500, "the server failed to answer")
            return Refused(refusal(failure), failure)

    def _log(self, stream: Stream, request: Request | None, error: Exception) -> None:
        target = request.target if request else "-"
        self._logger.info("%s %s: %s", written(peer_name(stream.socket)), target, error)


def _open(
    upgrader: Upgrader,
    stream: Stream,
    request: Request,
    early: bytes,
    accepted: Accepted,
    deadline: float | None,
) -> Conn:
    write_by(stream, write_response(accepted.response), deadline)
    core = Connection(Role.SERVER, upgrader, accepted.agreed, monotonic())
    return Conn(Pump(core, stream, early), request, accepted.response, accepted.subprotocol)


def _say_and_leave(stream: Stream, answer: bytes, deadline: float | None) -> None:
    write_by(stream, answer, deadline)
    stream.end()
    # Closing with bytes of the client unread would reset the stream and could destroy
    # the answer on its way.
    until = monotonic() + _LINGER
    if deadline is not None:
        until = min(until, deadline)
    with suppress(OSError):
        while recv_by(stream, until):
            pass
