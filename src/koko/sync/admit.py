"""From an accepted socket to an open connection, or to the answer that there is none.

Runs in the thread of its connection. All of it, TLS included, has one deadline: a
client that sends a byte now and then gains nothing by it.
"""

from __future__ import annotations

import logging
import ssl as tls
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic

from koko.errors import HandshakeError
from koko.http import Request, Response
from koko.hung_up import has_hung_up
from koko.misuse import check_returned
from koko.opening.handshake import is_websocket_upgrade, refusal
from koko.opening.head import RequestParser, write_response
from koko.serving import (
    CLIENT,
    GOING_AWAY,
    HUNG_UP,
    HUNG_UP_ANSWERING,
    NO_ANSWER,
    UNKNOWN,
    answered,
    level_of,
    no_tls,
    sentence_of,
    too_slow,
)
from koko.sync.clock import deadline_in
from koko.sync.conn import Conn
from koko.sync.tls import TLSStream
from koko.sync.transport import PlainStream, Stream, recv_by, write_by
from koko.sync.upgrade import Upgrader, complain, end_with, open_conn, run_handler
from koko.upgrading import Incoming, Refused

Handler = Callable[[Conn], object]
Http = Callable[[Request], Response | None]

_LINGER = 2.0  # seconds a refused client gets to read its answer and to hang up


class Guest:
    """One request to our server: the door that it came in by."""

    def __init__(
        self,
        request: Request,
        stream: Stream,
        peer: str,
        early: bytes,
        secure: bool,
        opened: Callable[[Conn], object],
        has_left: Callable[[], bool],
    ) -> None:
        self.request = request
        self.peer = peer
        self.secure = secure
        self.conn: Conn | None = None
        self._stream: Stream | None = stream
        self._early = early
        self._opened = opened
        self._has_left = has_left

    def answer(self, response: Response) -> Response:
        return response

    def give_up(self) -> Stream:
        """Return the stream; from now on nobody can upgrade the request."""
        stream, self._stream = self._stream, None
        if stream is None:
            raise RuntimeError("this request has been upgraded or answered already")
        return stream

    def take(self) -> tuple[Stream, bytes]:
        stream = self.give_up()
        if self._has_left():  # perhaps while we slept
            raise ConnectionResetError(HUNG_UP_ANSWERING)
        return stream, self._early

    def opened(self, conn: Conn) -> None:
        self.conn = conn
        self._opened(conn)

    @property
    def is_gone(self) -> bool:
        """True when the stream was taken: nothing can be answered on it."""
        return self._stream is None


class Admission:
    """What a server does with those who come."""

    def __init__(
        self,
        handler: Handler | None,
        upgrader: Upgrader,
        ssl: tls.SSLContext | None,
        http: Http | None,
        logger: logging.Logger,
        others: Callable[[], int],
    ) -> None:
        self.closing = False
        self._others = others
        self._handler = handler
        self._upgrader = upgrader
        self._ssl = ssl
        self._http = http
        self._logger = logger

    def admit(self, plain: PlainStream, peer: str, opened: Callable[[Conn], object]) -> None:
        """Do everything with one client, from its first byte to its last.

        ``peer`` is its address, for the log. ``opened`` is called with the connection, if it
        becomes one.
        """
        stream: Stream = plain
        deadline = deadline_in(self._upgrader.handshake_timeout)
        guest = None
        try:
            stream = self._secured(plain, deadline)
            guest = self._read_request(stream, peer, deadline, opened)
            if guest is not None:
                self._serve(guest, stream, deadline)
        except TimeoutError:
            sentence = too_slow(self._upgrader.handshake_timeout)
            self._log(peer, guest, ConnectionError(sentence))
        except OSError as error:
            self._log(peer, guest, error)
        finally:
            if guest is None or guest.conn is None:
                stream.close()

    def _secured(self, plain: PlainStream, deadline: float | None) -> Stream:
        if self._ssl is None:
            return plain
        session = TLSStream(plain, self._ssl, server_side=True)
        try:
            session.handshake(deadline)
        except TimeoutError:
            raise
        except OSError as error:
            told = ConnectionError(GOING_AWAY) if self.closing else error
            raise ConnectionError(no_tls(told)) from None
        return session

    def _read_request(
        self,
        stream: Stream,
        peer: str,
        deadline: float | None,
        opened: Callable[[Conn], object],
    ) -> Guest | None:
        parser = RequestParser(self._upgrader.head_limit)
        request = None
        try:
            while request is None:
                octets = recv_by(stream, deadline)
                if self.closing:
                    raise HandshakeError(503, "the server is going away, try again later")
                if not octets:
                    raise ConnectionError(HUNG_UP)
                request = parser.feed(octets)
        except HandshakeError as error:
            self._log(peer, None, error)
            _say_and_leave(stream, write_response(refusal(error)), deadline)
            return None
        has_left = partial(self._has_left, stream)
        return Guest(request, stream, peer, parser.rest, self._ssl is not None, opened, has_left)

    def _has_left(self, stream: Stream) -> bool:
        # A server that closes ends the client's half itself, which looks the same.
        return has_hung_up(stream.socket.fileno()) and not self.closing

    def _serve(self, guest: Guest, stream: Stream, deadline: float | None) -> None:
        try:
            response = self._respond(guest, deadline)
        except HandshakeError as error:
            self._log(guest.peer, guest, error)
            response = error.response or refusal(error)
        except BaseException as error:  # of the application's, ``sys.exit()`` as well
            if guest.is_gone:
                raise
            complain(self._logger, NO_ANSWER, guest.request.shown, exc_info=error)
            response = refusal(HandshakeError(500, "the server failed to answer"))
        else:
            if response is not None and not guest.is_gone:
                told = (guest.peer, guest.request.shown, answered(response.status))
                complain(self._logger, CLIENT, *told, level=logging.INFO)
        if response is None or guest.is_gone:
            return
        guest.give_up()
        octets = write_response(response)
        if guest.request.method == "HEAD":
            octets = octets[: len(octets) - len(response.body)]  # RFC 9110 §9.3.2
        _say_and_leave(stream, octets, deadline)

    def _respond(self, guest: Guest, deadline: float | None) -> Response | None:
        """Return what to answer, None after a conversation."""
        request = guest.request
        wants = is_websocket_upgrade(request)
        if self._http is not None and (self._handler is None or not wants):
            response = self._ask(self._http, guest)
            if response is not None or guest.conn is not None:
                return response
            if wants:
                raise HandshakeError(404, f"there is no WebSocket at {request.path!r}")
        decision = self._upgrader.decide(request, secure=guest.secure)
        if isinstance(decision, Refused):
            raise decision.error
        assert self._handler is not None
        conn = open_conn(self._upgrader, guest, decision, deadline)
        run_handler(conn, partial(self._handler, conn), self._logger, self._others)
        return None

    def _ask(self, http: Http, guest: Guest) -> Response | None:
        asked = guest.request
        request = Incoming(asked.method, asked.target, asked.headers, asked.version, door=guest)
        response = error = None
        try:
            response = http(request)
            check_returned("http=", http, response)
        except BaseException as raised:
            if guest.conn is None:
                raise
            error = raised
        if guest.conn is not None:
            end_with(guest.conn, error, self._logger, self._others)
        return response

    def _log(self, peer: str, guest: Guest | None, error: Exception) -> None:
        target = guest.request.shown if guest else UNKNOWN
        level, sentence = level_of(error), sentence_of(error)
        complain(self._logger, CLIENT, peer, target, sentence, level=level)


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
