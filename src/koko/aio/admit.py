"""From an accepted connection to an open WebSocket, or to an answer without one.

A client that sends a byte now and then gains nothing by it: the request has a deadline.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

from koko import hung_up, upgrading
from koko.aio import transport as transports
from koko.aio.clients import Clients
from koko.aio.conn import Conn
from koko.aio.handling import Handler, end_with, run_handler
from koko.aio.logs import tell
from koko.aio.protocol import ConnProtocol
from koko.aio.refuse import RefusedClient
from koko.aio.tasks import FATAL, was_cancelled
from koko.aio.timers import Timed, TimerWheel
from koko.aio.transport import end_half, is_secure
from koko.core.connection import Connection
from koko.core.wire import Role
from koko.errors import HandshakeError
from koko.http import Request, Response
from koko.opening.address import written
from koko.opening.forwarded import DIRECT, Source
from koko.opening.handshake import is_refusal, is_websocket_upgrade, refusal
from koko.opening.head import RequestParser, write_response
from koko.opening.proxy_protocol import ProxyHeader
from koko.serving import (
    CLIENT,
    DROP,
    HUNG_UP,
    HUNG_UP_ANSWERING,
    NO_ANSWER,
    REFUSE_TIMEOUT,
    SERVE,
    UNKNOWN,
    Admission,
    answer_octets,
    answered,
    failed_to_answer,
    going_away,
    is_for_http,
    level_for,
    level_of,
    linger_until,
    no_websocket_at,
    sentence_of,
    server_full,
    too_slow,
    took_too_long,
)
from koko.upgrading import Accepted, Refused, UpgradableRequest, Upgrader, source_of

Http = Callable[[Request], Response | Awaitable[Response | None] | None]

has_hung_up: Callable[[int], bool] = hung_up.has_hung_up
if transports.ours is not None:
    has_hung_up = import_module("koko.aio._native_poller").has_hung_up

SERVER = Role.SERVER
_EARLY = 1 << 16  # bytes kept of what a client sends before its request is answered


@dataclass(slots=True)
class Service:
    """What the opening handshake of a client needs of the server."""

    handler: Handler | None
    http: Http | None
    upgrader: Upgrader
    logger: logging.Logger
    clients: Clients
    timers: TimerWheel
    loop: asyncio.AbstractEventLoop
    clock: Callable[[], float]  # for the connections


class OpeningHandshake(asyncio.Protocol):
    """One TCP connection before it is a WebSocket, or if it never becomes one."""

    transport: asyncio.Transport
    request: Request
    _source: Source  # of the request

    def __init__(
        self,
        service: Service,
        peer: Any = None,
        proxied: ProxyHeader | None = None,
        deadline: float | None = None,
        arrived: Callable[[], None] | None = None,
    ) -> None:
        self.conn: Conn | None = None
        self._arrived = arrived  # called when there is a transport
        self._why = ""  # why we dropped it
        self._service = service
        self._peer = peer  # its address, which the transport of a lost socket cannot tell
        self._proxied = proxied
        self._told = None if proxied is None else proxied.source  # the address, by a proxy
        self._parser = RequestParser(service.upgrader.head_limit)
        self._early = b""
        self._timer_slot: set[Timed] | None = None
        self._asked = False  # whether http= was called
        self._answering: asyncio.Task[None] | None = None  # the task in which http= runs
        self._answered = False
        self._unsent = False  # whether some of the answer waits in the transport
        timeout = service.upgrader.handshake_timeout
        if deadline is None and timeout is not None:
            deadline = service.loop.time() + timeout
        self._deadline = deadline  # a PROXY header and the TLS handshake count

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it
        if self._arrived is not None:
            self._arrived()
        clients = self._service.clients
        admission = clients.admission()
        if admission is not SERVE:
            return self._turn_away(admission)
        clients.handshakes.add(self)
        if self._deadline is not None:
            self._timer_slot = self._service.timers.set(self._deadline, self)
        if clients.closing:
            self.refuse_as_closing()

    def data_received(self, data: bytes) -> None:
        if self._answered:
            return  # nothing follows an answered request
        if self._asked:  # the request may still become a connection, and these bytes its frames
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
            self.take_note(request)
            self._early = self._parser.rest
            self._decide()

    def pause_writing(self) -> None:
        self._unsent = True

    def resume_writing(self) -> None:
        self._unsent = False
        self._linger()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._answered:
            why = HUNG_UP_ANSWERING if self._asked else HUNG_UP
            self._tell(self._why or why)
            self._answered = True  # whatever http= still returns
        self._leave()
        if self._answering is not None:
            self._answering.cancel()

    # What the server calls

    def refuse_as_closing(self) -> None:
        """Answer with 503, unless ``http=`` is working on an answer or there is one already."""
        if not (self._answered or self._asked):
            self._refuse(None, going_away())
            transports.close(self.transport)  # do not wait for the client to hang up

    @property
    def name(self) -> str:
        """Its address, for the log; as a trusted proxy tells it, once that is known."""
        return written(self._told or self._address)

    def take_note(self, request: Request) -> None:
        """Note its request, and where that came from."""
        self.request = request
        self._source = self._source_by(self._service.upgrader)
        self._told = self._source.address

    def on_timer(self) -> None:
        """Drop a client that took longer than it may; answer for an ``http=`` that did."""
        timeout = self._service.upgrader.handshake_timeout
        if self._answering is not None and timeout is not None and not self._answered:
            self._deadline = self._service.loop.time() + REFUSE_TIMEOUT  # for the answer
            self._refuse(self.request, took_too_long(timeout))
            self._answering.cancel()
            return
        if not self._answered:
            self._why = too_slow(timeout)
        self.transport.abort()

    # What an Upgrader calls

    def source_for(self, upgrader: upgrading.Upgrader) -> Source:
        """Return where the request came from; the server's proxies hold unless others are named."""
        return self._source if upgrader.trusted_proxies is None else self._source_by(upgrader)

    def open(self, upgrader: Upgrader, accepted: Accepted, source: Source, head: bytes) -> Conn:
        """Make a connection of an accepted request, for the task in which ``http`` runs."""
        if self.conn is None and self._is_gone():
            raise ConnectionResetError("the client is gone")
        conn = self._open(upgrader, accepted, source, head)
        if self._answering is not None:
            self._service.clients.bind(conn, self._answering)
        return conn

    # Internals

    def _turn_away(self, admission: Admission) -> None:
        service = self._service
        if admission is DROP:
            self._why = str(server_full(service.clients.limit))
            self.transport.abort()
            return
        limit = service.upgrader.head_limit
        refused = RefusedClient(self.transport, self, service.clients, limit, service.logger)
        self.transport.set_protocol(refused)

    def _open(self, upgrader: Upgrader, accepted: Accepted, source: Source, head: bytes) -> Conn:
        if self._answered:
            raise RuntimeError("this request has been upgraded or answered already")
        service, transport = self._service, self.transport
        if service.clients.closing:
            raise going_away()
        self._answered = True
        self._leave()
        transport.write(head)
        core = Connection(SERVER, upgrader, accepted.agreed, service.clock())
        protocol = ConnProtocol(core, transport, service.loop, service.timers)
        response, subprotocol = accepted.response, accepted.subprotocol
        address = source.address or self._peer  # None: the transport knows it
        self.conn = conn = Conn(protocol, self.request, response, subprotocol, address)
        service.clients.handlers[conn] = None  # counted from now on
        transport.set_protocol(protocol)
        transport.resume_reading()
        if self._early:
            protocol.data_received(self._early)
        return conn

    def _source_by(self, upgrader: upgrading.Upgrader) -> Source:
        secure = is_secure(self.transport)
        if upgrader.trusted_proxies is None and self._proxied is None:
            return DIRECT[secure]
        return source_of(upgrader, self.request, self._address, secure, self._proxied)

    @property
    def _address(self) -> Any:
        known = self._peer  # "" of a Unix socket
        return self.transport.get_extra_info("peername") if known is None else known

    def _is_gone(self) -> bool:
        """Tell whether the client has hung up, perhaps while we slept: then run no handler."""
        transport = self.transport
        if not transport.is_closing() and has_hung_up(transports.descriptor_of(transport)):
            self._why = HUNG_UP_ANSWERING
            transport.abort()
            return True
        return transport.is_closing()

    def _decide(self) -> None:
        service = self._service
        http = service.http
        if http is None or not is_for_http(service.handler, http, self.request):
            return self._upgrade()
        self._asked = True
        self._answering = service.loop.create_task(self._ask(http))
        self._answering.add_done_callback(self._ensure_answered)
        if self.conn is not None:  # an eager task has upgraded before create_task() returned
            service.clients.bind(self.conn, self._answering)

    def _upgrade(self) -> None:
        service = self._service
        try:
            if service.handler is None and is_websocket_upgrade(self.request):
                raise no_websocket_at(self.request)
            source = self._source
            decision = service.upgrader.decide(self.request, secure=source.secure, host=source.host)
            if isinstance(decision, Refused):
                raise decision.error
            head = write_response(decision.response)
        except BaseException as error:
            self._refuse_for(error)
        else:
            if not self._is_gone():
                self._serve(self._open(service.upgrader, decision, source, head))

    def _serve(self, conn: Conn) -> None:
        """Run the handler of a connection, in a task of its own."""
        service, clients = self._service, self._service.clients
        assert service.handler is not None
        try:
            running = run_handler(conn, service.handler, service.logger, clients.others)
            task = service.loop.create_task(running)
        except BaseException:  # an eager task has begun inside create_task()
            clients.remove(conn)
            raise
        clients.bind(conn, task)

    async def _ask(self, http: Http) -> None:
        asked = self.request
        fields = asked.method, asked.target, asked.headers, asked.version
        response = error = None
        try:
            answer = http(UpgradableRequest(*fields, handshake=self))
            response = await answer if inspect.isawaitable(answer) else answer
        except BaseException as raised:
            error = raised
        try:
            if self.conn is not None:
                logger, others = self._service.logger, self._service.clients.others
                await end_with(self.conn, error, logger, others)
            elif error is not None:
                self._refuse_for(error)
            else:
                self._conclude(response)
        finally:
            error = None  # its traceback holds this frame: a reference cycle

    def _ensure_answered(self, task: asyncio.Task[None]) -> None:
        """Drop a client whose task never began, or was cancelled."""
        if not self._answered:
            self.transport.abort()

    def _conclude(self, response: Response | None) -> None:
        if self._answered:
            return  # it came too late
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
        """Answer after an error of the application; raise cancellation and fatal errors again."""
        if isinstance(error, HandshakeError) and is_refusal(error):
            return self._refuse(self.request, error)
        if was_cancelled(error):
            raise error
        if isinstance(error, OSError) and self.transport.is_closing():
            return  # the client is gone, and ``connection_lost`` logs that
        self._fail(error)
        if isinstance(error, FATAL):
            raise error

    def _fail(self, error: BaseException) -> None:
        tell(self._service.logger, logging.ERROR, NO_ANSWER, self.request.shown, error=error)
        self._refuse(self.request, failed_to_answer())

    def _refuse(self, request: Request | None, error: HandshakeError) -> None:
        if self._answered:
            return
        self._tell(sentence_of(error), level_of(error))
        self._answer(request, error.response or refusal(error))

    def _answer(self, request: Request | None, response: Response) -> None:
        octets = answer_octets(request, response)
        self._answered = True
        transport = self.transport
        transport.resume_reading()
        transport.set_write_buffer_limits(0)  # resume_writing then means that all has left
        transport.write(octets)
        if not self._unsent:
            self._linger()
        elif self._deadline is None:
            self._rearm(self._service.loop.time() + self._service.upgrader.close_timeout)
        end_half(transport)  # only our half: see ``linger_until``

    def _linger(self) -> None:
        """Give the client a bounded time to hang up, now that its answer has left."""
        if self._answered:
            self._rearm(linger_until(self._service.loop.time(), self._deadline))

    def _rearm(self, when: float) -> None:
        if self._timer_slot is not None:
            self._timer_slot.discard(self)
        self._timer_slot = self._service.timers.set(when, self)

    def _tell(self, sentence: str, level: int = logging.INFO) -> None:
        request = getattr(self, "request", None)
        target = UNKNOWN if request is None else request.shown
        level_here = level_for(self._proxied, level)
        tell(self._service.logger, level_here, CLIENT, self.name, target, sentence)

    def _leave(self) -> None:
        self._service.clients.end_handshake(self)
        if self._timer_slot is not None:
            self._timer_slot.discard(self)
