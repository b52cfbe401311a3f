"""Serves an ASGI application to clients in memory: one end of a socket pair for each.

It is what a server would be, without a port: it reads the request, runs the application with
the scope, and turns its events into frames. What the application may say when is in
``koko.adapters._asgi``, as under uvicorn.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from dataclasses import replace
from typing import cast

from koko.adapters._asgi import Conversation
from koko.adapters._asgi_path import Path
from koko.adapters._asgi_scope import Pairs, Scope, scope_of, text_of
from koko.aio import transport as transports
from koko.aio.tasks import clock_of, not_ours, was_cancelled
from koko.aio.timers import TimerWheel
from koko.aio.upgrade import Upgrader
from koko.core import lifecycle
from koko.core.connection import Connection
from koko.core.wire import Role
from koko.dialing import DialerOptions, NetDial, check_dialer_options
from koko.errors import Close, HandshakeError
from koko.http import Request, Response
from koko.opening.handshake import refusal
from koko.opening.head import RequestParser, write_response
from koko.testing._application import Application, call
from koko.testing._asgi_lifespan import Lifespan
from koko.testing._limit import ENDS, LEAVE, ends, overdue, shortest
from koko.upgrading import Refused

FAILED = (1001, 1011)  # what a Conn closes with whose block was interrupted or has failed


class ClientDisconnected(OSError):
    """Raised to an application that sends after the end of its client."""


class AsgiServer:
    """Serves one application, in the event loop that it was made in.

    Args:
        app: the application.
        timeout: seconds that a connection may last, and that each wait for the application may.
        client: the address that the scopes name.

    Attributes:
        errors: what the application has raised, the first one first.
    """

    def __init__(self, app: Application, timeout: float | None, client: tuple[str, int]) -> None:
        self.app = app
        self.timeout = timeout
        self.client = client
        self.loop = asyncio.get_running_loop()
        self.timers = TimerWheel(self.loop)
        self.clock = clock_of(self.loop)
        # An application may get a message of any size, from any page: as with other servers.
        self.upgrader = Upgrader(origins="*", compression=True, close_timeout=LEAVE)
        self.lifespan = Lifespan(app, timeout)
        self.errors: list[BaseException] = []
        self.visits: set[Visit] = set()
        self.empty = asyncio.Event()  # set when the last of them has left
        self.tasks: set[asyncio.Task[None]] = set()  # in which the application runs
        self._over = False

    async def start(self) -> None:
        """Run the application's startup."""
        await self.lifespan.startup()

    def options_of(self, options: DialerOptions, connect: NetDial) -> DialerOptions:
        """Return the options of a dial that ends here, by ``connect``.

        Raises:
            RuntimeError: the application has ended.
            TypeError: there is no such option.
        """
        if self._over:
            raise RuntimeError("dial() was called behind the end of the asgi() block")
        check_dialer_options("dial()", options)
        return {**options, "net_dial": connect, "proxy": None}

    async def connect(self, *_: object) -> socket.socket:
        """Begin to serve a client; return the client's end of the connection."""
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setblocking(False)
        try:
            await transports.attach(ours, Visit(self))
        except BaseException:
            theirs.close()
            raise
        return theirs

    async def stop(self, ended_by: BaseException | None = None) -> None:
        """End every connection as a server that stops, then run the application's shutdown.

        ``ended_by`` is the error that ended the block: then the application has at most
        ``LEAVE`` seconds to go, and nothing waits for clients. A cancellation or an interrupt
        is passed on: nothing is raised here in its place.

        Raises:
            TimeoutError: the application went on for longer than it may.
            Exception: what it has raised.
        """
        self._over = True
        try:
            await self._stop(ended_by is not None)
        except ENDS:
            await self._drop()
            raise
        except BaseException as error:
            self.errors.append(error)
        if self.errors and not ends(ended_by):
            raise self._error()

    def _error(self) -> BaseException:
        """Return the first error of the application; its notes tell of the others."""
        error, *others = self.errors
        for other in dict.fromkeys(map(repr, others)):
            error.add_note(f"The application raised this as well: {other}")
        return error

    async def _stop(self, failed: bool) -> None:
        for visit in tuple(self.visits):
            visit.shut_down()
        await self._end_application(shortest(self.timeout, LEAVE) if failed else self.timeout)
        await self._end_visits(failed)
        self.timers.settle()
        await self.lifespan.shutdown()

    async def _end_application(self, timeout: float | None) -> None:
        if not self.tasks:
            return
        _, late = await asyncio.wait(self.tasks, timeout=timeout)
        if late:
            for task in late:
                task.cancel()
            await asyncio.wait(late, timeout=LEAVE)
            names = ", ".join(sorted(task.get_name() for task in late))
            self.errors.append(
                TimeoutError(
                    f"the application went on for {timeout:g} s after its clients had gone: {names}"
                )
            )

    async def _end_visits(self, at_once: bool) -> None:
        """Close our ends without waiting for answers: perhaps nobody reads at the others."""
        for visit in tuple(self.visits):
            if at_once:
                visit.transport.abort()
            else:
                transports.close(visit.transport)
        if self.visits:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.empty.wait(), LEAVE)
        for visit in tuple(self.visits):
            visit.transport.abort()

    async def _drop(self) -> None:
        """End everything at once: nobody waits for it any longer."""
        for visit in tuple(self.visits):
            visit.transport.abort()
        for task in self.tasks:
            task.cancel()
        try:
            if self.tasks:
                await asyncio.wait(self.tasks, timeout=LEAVE)
        finally:  # anyio cancels at every wait
            await self.lifespan.cancel()


class _Path(Path):
    """A ``Path`` that answers the Close of a client that failed at once: it reads no answer."""

    __slots__ = ()

    def see_to_end(self) -> None:
        core, end = self.core, self.core.life.peer_end
        if core.state is lifecycle.CLOSE_HELD and isinstance(end, Close) and end.code in FAILED:
            core.start_close(end.code, "", self.now())
            self.say_goodbye()
        super().see_to_end()


class Visit(asyncio.Protocol):
    """One client of the application."""

    transport: asyncio.Transport

    def __init__(self, server: AsgiServer) -> None:
        self._server = server
        self._parser = RequestParser(server.upgrader.head_limit)
        self._request: Request
        self._conversation: Conversation | None = None
        self._path: Path | None = None  # until it is accepted
        self._early = b""  # what the client said before that
        self._limit: asyncio.TimerHandle | None = None

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._server.visits.add(self)
        self._server.empty.clear()

    def data_received(self, data: bytes) -> None:
        if self._conversation is not None:
            self._early += data
            return
        try:
            request = self._parser.feed(data)
            if request is not None:
                self._begin(request)
        except HandshakeError as error:
            self.refuse(error.response or refusal(error))

    def connection_lost(self, error: Exception | None) -> None:
        if self._conversation is not None:
            self._conversation.lose()
        self._leave()

    # What the conversation calls

    def accept(self, subprotocol: str | None, headers: Pairs) -> Path:
        """Answer with 101 and begin to exchange messages."""
        if self.transport.is_closing():
            raise ClientDisconnected("the client is gone")
        server = self._server
        spoken = [] if subprotocol is None else [subprotocol]
        decision = replace(server.upgrader, subprotocols=spoken).decide(
            self._request, text_of(headers)
        )
        if isinstance(decision, Refused):
            raise decision.error
        core = Connection(Role.SERVER, server.upgrader, decision.agreed, server.clock())
        self._path = path = _Path(core, self.transport, server.loop, server.timers)
        path.on_lost = self._leave
        self.transport.set_protocol(path)
        self.transport.write(write_response(decision.response))
        if server.timeout is not None:
            self._limit = server.loop.call_later(server.timeout, self._end_overdue)
        if self._early:
            path.data_received(self._early)
        return path

    def refuse(self, response: Response) -> None:
        """Answer with anything else."""
        if not self.transport.is_closing():
            self.transport.write(write_response(response))
            self.transport.close()

    # What the server calls

    def shut_down(self) -> None:
        """End the connection as a server that stops does."""
        conversation, path = self._conversation, self._path
        if path is None or conversation is None:
            self.transport.close()
        elif path.core.may_send:
            path.start_close(1012, "")
            conversation.end({"type": "websocket.disconnect", "code": 1012})

    # How it works inside

    def _begin(self, request: Request) -> None:
        server = self._server
        decision = server.upgrader.decide(request)
        if isinstance(decision, Refused):
            raise decision.error
        self._request, self._early = request, self._parser.rest
        self._conversation = Conversation(self, ClientDisconnected)
        running = self._run(self._conversation, self._scope())
        task = server.loop.create_task(running, name=request.shown)
        server.tasks.add(task)
        task.add_done_callback(server.tasks.discard)

    def _scope(self) -> Scope:
        request, server = self._request, self._server
        pairs = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in request.headers.items()
        ]
        return scope_of(
            request,
            pairs,
            "",
            asgi={"version": "3.0", "spec_version": "2.4"},
            scheme="ws",
            server=("localhost", 80),
            client=server.client,
            state=server.lifespan.state.copy(),
            extensions={"websocket.http.response": {}},
        )

    async def _run(self, conversation: Conversation, scope: Scope) -> None:
        errors = self._server.errors
        try:
            await call(self._server.app, scope, conversation.receive, conversation.send)
        except ClientDisconnected:
            pass
        except asyncio.CancelledError as error:
            if was_cancelled(error):
                raise
            errors.append(not_ours(error))
        except BaseException as error:
            errors.append(error)
        else:
            if not conversation.answered:
                errors.append(
                    RuntimeError("the application returned without accepting or refusing")
                )
        finally:
            conversation.fail()
            if self._path is not None and self._path.core.life.state is lifecycle.OPEN:
                self._path.drop("the application left without a Close")

    def _end_overdue(self) -> None:
        if self._path is not None and self._path.core.may_send:
            self._path.start_close(1011, overdue("asgi", self._server.timeout))

    def _leave(self) -> None:
        self._server.visits.discard(self)
        if not self._server.visits:
            self._server.empty.set()
        if self._limit is not None:
            self._limit.cancel()
