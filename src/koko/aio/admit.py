"""From an accepted connection to an open WebSocket, or to the answer that there is none.

A client that sends a byte now and then gains nothing by it: the request has a deadline.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from koko.aio.handling import end_with
from koko.aio.logs import tell
from koko.aio.tasks import FATAL, was_cancelled
from koko.aio.timers import Timed
from koko.aio.transport import close, end_half
from koko.errors import HandshakeError
from koko.http import Request, Response
from koko.hung_up import has_hung_up
from koko.opening.address import written
from koko.opening.handshake import is_websocket_upgrade, refusal
from koko.opening.head import RequestParser, write_response
from koko.places import full
from koko.serving import (
    CLIENT,
    HUNG_UP,
    HUNG_UP_ANSWERING,
    NO_ANSWER,
    UNKNOWN,
    answered,
    level_of,
    sentence_of,
    too_slow,
)
from koko.upgrading import Accepted, Incoming, Refused, Upgrader

if TYPE_CHECKING:
    from koko.aio.conn import Conn
    from koko.aio.serve import Server

Http = Callable[[Request], Response | Awaitable[Response | None] | None]

_EARLY = 1 << 16  # bytes kept of what a client says while its request is being answered


class Opening(asyncio.Protocol):
    """One TCP connection while it is not yet, or never will be, a WebSocket."""

    transport: asyncio.Transport
    request: Request

    def __init__(self, server: Server, peer: Any = None) -> None:
        self.conn: Conn | None = None
        self._why = ""  # it was dropped
        self._server = server
        self._peer = peer  # its address, where the transport may come too late to know it
        self._parser = RequestParser(server.upgrader.head_limit)
        self._early = b""
        self._timer_slot: set[Timed] | None = None
        self._asked = False  # the application is
        self._answering: asyncio.Task[None] | None = None  # who asks it, once that is known
        self._answered = False
        self._accepted_at = asyncio.get_running_loop().time()  # TLS comes between

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        if self._server._turns_away(self):
            self._why = str(full(self._server.max_connections))
            return
        self._server._welcome(self)
        self._bound(self._server.upgrader.handshake_timeout, self._accepted_at)
        if self._server._is_closing:
            self.refuse_as_closing()

    def data_received(self, data: bytes) -> None:
        if self._answered:
            return  # what follows an answered request is nobody's
        if self._asked:  # but this one may still become a connection
            self._early += data
            if len(self._early) >= _EARLY:
                self.transport.pause_reading()
            return
        try:
            request = self._parser.feed(data)
        except HandshakeError as error:
            self._refuse(None, error)
            return
        if request is not None:
            self.request = request
            self._early = self._parser.rest
            self._decide()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._answered:
            why = HUNG_UP_ANSWERING if self._asked else HUNG_UP
            self._tell(self._why or why)
        self._leave()
        if self._answering is not None:
            self._answering.cancel()

    # What the server calls

    def refuse_as_closing(self) -> None:
        """Answer with 503, unless there is an answer already or the application has the word."""
        if not (self._answered or self._asked):
            self._refuse(None, _going_away())
            close(self.transport)  # nobody waits here for a client that may never have spoken

    @property
    def peer(self) -> str:
        """Its address, for the log."""
        return written(self.transport.get_extra_info("peername") or self._peer)

    # The door of its request

    @property
    def secure(self) -> bool:
        return self.transport.get_extra_info("sslcontext") is not None

    def open(self, upgrader: Upgrader, accepted: Accepted, head: bytes) -> Conn:
        """Make a connection of an accepted request, for the task in which ``http`` runs."""
        if not self._answered and self._is_gone():
            raise ConnectionResetError("the client is gone")
        conn = self._open(upgrader, accepted, head)
        if self._answering is not None:
            self._server._own(conn, self._answering)
        return conn

    # How it works inside

    def _open(self, upgrader: Upgrader, accepted: Accepted, head: bytes) -> Conn:
        if self._answered:
            raise RuntimeError("this request has been upgraded or answered already")
        if self._server._is_closing:
            raise _going_away()
        self._answered = True
        self._leave()
        self.transport.write(head)
        protocol, self.conn = self._server._admit(self.transport, upgrader, self.request, accepted)
        self.transport.set_protocol(protocol)
        self.transport.resume_reading()
        if self._early:
            protocol.data_received(self._early)
        return self.conn

    def _is_gone(self) -> bool:
        """Tell whether the client hung up, perhaps while we slept; then nobody need be asked."""
        sock = self.transport.get_extra_info("socket")
        if not self.transport.is_closing() and sock is not None and has_hung_up(sock.fileno()):
            self._why = HUNG_UP_ANSWERING
            self.transport.abort()
        return self.transport.is_closing()

    def _decide(self) -> None:
        server = self._server
        if server._http is None or (
            server.handler is not None and is_websocket_upgrade(self.request)
        ):
            self._upgrade()
        else:
            self._asked = True
            self._answering = asyncio.get_running_loop().create_task(self._ask(server._http))
            self._answering.add_done_callback(self._see_through)
            if self.conn is not None:  # an eager task has upgraded before it was known
                server._own(self.conn, self._answering)

    def _upgrade(self) -> None:
        server = self._server
        try:
            if server.handler is None and is_websocket_upgrade(self.request):
                raise HandshakeError(404, f"there is no WebSocket at {self.request.path!r}")
            decision = server.upgrader.decide(self.request, secure=self.secure)
            if isinstance(decision, Refused):
                raise decision.error
            head = write_response(decision.response)
        except BaseException as error:
            self._refuse_for(error)
        else:
            if not self._is_gone():
                server._serve(self._open(server.upgrader, decision, head))

    async def _ask(self, http: Http) -> None:
        asked = self.request
        request = Incoming(asked.method, asked.target, asked.headers, asked.version, door=self)
        response = error = None
        try:
            answer = http(request)
            response = await answer if inspect.isawaitable(answer) else answer
        except BaseException as raised:
            error = raised
        try:
            if self.conn is not None:
                logger, others = self._server.logger, self._server._others
                await end_with(self.conn, error, logger, others)
            elif error is not None:
                self._refuse_for(error)
            else:
                self._conclude(response)
        finally:
            error = None  # it holds this frame

    def _see_through(self, task: asyncio.Task[None]) -> None:
        """Leave nobody without an answer whose task never began, or was cancelled."""
        if not self._answered:
            self.transport.abort()

    def _conclude(self, response: Response | None) -> None:
        if response is None:
            self._upgrade()
        else:
            try:
                self._answer(self.request, response)
            except Exception as failure:
                self._fail(failure)
            else:
                self._tell(answered(response.status))

    def _refuse_for(self, error: BaseException) -> None:
        """Answer after what the application raised; raise on what is not its own."""
        if isinstance(error, HandshakeError):
            return self._refuse(self.request, error)
        if was_cancelled(error):
            raise error
        if isinstance(error, OSError) and self.transport.is_closing():
            return  # there is nobody to answer, and ``connection_lost`` says so
        self._fail(error)
        if isinstance(error, FATAL):
            raise error

    def _fail(self, error: BaseException) -> None:
        logger, target = self._server.logger, self.request.shown
        tell(logger, logging.ERROR, NO_ANSWER, target, error=error)
        self._refuse(self.request, HandshakeError(500, "the server failed to answer"))

    def _refuse(self, request: Request | None, error: HandshakeError) -> None:
        self._log(error)
        self._answer(request, error.response or refusal(error))

    def _answer(self, request: Request | None, response: Response) -> None:
        octets = write_response(response)
        if request is not None and request.method == "HEAD":  # RFC 9110 §9.3.2: no body
            octets = octets[: len(octets) - len(response.body)]
        self._answered = True
        self.transport.resume_reading()
        self.transport.write(octets)
        # Our half ends here; closing the whole with bytes unread would reset the stream
        # and could destroy the answer on its way. A timer bounds the wait for the peer's.
        if self._timer_slot is None:
            self._bound(self._server.upgrader.close_timeout)
        end_half(self.transport)

    def _log(self, error: HandshakeError) -> None:
        self._tell(sentence_of(error), level_of(error))

    def _tell(self, sentence: str, level: int = logging.INFO) -> None:
        request = getattr(self, "request", None)
        target = UNKNOWN if request is None else request.shown
        tell(self._server.logger, level, CLIENT, self.peer, target, sentence)

    def _bound(self, timeout: float | None, since: float | None = None) -> None:
        if timeout is not None:
            since = asyncio.get_running_loop().time() if since is None else since
            self._timer_slot = self._server._timers.set(since + timeout, self)

    def on_timer(self) -> None:
        """Drop a client that took longer than it may."""
        self._why = too_slow(self._server.upgrader.handshake_timeout)
        self.transport.abort()

    def _leave(self) -> None:
        self._server._forget(self)
        if self._timer_slot is not None:
            self._timer_slot.discard(self)


def _going_away() -> HandshakeError:
    return HandshakeError(503, "the server is going away, try again later")
