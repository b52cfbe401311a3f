"""One end of an open WebSocket, for asyncio: the verbs that wait.

``koko.core`` decides what the bytes mean, and ``protocol`` moves them.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any, Self

from koko.aio.general_path import GeneralPath
from koko.aio.protocol import ConnProtocol, MessageVerbs
from koko.aio.streams import MessageReader, PendingWriter
from koko.aio.tasks import not_ours
from koko.aio.waiting import TOO_SLOW, within
from koko.aio.writing import until_writable, write_in_turn
from koko.conn import BaseConn, ControlHandler
from koko.core.connection import Ping
from koko.core.control import check_closing
from koko.core.incoming import Joined
from koko.errors import only_closes
from koko.http import Request, Response
from koko.message import Data, Kind, PreparedMessage, check_kind, check_prepared
from koko.misuse import check_seconds


# recv, send and the iteration are inherited. Where MessageVerbs is native the interpreter finds
# them in C; a method here that calls a part would cost more than they do.
class Conn(BaseConn, MessageVerbs):
    """One end of an open WebSocket.

    Any number of tasks may send; messages are never interleaved. One task receives.
    Cancelling ``recv`` loses nothing: the next one goes on where it stopped. Cancelling
    ``send`` while it waits for another writer or for a slow peer sends nothing and harms
    nothing; once it has begun to write it no longer waits.

    Pings are answered, pongs and Closes noticed and dead peers found even while no task
    receives, as long as no more than 64 KiB wait unread; beyond that the socket is not read
    until a task receives. Everything happens in the event loop that the connection was made
    in; from another thread use ``loop.call_soon_threadsafe``.

    Attributes:
        request: the opening handshake's request.
        response: the opening handshake's response.
        subprotocol: the subprotocol agreed on, or None.
        local_address: the socket's own address, as ``socket.getsockname`` gives it.
        remote_address: the peer's address, as ``socket.getpeername`` gives it; behind
            ``trusted_proxies`` the client's, as they tell it, its port 0 where they do not.
    """

    def __init__(
        self,
        protocol: ConnProtocol,
        request: Request,
        response: Response,
        subprotocol: str | None,
        remote: Any = None,
    ) -> None:
        MessageVerbs.__init__(self, protocol)
        look_up = protocol.transport.get_extra_info  # later a closed transport forgets them
        local, remote = look_up("sockname"), look_up("peername") if remote is None else remote
        calls = HandlerCalls(protocol)
        BaseConn.__init__(self, protocol.core, calls, request, response, subprotocol, local, remote)

    # Receiving

    async def read_message(self, timeout: float | None = None) -> tuple[Kind, str | bytes]:
        """Return the kind of the next message and the message; waits and raises as ``recv``."""
        message = await self.recv(timeout)
        return (Kind.TEXT if type(message) is str else Kind.BINARY), message

    async def read_json(
        self, timeout: float | None = None, *, decoder: Callable[[str | bytes], Any] = json.loads
    ) -> Any:
        """Return the next message, text or binary, decoded; waits and raises as ``recv``.

        ``decoder`` may be another library's, such as ``orjson.loads``. If it fails the
        connection is unharmed, but the message has been read.
        """
        return decoder(await self.recv(timeout))

    async def next_reader(self, timeout: float | None = None) -> tuple[Kind, MessageReader]:
        """Return the kind of the next message and a reader of its bytes, once it has begun.

        Waits and raises as ``recv``. The unread rest of the message before is skipped.
        """
        if timeout is not None:
            return await within(timeout, "no message came", self.next_reader())
        protocol, core = self._protocol, self._core
        while (message := protocol.ask(core.next_stream)) is None:
            await protocol.arrives()
        return message.kind, MessageReader(protocol, message, partial(core.read_stream, message))

    # Sending

    async def write_message(self, kind: int, data: Data, timeout: float | None = None) -> None:
        """Send one message of the given kind; bytes given as text are sent as they are.

        Waits and raises as ``send``.
        """
        check_kind(kind, data)
        await self._write(timeout, self._core.send, kind, data)

    async def write_json(
        self,
        value: Any,
        timeout: float | None = None,
        *,
        encoder: Callable[[Any], str | bytes] = json.dumps,
    ) -> None:
        """Send ``value`` encoded as a text message; waits and raises as ``send``.

        ``encoder`` may be another library's, such as ``orjson.dumps``; if it fails, nothing
        is sent.
        """
        await self._write(timeout, self._core.send, Kind.TEXT, encoder(value))

    async def write_prepared(self, prepared: PreparedMessage, timeout: float | None = None) -> None:
        """Send a message that is encoded once for many connections; waits as ``send``."""
        check_prepared(prepared)
        await self._write(timeout, self._core.send_prepared, prepared)

    async def _write(
        self, timeout: float | None, owe: Callable[..., None], *message: object
    ) -> None:
        check_seconds("timeout", timeout)
        if self._protocol.congested:
            await within(timeout, TOO_SLOW, write_in_turn(self._protocol, owe, *message))
        else:
            owe(*message)
            self._protocol.sent()

    def next_writer(self, kind: int, timeout: float | None = None) -> PendingWriter:
        """Begin a message of this kind; ``async with`` or ``await`` gives its writer.

        Waits while another task is writing a message in parts, or the peer reads too slowly.

        Raises:
            CloseError: the connection is over.
            TimeoutError: it could not begin within ``timeout`` seconds; nothing was sent.
            RuntimeError: this task is writing one already.
        """
        check_kind(kind, b"")
        check_seconds("timeout", timeout)
        return PendingWriter(self._protocol, Kind(kind), timeout)

    @contextmanager
    def cork(self) -> Iterator[None]:
        """Gather what is sent in this ``with`` block and write it together.

        It is written when 64 KiB are gathered, at the end of the loop's turn or at the end of
        the block, whichever is first. Replies to messages that arrived together are gathered
        without it.
        """
        self._protocol.corked += 1
        try:
            yield
        finally:
            self._protocol.corked -= 1
            self._protocol.flush()

    @property
    def compression_level(self) -> int | None:
        """The deflate level of the next messages, -2 to 9; None where nothing is compressed."""
        return self._core.compression_level

    @compression_level.setter
    def compression_level(self, level: int) -> None:
        self._core.compression_level = level

    # Control frames: they do not wait for a message that is being written (§5.4)

    async def write_control(
        self, kind: int, data: bytes = b"", deadline: float | None = None
    ) -> None:
        """Send a ping, a pong or a Close of at most 125 bytes, ahead of waiting messages.

        A Close that is sent so is not waited for; see ``close``. ``deadline`` is a time of the
        loop's clock: until then wait for a peer that reads too slowly. Without one the frame
        is queued and written when possible.

        Raises:
            ValueError: the payload may not stand in such a frame.
            ErrCloseSent: a Close was sent already.
            TimeoutError: the deadline passed first; nothing was sent.
        """
        check_seconds("deadline", deadline)
        if deadline is not None:
            left = deadline - self._protocol.now()
            if left <= 0:
                raise TimeoutError("the deadline had passed before the frame was written")
            await within(left, TOO_SLOW, until_writable(self._protocol))
        self._write_control(kind, data)

    async def ping(self, data: bytes | None = None, timeout: float | None = None) -> float:
        """Send a ping, wait for its pong and return the round trip in seconds.

        ``data`` is the ping's payload, at most 125 bytes; random without it. A pong
        answers every ping before it as well. Once more than 64 KiB of messages wait unread,
        the pong behind them is not seen until a task receives.

        Raises:
            CloseError: the connection ended first.
            TimeoutError: no pong came within ``timeout`` seconds; the connection is unharmed.
            ValueError: a ping with this payload still waits for its pong.
        """
        check_seconds("timeout", timeout)
        protocol = self._protocol
        ping = self._core.start_ping(data, protocol.now())
        ping.on_pong = protocol.release_waiters
        protocol.flush()
        return await within(timeout, "no pong came", self._pong_of(ping))

    async def _pong_of(self, ping: Ping) -> float:
        while ping.round_trip is None:
            if self._core.ending is not None:
                raise self._core.ending
            await self._protocol.wait_for_change()
        return ping.round_trip

    async def pong(self, data: bytes = b"") -> None:
        """Send a pong that answers nothing, as a heartbeat (§5.5.3)."""
        self._write_control(Kind.PONG, data)

    # Ending

    async def close(self, code: int = 1000, reason: str = "", timeout: float | None = None) -> None:
        """Close the connection: send a Close, await the peer's, end the stream (§7.1.2).

        Takes at most ``timeout`` seconds (default ``close_timeout``), then the socket is
        dropped. What had come before can still be received, up to 64 KiB of it. If the
        connection is closing or closed already, this only waits for its end. Tasks that wait
        in ``recv`` or ``send`` are woken. When cancelled, the closing goes on within its
        bounds. A message that is being written in parts is cut off: then the Close says
        1011.
        """
        core, protocol = self._core, self._protocol
        check_closing(code, reason, timeout)  # also on a closed connection
        if timeout is None:
            timeout = core.close_timeout
        if core.may_send:
            core.close_timeout = timeout
            core.start_close(code, reason, protocol.now())
        protocol.say_goodbye()
        due_at = core.due_at
        if due_at is not None and due_at <= protocol.now() + timeout:
            return await protocol.closed()  # the core has a deadline of its own
        with suppress(TimeoutError):  # another close() may have more time
            return await self.wait_closed(timeout)
        protocol.abort(f"no answer within {timeout:g} s")
        await protocol.closed()

    def abort(self) -> None:
        """Drop the connection at once: no Close is sent, nothing unsent is written."""
        self._protocol.abort("we dropped it")

    async def wait_closed(self, timeout: float | None = None) -> None:
        """Wait until the connection is over, whichever side ends it; ``ending`` says how.

        Raises:
            TimeoutError: it was not over within ``timeout`` seconds.
        """
        await within(timeout, "the connection was not over", self._protocol.closed())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close with 1000; with 1001 when cancelled, with 1011 when the block failed.

        A ``CloseError`` is no failure, and neither is a group of nothing else.
        """
        if error is None or only_closes(error):
            await self.close()
        else:
            await self.close(1011 if isinstance(error, Exception) else 1001)

    # Deadlines, and what is underneath

    @property
    def read_deadline(self) -> float | None:
        """A time of the loop's clock after which no read waits any longer; None for never.

        It holds for every read, beside its own timeout: the earlier one counts. Messages that
        have come are still returned, and nothing is lost: a read under a later deadline goes
        on. A waiting read notices when the deadline is changed, for example by a pong handler.
        """
        deadline = self._protocol.read_deadline
        return None if deadline is None else deadline.at

    @read_deadline.setter
    def read_deadline(self, deadline: float | None) -> None:
        check_seconds("read_deadline", deadline)
        self._protocol.set_read_deadline(deadline)

    @property
    def write_deadline(self) -> float | None:
        """A time of the loop's clock after which no message is written; None for never.

        It holds for every message, beside its own timeout: the earlier one counts. A message
        that had not begun by then is not sent; one cut in the middle ends the connection.
        """
        turn = self._protocol.lock
        return None if turn is None else turn.deadline

    @write_deadline.setter
    def write_deadline(self, deadline: float | None) -> None:
        check_seconds("write_deadline", deadline)
        self._protocol.message_lock.deadline = deadline

    @property
    def transport(self) -> asyncio.Transport:
        """The transport underneath; writing to it breaks the connection."""
        return self._protocol.transport

    def _write_control(self, kind: int, payload: bytes) -> None:
        _write_control(self._protocol, kind, payload)

    def _disown(self) -> None:
        self._protocol.disown()


class HandlerCalls:
    """Calls the handlers of control frames, and runs what a coroutine function returned."""

    __slots__ = ("_protocol",)

    def __init__(self, protocol: GeneralPath) -> None:
        self._protocol = protocol

    def check(self, name: str, handler: ControlHandler | None) -> None:
        """Accept any handler: it may be a plain function or a coroutine function."""

    def call(self, handler: ControlHandler, *args: object) -> None:
        try:
            result = handler(*args)
        except asyncio.CancelledError as error:  # of a future whose result the handler took
            raise not_ours(error) from error
        if inspect.isawaitable(result):
            self._protocol.run(result)

    def answer_ping(self, payload: bytes) -> None:
        _write_control(self._protocol, Kind.PONG, payload)


def _write_control(protocol: GeneralPath, kind: int, payload: bytes) -> None:
    protocol.core.write_control(kind, payload, protocol.now())
    protocol.flush()
    protocol.apply_stream_action()


def join_messages(conn: Conn, separator: Data = b"") -> MessageReader:
    """Return a reader of all messages to come as one, each followed by ``separator``.

    It takes text and binary alike. It ends with an ordinary end of the connection, as
    iteration does; any other end is raised.
    """
    joined = Joined(conn._core, separator)
    return MessageReader(conn._protocol, joined, joined.read)
