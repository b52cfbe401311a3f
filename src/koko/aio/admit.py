"""From an accepted connection to an open WebSocket, or to the answer that there is none.

A client that sends a byte now and then gains nothing by it: the request has a deadline.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

from koko.aio.pump import end_half
from koko.core.address import written
from koko.core.handshake import is_websocket_upgrade, refusal
from koko.core.head import Request, RequestParser, Response, write_response
from koko.errors import HandshakeError
from koko.upgrading import Refused

if TYPE_CHECKING:
    from koko.aio.serve import Server

Http = Callable[[Request], Response | Awaitable[Response | None] | None]


class Opening(asyncio.Protocol):
    """One TCP connection while it is not yet, or never will be, a WebSocket."""

    transport: asyncio.Transport

    def __init__(self, server: Server) -> None:
        self._server = server
        self._parser = RequestParser()
        self._timer: asyncio.TimerHandle | None = None
        self._answering: asyncio.Task[None] | None = None
        self._answered = False
        self._accepted_at = asyncio.get_running_loop().time()  # TLS comes between

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        if self._server._turns_away(self.transport):
            return
        self._server._welcome(self)
        self._bound(self._server.upgrader.handshake_timeout, self._accepted_at)
        if self._server._is_closing:
            self.refuse_as_closing()

    def data_received(self, data: bytes) -> None:
        if self._answered or self._answering is not None:
            return  # what follows an answered request is nobody's
        try:
            request = self._parser.feed(data)
        except HandshakeError as error:
            self._refuse(None, error)
            return
        if request is not None:
            self._decide(request)

    def connection_lost(self, error: Exception | None) -> None:
        self._leave()
        if self._answering is not None:
            self._answering.cancel()

    # What the server calls

    def refuse_as_closing(self) -> None:
        """Answer with 503, unless there is an answer already or the application has the word."""
        if not self._answered and self._answering is None:
            self._refuse(None, HandshakeError(503, "the server is going away, try again later"))
            self.transport.close()  # nobody waits here for a client that may never have spoken

    # How it works inside

    def _decide(self, request: Request) -> None:
        http = self._server._http
        if http is None or is_websocket_upgrade(request):
            self._upgrade(request)
        else:
            loop = asyncio.get_running_loop()
            self._answering = loop.create_task(self._answer_http(http, request))

    def _upgrade(self, request: Request) -> None:
        secure = self.transport.get_extra_info("sslcontext") is not None
        try:
            decision = self._server.upgrader.decide(request, secure=secure)
            head = write_response(decision.response)
        except Exception:
            self._fail(request)
            return
        if isinstance(decision, Refused):
            self._log(request, decision.error)
            self._answer(request, decision.response)
            return
        self._leave()
        self.transport.write(head)
        pump = self._server._admit(self.transport, request, decision)
        self.transport.set_protocol(pump)
        if self._parser.rest:
            pump.data_received(self._parser.rest)

    async def _answer_http(self, http: Http, request: Request) -> None:
        try:
            response = http(request)
            if inspect.isawaitable(response):
                response = await response
            if response is not None:
                self._answer(request, response)
                return
        except HandshakeError as error:
            self._refuse(request, error)
        except Exception:
            self._fail(request)
        else:
            self._upgrade(request)

    def _fail(self, request: Request) -> None:
        self._server.logger.exception("could not answer %s", request.target)
        self._refuse(request, HandshakeError(500, "the server failed to answer"))

    def _refuse(self, request: Request | None, error: HandshakeError) -> None:
        self._log(request, error)
        self._answer(request, refusal(error))

    def _answer(self, request: Request | None, response: Response) -> None:
        octets = write_response(response)
        if request is not None and request.method == "HEAD":  # RFC 9110 §9.3.2: no body
            octets = octets[: len(octets) - len(response.body)]
        self._answered = True
        self.transport.write(octets)
        # Our half ends here; closing the whole with bytes unread would reset the stream
        # and could destroy the answer on its way. A timer bounds the wait for the peer's.
        if self._timer is None:
            self._bound(self._server.upgrader.close_timeout)
        end_half(self.transport)

    def _log(self, request: Request | None, error: HandshakeError) -> None:
        peer = written(self.transport.get_extra_info("peername"))
        self._server.logger.info("%s %s: %s", peer, request.target if request else "-", error)

    def _bound(self, timeout: float | None, since: float | None = None) -> None:
        if timeout is not None:
            loop = asyncio.get_running_loop()
            since = loop.time() if since is None else since
            self._timer = loop.call_at(since + timeout, self.transport.abort)

    def _leave(self) -> None:
        self._server._see_off(self)
        if self._timer is not None:
            self._timer.cancel()
