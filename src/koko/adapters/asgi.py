"""A WebSocket as an ASGI application, and a ``Conn`` inside one, in any server that speaks ASGI.

Under uvicorn with ``--ws koko.uvicorn:Protocol`` the connection is Koko's own. Elsewhere the
server reads and writes the frames: docs/asgi.md says what only the server decides.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import update_wrapper
from inspect import isawaitable
from types import TracebackType
from typing import Any, NoReturn

from koko.adapters._asgi_conn import check_options
from koko.adapters._asgi_handshake import Side, connection, decide, side_of
from koko.adapters._asgi_path import EventPath
from koko.adapters._asgi_scope import Event, Scope, octets_of, request_of
from koko.adapters._asgi_transport import EventTransport, Receive, Send
from koko.aio.conn import Conn
from koko.aio.handling import Handler, run_handler
from koko.aio.logs import tell
from koko.aio.tasks import FATAL, was_cancelled
from koko.aio.upgrade import Upgrader
from koko.errors import HandshakeError, forget_frames
from koko.http import Headers
from koko.misuse import check_face, not_awaitable, refuse_plain
from koko.opening.handshake import check_request, is_refusal, refusal
from koko.serving import (
    CLIENT,
    HUNG_UP_ANSWERING,
    NO_ANSWER,
    check_limit,
    close_code_of,
    failed_to_answer,
    level_of,
    sentence_of,
    server_full,
)

_LOGGER = logging.getLogger("koko.server")
LEAVE = 1.0  # seconds that the peer of a cancelled handler has to answer our Close


def websocket(
    upgrader: Upgrader | None = None, *, max_connections: int | None = None
) -> Callable[[Handler], Application]:
    """Make an ASGI application of ``handler(conn)``, the one that ``koko.aio.serve`` runs.

    The handler ends as it does there. The application answers the lifespan of a server that
    runs it alone, and HTTP requests with 426; a framework may mount it, too. There may be
    ``max_connections`` conversations; others are refused with 503.
    """
    checked = _checked("websocket()", upgrader)
    limit = check_limit(max_connections)
    return lambda handler: Application(handler, checked, limit)


def upgrade(
    websocket: Any,
    upgrader: Upgrader | None = None,
    *,
    subprotocol: str | None = None,
    headers: Headers | None = None,
) -> Upgrading:
    """Make a connection inside an endpoint, for ``async with``.

    ``websocket`` is what Starlette or FastAPI gave, accepted or not, or ``(scope, receive,
    send)`` as the server gave them. At the end of the block the connection is closed as by
    ``async with conn``, and a ``CloseError`` does not leave it: that is an ordinary end.

    ``subprotocol`` is the one to agree on, if the client offers it; of a ``websocket`` that was
    accepted, the one that ``accept()`` named. ``headers`` are added to the 101.

    Raises:
        HandshakeError: the client is refused. Starlette and FastAPI answer it where an endpoint
            lets it pass; elsewhere it was answered already.
        OSError: the client is gone.
        ValueError: ``headers`` has a name that only the handshake may write, or it was accepted
            already and nothing can be added.
    """
    return Upgrading(side_of(websocket), _checked("upgrade()", upgrader), subprotocol, headers)


def _checked(call: str, upgrader: Upgrader | None) -> Upgrader:
    check_face(call, "upgrader", upgrader, Upgrader)
    if upgrader is None:
        return Upgrader()
    check_options(call, upgrader)
    return upgrader


class Upgrading:
    """A connection being opened inside an endpoint."""

    _conn: Conn

    def __init__(
        self, side: Side, upgrader: Upgrader, subprotocol: str | None, headers: Headers | None
    ) -> None:
        self._side = side
        self._upgrader = upgrader
        self._answer = (subprotocol, headers)

    def __await__(self) -> NoReturn:
        raise TypeError("upgrade() is a block, which closes: async with upgrade(websocket) as conn")

    async def __aenter__(self) -> Conn:
        self._conn = await _open(self._side, self._upgrader, *self._answer)
        return self._conn

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        conn, ordinary = self._conn, close_code_of(error) == 1000
        try:
            if self._side.closes(error):
                await _give_back(conn)
            else:
                code = 1000 if ordinary else 1011 if isinstance(error, Exception) else 1001
                await conn.close(code)
                self._side.ended()
        except BaseException:
            conn.abort()  # cancelled while it waited
            raise
        finally:
            await _leave(conn)
        return ordinary


class Application:
    """An ASGI application of one handler."""

    def __init__(self, handler: Handler, upgrader: Upgrader, limit: int | None) -> None:
        refuse_plain("websocket()", "handler", handler)
        update_wrapper(self, handler)
        self._handler = handler
        self._upgrader = upgrader
        self._limit = limit
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "websocket":
                await self._serve(Side(scope, receive, send))
            case "http":
                await _answer_http(scope, send)
            case "lifespan":
                await _live(receive, send)
            case other:
                raise RuntimeError(f"an ASGI scope of type {other!r} is not known here")

    async def _serve(self, side: Side) -> None:
        full = self._limit is not None and self._open >= self._limit
        self._open += 1
        try:
            conn = await self._admit(side, server_full(self._limit) if full else None)
            if conn is not None:
                try:
                    await run_handler(conn, self._handle, _LOGGER, self._others)
                finally:
                    await _leave(conn)
        finally:
            self._open -= 1

    async def _handle(self, conn: Conn) -> None:
        """Run the handler; where that is cancelled, since the server stops, the peer is told."""
        result = self._handler(conn)
        if not isawaitable(result):
            raise not_awaitable("handler", self._handler, result)
        try:
            await result
        except asyncio.CancelledError as error:
            if was_cancelled(error):
                await conn.close(1001, timeout=LEAVE)
            raise

    def _others(self) -> int:
        return self._open - 1

    async def _admit(self, side: Side, refused: HandshakeError | None) -> Conn | None:
        try:
            return await _open(side, self._upgrader, refused=refused)
        except OSError:  # each server has words of its own for it, or none
            target = side.request.shown
            tell(_LOGGER, logging.INFO, CLIENT, side.name, target, HUNG_UP_ANSWERING)
        except BaseException as error:
            if is_refusal(error):
                return None  # it was answered
            if was_cancelled(error):
                raise
            tell(_LOGGER, logging.ERROR, NO_ANSWER, side.request.shown, error=error)
            await side.refuse(failed_to_answer())
            if isinstance(error, FATAL):
                raise
        return None


async def _open(
    side: Side,
    upgrader: Upgrader,
    subprotocol: str | None = None,
    headers: Headers | None = None,
    refused: HandshakeError | None = None,
) -> Conn:
    """Shake hands; a refusal is logged, answered and raised."""
    await side.connect()
    try:
        if refused is not None:
            raise refused
        accepted = decide(side, upgrader, subprotocol, headers)
    except HandshakeError as error:
        if not is_refusal(error):
            raise
        sentence = sentence_of(error)
        tell(_LOGGER, level_of(error), CLIENT, side.name, side.request.shown, sentence)
        await side.refuse(error)
        raise
    if not side.accepted:
        await side.accept(accepted)
    return connection(side, upgrader, accepted)


async def _give_back(conn: Conn) -> None:
    """Leave a connection open, for a framework that closes it with a code of its own."""
    path = conn._protocol
    if isinstance(path, EventPath):
        path.drop("the framework closes it")
        await conn.wait_closed()


async def _leave(conn: Conn) -> None:
    forget_frames(conn.ending)
    transport = conn.transport
    if isinstance(transport, EventTransport):
        await transport.leave()


async def _answer_http(scope: Scope, send: Send) -> None:
    error = HandshakeError(426, "there is a WebSocket here, and the server passed HTTP on")
    try:
        check_request(request_of(scope))
    except HandshakeError as said:
        error = said
    response = refusal(error)
    head: Event = {"status": response.status, "headers": octets_of(response.headers)}
    await send({"type": "http.response.start", **head})
    await send({"type": "http.response.body", "body": response.body})


async def _live(receive: Receive, send: Send) -> None:
    """Answer a server that runs this application alone; it ends the conversations itself."""
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return
