"""From an accepted socket to an open connection, or to an answer without one.

It runs in the thread of the connection. All of it, TLS included, has one deadline: a
client that sends a byte now and then gains nothing by it.
"""

from __future__ import annotations

import logging
import ssl as tls
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any

from koko import upgrading
from koko.errors import HandshakeError
from koko.http import Request, Response
from koko.hung_up import has_hung_up
from koko.misuse import check_returned
from koko.opening.forwarded import Source
from koko.opening.handshake import is_refusal, is_websocket_upgrade, refusal
from koko.opening.head import RequestParser
from koko.opening.proxy_protocol import ProxyHeaderError
from koko.serving import (
    CLIENT,
    GOING_AWAY,
    HUNG_UP,
    HUNG_UP_ANSWERING,
    NO_ANSWER,
    REFUSE_TIMEOUT,
    UNKNOWN,
    answer_octets,
    answered,
    failed_to_answer,
    going_away,
    is_for_http,
    level_for,
    level_of,
    linger_until,
    no_tls,
    no_websocket_at,
    sentence_of,
    too_slow,
)
from koko.sync.clients import Client, Clients
from koko.sync.clock import deadline_in
from koko.sync.conn import Conn
from koko.sync.handling import Handler, end_with, run_handler
from koko.sync.logs import tell
from koko.sync.proxied import read_proxy_header
from koko.sync.tls import TLSStream
from koko.sync.transport import Stream, recv_by, write_by
from koko.sync.upgrade import Upgrader, open_conn
from koko.upgrading import Refused, UpgradableRequest, check_proxy

Http = Callable[[Request], Response | None]


@dataclass(slots=True)
class Service:
    """What the opening handshake of a client needs of the server."""

    handler: Handler | None
    http: Http | None
    upgrader: Upgrader
    ssl: tls.SSLContext | None
    proxy_protocol: bool
    logger: logging.Logger
    clients: Clients


class OpeningHandshake:
    """One client of a server, from its first byte to its last.

    ``on_open`` is called with its connection, if a connection is opened.
    """

    request: Request

    def __init__(self, service: Service, client: Client, on_open: Callable[[Conn], object]) -> None:
        self.conn: Conn | None = None
        self._service = service
        self._client = client
        self._source: Source
        self._stream: Stream = client.stream
        self._early = b""
        self._taken = False  # whether the stream has become a connection's, or was answered
        self._on_open = on_open
        self._deadline = deadline_in(service.upgrader.handshake_timeout)

    def run(self) -> None:
        """Serve the client; return when it is gone."""
        try:
            self._read_proxy_header()
            self._secure()
            if self._read_request():
                self._serve()
        except TimeoutError:
            self._log(ConnectionError(too_slow(self._service.upgrader.handshake_timeout)))
        except OSError as error:
            self._log(ConnectionError(self._hung_up) if error.errno else error)
        finally:
            if self.conn is None:
                self._stream.close()

    # What an Upgrader calls

    def source_for(self, upgrader: upgrading.Upgrader) -> Source:
        """Return where the request came from; the server's proxies hold unless others are named."""
        return self._source if upgrader.trusted_proxies is None else self._source_by(upgrader)

    def answer(self, response: Response) -> Response:
        return response

    @property
    def peer(self) -> Any:
        return self._client.peer

    def take(self) -> tuple[Stream, bytes]:
        self._take()
        if self._has_left():  # perhaps while we slept
            raise ConnectionResetError(HUNG_UP_ANSWERING)
        return self._stream, self._early

    def opened(self, conn: Conn) -> None:
        """Store the connection that the request has become."""
        self.conn = conn
        self._on_open(conn)

    # Internals

    def _take(self) -> None:
        if self._taken:
            raise RuntimeError("this request has been upgraded or answered already")
        self._taken = True

    def _source_by(self, upgrader: upgrading.Upgrader) -> Source:
        return self._client.source_by(upgrader, self.request, self._service.ssl is not None)

    def _has_left(self) -> bool:
        # A closing server ends the client's half itself, which looks the same.
        return has_hung_up(self._stream.socket.fileno()) and not self._service.clients.closing

    def _read_proxy_header(self) -> None:
        service, client = self._service, self._client
        if not service.proxy_protocol:
            return
        check_proxy(service.upgrader, client.peer)
        try:
            client.pass_on(read_proxy_header(client.stream, self._deadline))
        except ProxyHeaderError:
            if service.clients.closing:
                raise ConnectionError(GOING_AWAY) from None
            raise

    def _secure(self) -> None:
        service = self._service
        if service.ssl is None:
            return
        self._stream = session = TLSStream(self._client.stream, service.ssl, server_side=True)
        try:
            session.handshake(self._deadline)
        except TimeoutError:
            raise
        except OSError as error:
            reason = ConnectionError(GOING_AWAY) if service.clients.closing else error
            raise ConnectionError(no_tls(reason)) from None

    def _read_request(self) -> bool:
        """Read the request; return False if it was refused."""
        parser = RequestParser(self._service.upgrader.head_limit)
        request = None
        try:
            while request is None:
                octets = recv_by(self._stream, self._deadline)
                if self._service.clients.closing:
                    raise going_away()
                if not octets:
                    raise ConnectionError(HUNG_UP)
                request = parser.feed(octets)
        except HandshakeError as error:
            self._log(error)
            self._say(answer_octets(None, refusal(error)))
            return False
        self.request, self._early = request, parser.rest
        self._source = self._source_by(self._service.upgrader)
        self._client.told = self._source.address
        return True

    def _serve(self) -> None:
        try:
            response = self._respond()
        except BaseException as error:  # of the application; it may be SystemExit
            refused = self._refused_by(error)
            self._log(refused)
            response = refused.response or refusal(refused)
        else:
            if response is not None and not self._taken:
                self._tell(answered(response.status))
        if response is not None and not self._taken:
            self._take()
            self._say(answer_octets(self.request, response))

    def _refused_by(self, error: BaseException) -> HandshakeError:
        """Return what to answer with after an error; log what is none of ours to answer with."""
        if isinstance(error, HandshakeError) and is_refusal(error):
            return error
        if self._taken:
            raise error
        tell(self._service.logger, logging.ERROR, NO_ANSWER, self.request.shown, error=error)
        return failed_to_answer()

    def _respond(self) -> Response | None:
        """Return the answer, None after a conversation."""
        service, request = self._service, self.request
        if service.http is not None and is_for_http(service.handler, service.http, request):
            response = self._ask(service.http)
            if response is not None or self.conn is not None:
                return response
            if is_websocket_upgrade(request):
                raise no_websocket_at(request)
        source = self._source
        decision = service.upgrader.decide(request, secure=source.secure, host=source.host)
        if isinstance(decision, Refused):
            raise decision.error
        assert service.handler is not None
        conn = open_conn(service.upgrader, self, decision, source, self._answer_by(), self.opened)
        run_handler(conn, partial(service.handler, conn), service.logger, service.clients.others)
        return None

    def _ask(self, http: Http) -> Response | None:
        asked = self.request
        fields = asked.method, asked.target, asked.headers, asked.version
        response = error = None
        try:
            response = http(UpgradableRequest(*fields, handshake=self))
            check_returned("http=", http, response)
        except BaseException as raised:
            if self.conn is None:
                raise
            error = raised
        if self.conn is not None:
            try:
                end_with(self.conn, error, self._service.logger, self._service.clients.others)
            finally:
                error = None  # its traceback holds this frame: a reference cycle
        return response

    def _answer_by(self) -> float | None:
        """Return until when an answer may be written.

        It may come after the deadline: a function that works in a thread cannot be ended.
        """
        return None if self._deadline is None else max(self._deadline, monotonic() + REFUSE_TIMEOUT)

    @property
    def _hung_up(self) -> str:
        return HUNG_UP_ANSWERING if hasattr(self, "request") else HUNG_UP

    def _say(self, octets: bytes) -> None:
        """Send the answer, and give the client a bounded time to hang up."""
        deadline = self._answer_by()
        with suppress(OSError):  # the client is gone, and what became of it was told
            write_by(self._stream, octets, deadline)
            self._stream.end()
            until = linger_until(monotonic(), deadline)
            while recv_by(self._stream, until):
                pass

    def _log(self, error: Exception) -> None:
        self._tell(sentence_of(error), level_of(error))

    def _tell(self, sentence: str, level: int = logging.INFO) -> None:
        request = getattr(self, "request", None)
        target = UNKNOWN if request is None else request.shown
        client = self._client
        level_here = level_for(client.proxied, level)
        tell(self._service.logger, level_here, CLIENT, client.name, target, sentence)
