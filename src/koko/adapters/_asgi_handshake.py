"""The opening handshake inside an ASGI server: from its scope to a ``Conn``, or to a refusal.

The server has checked the head and writes the answer; who may connect is decided here.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from multidict import CIMultiDict

from koko.adapters import _starlette as starlette
from koko.adapters._asgi_conn import AsgiConn
from koko.adapters._asgi_path import EventPath
from koko.adapters._asgi_scope import Event, Scope, can_deny, octets_of, request_of
from koko.adapters._asgi_transport import REPORT, EventTransport, Receive, Send
from koko.aio.conn import Conn
from koko.aio.tasks import clock_of
from koko.aio.upgrade import Upgrader
from koko.core.connection import Connection
from koko.core.control import shorten
from koko.core.options import ConnectionOptions
from koko.core.wire import Role
from koko.errors import HandshakeError
from koko.http import Headers, Response
from koko.opening.address import written
from koko.opening.handshake import refusal
from koko.serving import HUNG_UP_ANSWERING
from koko.upgrading import Accepted, Refused, source_of

TAKEN = "koko.upgraded"  # in a scope: it has a ``Conn``; a second one would take its messages
LATE = "the WebSocket was accepted already: give {} to accept()"


class Side:
    """The application's side of one WebSocket, before it is a ``Conn``."""

    accepted = False
    _connected = False

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.request = request_of(scope)
        self.secure = scope.get("scheme") in ("wss", "https")
        self.peer = _address(scope.get("client"))

    @property
    def name(self) -> str:
        """The client's address, for the log."""
        return written(self.peer)

    async def connect(self) -> None:
        """Receive the first event, if nobody has.

        Raises:
            OSError: the client is gone.
            RuntimeError: others have received already, or there is a connection already.
        """
        if TAKEN in self.scope:
            raise RuntimeError(
                "upgrade() was entered already for this WebSocket; it has one connection"
            )
        if self._connected:
            return
        event = await self.receive()
        if event["type"] == "websocket.disconnect":
            raise ConnectionResetError(HUNG_UP_ANSWERING)
        if event["type"] != "websocket.connect":
            raise RuntimeError(
                f"the first event was {event['type']!r}: scope, receive and send are wanted as "
                "the server gave them, before anything was received; with a framework other than "
                "Starlette and FastAPI call upgrade() in the place of its accept()"
            )

    async def accept(self, accepted: Accepted) -> None:
        headers = CIMultiDict(accepted.response.headers)
        headers.popall("Sec-WebSocket-Protocol", None)
        subprotocol = accepted.subprotocol
        said: Event = {"type": "websocket.accept", "headers": octets_of(headers)}
        if subprotocol is not None:
            said["subprotocol"] = subprotocol
        await self._send(said)

    async def refuse(self, error: HandshakeError) -> None:
        """Answer a client that is refused, unless it is gone."""
        with suppress(OSError):
            if self.accepted:
                said: Event = {"code": starlette.POLICY, "reason": shorten(error.reason)}
                await self._send({"type": "websocket.close", **said})
            elif can_deny(self.scope):
                await self._deny(error.response or refusal(error))
            else:  # that is a bare 403
                await self._send({"type": "websocket.close"})

    async def _deny(self, response: Response) -> None:
        start = {"status": response.status, "headers": octets_of(response.headers)}
        await self._send({"type": "websocket.http.response.start", **start})
        with suppress(Exception):  # so granian tells, and not before, that the client is gone
            await self.send({"type": "websocket.http.response.body", "body": response.body})

    async def close(self, event: Event) -> None:
        """Send a Close.

        daphne sends no code but 1000 and those of applications, and raises for the others. The
        peer must not be left without a Close: it gets one that every server sends.
        """
        try:
            await self.send(event)
        except OSError:  # the peer is gone
            raise
        except Exception:
            self.not_closed()
            await self.send({"type": "websocket.close", "code": 1000, "reason": ""})

    async def _send(self, event: Event) -> None:
        """Send an event of the handshake.

        Raises:
            OSError: the client is gone. granian and gunicorn raise something else; but then they
                report that it has gone as well.
        """
        try:
            await self.send(event)
        except OSError:
            raise
        except Exception as error:
            if not await self._hears_of_the_end():
                raise
            raise ConnectionResetError(HUNG_UP_ANSWERING) from error

    async def _hears_of_the_end(self) -> bool:
        with suppress(Exception):
            async with asyncio.timeout(REPORT):
                return bool((await self.receive())["type"] == "websocket.disconnect")
        return False

    def not_closed(self) -> None:
        """Take note that the server did not take a Close."""

    def ended(self) -> None:
        """Take note that the connection is over."""

    def closes(self, error: BaseException | None) -> bool:
        """Tell whether the framework closes with a code of its own after this exception."""
        return False


class StarletteSide(Side):
    """The same of a ``WebSocket`` of Starlette's, whose states stay right."""

    def __init__(self, websocket: Any) -> None:
        super().__init__(websocket.scope, websocket.receive, websocket.send)
        self._websocket = websocket
        self._connected = starlette.has_connected(websocket)
        self.accepted = starlette.has_accepted(websocket)

    async def refuse(self, error: HandshakeError) -> None:
        raise starlette.answered_by_it(error, self.scope, self.accepted)

    def not_closed(self) -> None:
        starlette.note_open(self._websocket)

    def ended(self) -> None:
        starlette.note_end(self._websocket)

    def closes(self, error: BaseException | None) -> bool:
        return starlette.is_answered_by_it(error)


def side_of(given: Any) -> Side:
    """Return the application's side of what it was given by its server or framework.

    Raises:
        TypeError: it is no WebSocket of ASGI.
    """
    if starlette.is_starlettes(given):
        return StarletteSide(given)
    if isinstance(given, tuple) and len(given) == 3:
        scope, receive, send = given
    else:
        scope, receive, send = (getattr(given, name, None) for name in ("scope", "receive", "send"))
    if not (hasattr(scope, "get") and callable(receive) and callable(send)):
        raise TypeError(
            f"upgrade() got {type(given).__name__!r}, expected a WebSocket of Starlette or "
            "FastAPI, or (scope, receive, send) of ASGI"
        )
    if scope.get("type") != "websocket":
        raise TypeError(f"upgrade() got a scope of type {scope.get('type')!r}, not 'websocket'")
    return Side(scope, receive, send)


def decide(
    side: Side, upgrader: Upgrader, subprotocol: str | None, headers: Headers | None
) -> Accepted:
    """Return what is to be answered to a client that may connect.

    Raises:
        HandshakeError: it may not; the response is in it.
        ValueError: something is given that can no longer be said.
    """
    if side.accepted:
        late = {
            "headers=": headers,
            "the upgrader's subprotocols": upgrader.subprotocols or upgrader.select_subprotocol,
        }
        for what, given in late.items():
            if given:
                raise ValueError(LATE.format(what))
    extra = CIMultiDict(headers or ())
    if subprotocol is not None and not side.accepted:
        extra["Sec-WebSocket-Protocol"] = subprotocol
    request = side.request
    source = source_of(upgrader, request, side.peer, side.secure)
    if source.address is not None:
        side.peer = source.address
    decision = upgrader.decide_checked(request, extra, secure=source.secure, host=source.host)
    if isinstance(decision, Refused):
        raise decision.error
    if side.accepted:
        return Accepted(Response(101), subprotocol, None)
    return decision


def connection(side: Side, upgrader: Upgrader, accepted: Accepted) -> Conn:
    """Return the connection of a WebSocket that was accepted; Koko's own, under its class."""
    side.scope[TAKEN] = True
    native = (side.scope.get("extensions") or {}).get("koko", {}).get("upgrade")
    if native is not None:
        return _native(native(), side, upgrader, accepted)
    extra = {"sockname": _address(side.scope.get("server")), "peername": side.peer}
    transport = EventTransport(side.receive, side.send, side.close, extra)
    loop = asyncio.get_running_loop()
    options = ConnectionOptions(
        read_limit=upgrader.read_limit, close_timeout=upgrader.close_timeout, ping_interval=None
    )
    core = Connection(Role.SERVER, options, None, clock_of(loop)())
    path = EventPath(core, transport, loop)
    path.on_lost = None
    conn = AsgiConn(path, side.request, accepted.response, accepted.subprotocol, side.peer)
    transport.begin(path)
    return conn


def _native(conn: Conn, side: Side, upgrader: Upgrader, accepted: Accepted) -> Conn:
    conn.request, conn.remote_address = side.request, side.peer or conn.remote_address
    conn.response, conn.subprotocol = accepted.response, accepted.subprotocol
    limits = [limit for limit in (conn.read_limit, upgrader.read_limit) if limit is not None]
    conn.read_limit = min(limits, default=None)
    conn._core.close_timeout = min(conn._core.close_timeout, upgrader.close_timeout)
    return conn


def _address(given: Any) -> Any:
    """Return an address of a scope as ``socket.getpeername`` gives it."""
    if not given:
        return None
    host, port, *_ = given
    return host, int(port or 0)  # granian's is a str, and a Unix socket has none
