"""Koko in the place of uvicorn's WebSocket: ``uvicorn app:app --ws koko.uvicorn:Protocol``.

uvicorn makes a ``Protocol`` for each handshake and hands it the head of the request. What the
application says then is in ``_asgi``, what is known of uvicorn in ``_uvicorn_seam``. An accepted
connection is one as ``koko.aio``'s server has it; where Koko has a transport of its own the
socket moves there.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import Transport
from collections.abc import MutableSet, Sequence
from typing import Any, cast

from multidict import CIMultiDict

from koko.adapters import _environment as environment
from koko.adapters._asgi import Conversation
from koko.adapters._asgi_path import Path
from koko.adapters._asgi_scope import Pairs, Scope, read_again, request_of, scope_of, text_of
from koko.adapters._uvicorn_seam import (
    TRACE,
    ClientDisconnected,
    addresses,
    behind_the_head,
    changed,
    client_of,
    get_path_with_query_string,
    get_remote_addr,
    http_on,
    is_ssl,
    let_go,
    moved,
    told_by_proxies,
    version_on,
)
from koko.adapters._uvicorn_shared import Shared, check_options, shared_by
from koko.aio.conn import Conn
from koko.aio.forking import disown_transport
from koko.aio.logs import tell
from koko.aio.tasks import FATAL, was_cancelled
from koko.aio.timers import Timed
from koko.aio.transport import end_half, hasten
from koko.core import lifecycle
from koko.core.connection import Connection
from koko.core.deflate import Compression
from koko.core.receiver import READ_AHEAD
from koko.core.wire import Role
from koko.errors import HandshakeError
from koko.http import Request, Response
from koko.opening.address import written
from koko.opening.handshake import check_headers, refusal, subprotocols
from koko.opening.head import write_response
from koko.serving import GOING_AWAY, UNKNOWN, going_away, level_of, sentence_of
from koko.upgrading import Accepted, Refused

logger = logging.getLogger("uvicorn.error")

OUTCOME = '%s - "WebSocket %s" %s'
UNREADABLE = Request("GET", UNKNOWN, CIMultiDict())  # stands where none could be read
EARLY = 1 << 16  # bytes kept of what a client says before it is accepted


class Protocol(asyncio.Protocol):
    """One WebSocket in uvicorn.

    uvicorn's own options rule what they name. The rest are attributes: environment variables
    set them, or a subclass does.

    Attributes:
        handshake_timeout: seconds that the application may take to accept; 0: no limit.
        close_timeout: seconds to wait for the peer's answer to a Close; 0: it is not waited for.
        shutdown_timeout: the same where uvicorn is shutting down.
        read_ahead: bytes of messages that are read before the application receives them. Up to
            there pings are answered and an end is noticed, though nobody receives.
        compression: how messages are compressed, under ``ws_per_message_deflate``.
        origins: the pages that may connect, as for ``koko.aio.Upgrader``; ``["*"]``: all.
    """

    handshake_timeout = environment.seconds("KOKO_HANDSHAKE_TIMEOUT", 30.0)
    close_timeout = environment.seconds("KOKO_CLOSE_TIMEOUT", 10.0)
    shutdown_timeout = environment.seconds("KOKO_SHUTDOWN_TIMEOUT", 3.0)
    read_ahead = environment.number("KOKO_READ_AHEAD", READ_AHEAD)
    compression: Compression = environment.compression()
    origins: Sequence[str] = environment.origins(["*"])

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        check_options(cls.compression, cls.origins)

    def __init__(
        self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None
    ) -> None:
        self.loop: asyncio.AbstractEventLoop = _loop or asyncio.get_running_loop()
        self.transport: Transport
        self.scope: Scope | None = None
        self._app_state = app_state
        self._server_state = server_state
        self._config = config
        try:
            if not config.loaded:
                config.load()
            self._app = config.loaded_app
            self._connections: MutableSet[Any] = server_state.connections
            self._tasks: MutableSet[asyncio.Task[None]] = server_state.tasks
            self._shared: Shared = shared_by(server_state, self, config)
        except AttributeError as missing:
            raise changed(missing) from missing
        self._begun = False  # the head has come
        self._secure = False
        self._conversation: Conversation | None = None  # until it was a good one
        self._accepted: Accepted
        self._response: Response
        self._keeps_response = False  # it is asked for
        self._request = UNREADABLE
        self._early = b""  # what the client said before it was accepted
        self._path: Path | None = None  # until it is accepted
        self._fed: Path | None = None  # the same, where the socket stays with uvicorn's transport
        self._timer_slot: set[Timed] | None = None

    # What uvicorn and its transport call

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(Transport, transport)
        self._connections.add(self)
        self._trace("made")

    def data_received(self, data: bytes) -> None:
        if self._fed is not None:
            self._fed.data_received(data)
        elif not self._begun:
            self._begun = True
            self._begin(data)
        elif self._conversation is not None and self._path is None:
            self._early += data
            if len(self._early) >= EARLY:
                self.transport.pause_reading()

    def eof_received(self) -> bool | None:
        return None if self._fed is None else self._fed.eof_received()

    def pause_writing(self) -> None:
        if self._fed is not None:
            self._fed.pause_writing()

    def resume_writing(self) -> None:
        if self._fed is not None:
            self._fed.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        """Take note that uvicorn's transport has ended: not ours, where the socket has moved."""
        if self._fed is not None:
            self._fed.connection_lost(error)
        elif self._path is None:
            if self._conversation is not None:
                self._conversation.lose()
            self._leave()

    @property
    def close_timer(self) -> float | None:
        """When the wait for the answer to our Close ends, or None; uvicorn's tests ask for it."""
        path = self._path
        return path.core.due_at if path is not None and path.awaits_close else None

    def shutdown(self) -> None:
        """End the connection, since the server ends: 1012, or 503 where it is not accepted."""
        path, conversation = self._path, self._conversation
        if path is None:
            if conversation is None or conversation.answered:
                self.transport.close()
            else:
                self._answer(refusal(going_away()))
                self.transport.close()
        elif path.core.may_send:
            path.core.close_timeout = min(path.core.close_timeout, self.shutdown_timeout)
            path.start_close(1012, "")
            assert conversation is not None
            conversation.end({"type": "websocket.disconnect", "code": 1012})
        else:
            path.drop(GOING_AWAY)

    # What the conversation calls

    def accept(self, subprotocol: str | None, headers: Pairs) -> Path:
        """Answer with 101 and begin to exchange messages.

        Raises:
            ClientDisconnected: the client is gone.
            ValueError: ``headers`` has a name that only the handshake may write.
        """
        if self.transport.is_closing():
            raise ClientDisconnected("the client is gone")
        response = self._acceptance(subprotocol, headers)
        head = write_response(response)
        self._disarm()
        self._log("[accepted]")
        self._path = path = self._open()
        del self._request, self._accepted  # a third of what an idle connection would hold
        path.transport.write(head)
        if self._early:
            path.data_received(self._early)
            self._early = b""
        if self._keeps_response:
            self._response = response
        return path

    def refuse(self, response: Response) -> None:
        """Answer with anything else."""
        self._log(str(response.status))
        self._answer(response)

    # How it works inside

    def _begin(self, head: bytes) -> None:
        http = http_on(self.transport)
        self._secure = is_ssl(self.transport)
        pairs: Pairs = ()
        try:
            self._request, pairs = _read(head, version_on(http))
            decision = self._shared.upgrader.decide(self._request, secure=self._secure)
            if isinstance(decision, Refused):
                raise decision.error
        except HandshakeError as error:
            return self._deny(error, pairs)
        self._accepted = decision
        self._early = behind_the_head(http, self._request.headers["Sec-WebSocket-Key"].encode())
        self._conversation = Conversation(self, ClientDisconnected)
        self.scope = self._scope(pairs, *addresses(http, self.transport))
        let_go(http)
        self._bound(self.handshake_timeout)
        task = self.loop.create_task(self._run(self._conversation, self.scope))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _deny(self, error: HandshakeError, pairs: Pairs) -> None:
        """Refuse a client without asking the application."""
        client = written(told_by_proxies(self._config, self.transport, pairs) or "")
        tell(logger, level_of(error), OUTCOME, client, self._request.shown, sentence_of(error))
        self._answer(error.response or refusal(error))

    def _scope(self, pairs: Pairs, server: Any, client: Any) -> Scope:
        return scope_of(
            self._request,
            pairs,
            self._config.root_path,
            asgi={"version": self._config.asgi_version, "spec_version": "2.4"},
            scheme="wss" if self._secure else "ws",
            server=server,
            client=client,
            state=self._app_state.copy(),
            extensions={"websocket.http.response": {}, "koko": {"upgrade": self._upgrade}},
        )

    def _upgrade(self, subprotocol: str | None = None, headers: Pairs = ()) -> Conn:
        """Accept the handshake and return the connection: for who asks the scope for it."""
        assert self._conversation is not None
        if self._path is not None:  # the application has accepted it by an event
            assert self.scope is not None
            return Conn(self._path, request_of(self.scope), Response(101), None)
        request, self._keeps_response = self._request, True
        path = self._conversation.upgrade(subprotocol, headers)
        agreed = self._response.headers.get("Sec-WebSocket-Protocol")
        return Conn(path, request, self._response, agreed)

    async def _run(self, conversation: Conversation, scope: Scope) -> None:
        try:
            result = await self._app(scope, conversation.receive, conversation.send)
        except ClientDisconnected:
            pass
        except BaseException as error:
            if was_cancelled(error):
                raise
            tell(logger, logging.ERROR, "Exception in ASGI application\n", error=error)
            if isinstance(error, FATAL):
                raise
        else:
            if not conversation.answered:
                tell(logger, logging.ERROR, "ASGI callable returned without completing handshake.")
            elif result is not None:
                said = "ASGI callable should return None, but returned '%s'."
                tell(logger, logging.ERROR, said, result)
        finally:
            self._end(conversation)

    def _end(self, conversation: Conversation) -> None:
        """End what the application has left open."""
        conversation.fail()
        if self._path is not None and self._path.core.life.state is lifecycle.OPEN:
            self._path.drop("the application left without a Close")
        self.scope = None  # it holds us
        self._part_for_good()

    def _acceptance(self, subprotocol: str | None, headers: Pairs) -> Response:
        said = [*self._accepted.response.headers.items()]
        if subprotocol is not None:
            # §4.2.2: what the client did not offer must not be answered; it would fail.
            if subprotocol in subprotocols(self._request):
                said.append(("Sec-WebSocket-Protocol", subprotocol))
            else:
                said_of_it = "subprotocol %r was not offered; none is agreed on"
                tell(logger, logging.WARNING, said_of_it, subprotocol)
        said += self._defaults()
        if headers:
            said += check_headers(text_of(headers)).items()
        return Response(101, b"", said)

    def _defaults(self) -> list[tuple[str, str]]:
        return self._shared.text_of(self._server_state.default_headers)

    def _open(self) -> Path:
        sock = self.transport.get_extra_info("socket")
        transport = None if self._secure else moved(self.transport, sock)
        shared, agreed = self._shared, self._accepted.agreed
        core = Connection(Role.SERVER, shared.upgrader, agreed, shared.now())
        core.close_timeout, core.read_ahead = self.close_timeout, self.read_ahead
        path = Path(core, transport or self.transport, self.loop, shared.timers)
        path.on_lost = self._leave
        if transport is None:
            self._fed = path
            if sock is not None:
                hasten(sock)  # uvicorn binds those of --workers, --fd and --reload without it
            self.transport.resume_reading()
        else:
            self.transport = transport
            transport.set_protocol(path)
        return path

    def _answer(self, response: Response) -> None:
        """Answer with anything but 101, and end the stream behind it."""
        if self.transport.is_closing():
            return
        said = CIMultiDict(response.headers)
        if response.body:
            said.setdefault("Content-Type", "text/plain; charset=utf-8")
        for name, value in self._defaults():
            said.setdefault(name, value)
        self.transport.write(write_response(Response(response.status, response.body, said)))
        self._bound(self.close_timeout)
        end_half(self.transport)  # closing it with bytes unread would reset the stream

    def _bound(self, timeout: float) -> None:
        self._disarm()
        if timeout:
            self._timer_slot = self._shared.timers.set(self._shared.now() + timeout, self)

    def _disarm(self) -> None:
        if self._timer_slot is not None:
            self._timer_slot.discard(self)
            self._timer_slot = None

    def on_timer(self) -> None:
        """Give up an application that does not accept, or a client that does not hang up."""
        conversation = self._conversation
        if conversation is None or conversation.answered:
            self.transport.abort()
            return
        slow = "the application did not accept within %g s (KOKO_HANDSHAKE_TIMEOUT)"
        tell(logger, logging.WARNING, slow, self.handshake_timeout)
        self.refuse(refusal(HandshakeError(503, "the application took too long to answer")))
        conversation.lose()

    def _leave(self) -> None:
        """Take note that the connection is over."""
        self._disarm()
        self._connections.discard(self)
        self._trace("lost")
        self._part_for_good()

    def _part_for_good(self) -> None:
        """Break the circles of a conversation that is over on both sides, at once."""
        if self.scope is None and self not in self._connections:
            self._conversation = None  # it holds us
            if self._path is not None and self._path.core.ending is not None:
                self._path.core.ending.__traceback__ = None  # whose frames hold it

    def disown(self) -> None:
        """Let go of the socket in a child of fork."""
        if self._path is None:
            return disown_transport(self.transport)
        self._path.disown()

    def _log(self, outcome: str) -> None:
        if self.scope is not None and logger.isEnabledFor(logging.INFO):
            shown = get_path_with_query_string(self.scope).partition("?")[0]  # no token
            tell(logger, logging.INFO, OUTCOME, client_of(self.scope), shown, outcome)

    def _trace(self, what: str) -> None:
        if logger.level <= TRACE:
            client = get_remote_addr(self.transport)
            prefix = "{}:{} - ".format(*client) if client else ""
            tell(logger, TRACE, "%sWebSocket connection %s", prefix, what)


def _read(head: bytes, version: str | None) -> tuple[Request, Pairs]:
    try:
        return read_again(head, version)
    except ValueError:
        raise HandshakeError(400, "the head of the request is not whole") from None
