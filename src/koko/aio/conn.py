"""One end of an open WebSocket, for asyncio: the verbs.

Only waiting is done here. What the bytes mean is ``koko.core``'s, how they move is
``protocol``'s.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, NoReturn, Self

from koko.aio.control import ControlVerbs
from koko.aio.protocol import ConnProtocol, MessageVerbs
from koko.aio.streams import StreamVerbs
from koko.aio.waiting import TOO_SLOW, within
from koko.core.connection import Connection
from koko.errors import CloseError
from koko.http import Request, Response
from koko.message import Data, Kind, PreparedMessage, check_kind
from koko.opening.address import written


class Conn(ControlVerbs, StreamVerbs, MessageVerbs):
    """One end of an open WebSocket.

    Any number of tasks may send; messages are never interleaved. One task receives.
    Cancelling ``recv`` loses nothing: the next one goes on where it stopped. Cancelling
    ``send`` while it waits for its turn or for a slow peer sends nothing and harms
    nothing; once it has begun to write it no longer waits.

    Pings are answered, pongs and Closes noticed and dead peers found whether or not
    anybody receives, as long as no more than 64 KiB wait unread; beyond that the
    socket is not read until somebody does. Everything happens in the event loop the
    connection was made in; from another thread use ``loop.call_soon_threadsafe``.

    Attributes:
        request: the opening handshake's request.
        response: the opening handshake's response.
        subprotocol: the subprotocol agreed on, or None.
        local_address: the socket's own address, as ``socket.getsockname`` gives it.
        remote_address: the peer's address, as ``socket.getpeername`` gives it.
    """

    def __init__(
        self, protocol: ConnProtocol, request: Request, response: Response, subprotocol: str | None
    ) -> None:
        super().__init__(protocol)
        self._core: Connection = protocol.core
        self.request = request
        self.response = response
        self.subprotocol = subprotocol
        # A transport that was closed cannot be asked any more.
        self.local_address: Any = protocol.transport.get_extra_info("sockname")
        self.remote_address: Any = protocol.transport.get_extra_info("peername")

    # Receiving

    async def read_message(self, timeout: float | None = None) -> tuple[Kind, str | bytes]:
        """Return the kind of the next message and the message; waits and raises as ``recv``."""
        message = await self.recv(timeout)
        return (Kind.TEXT if type(message) is str else Kind.BINARY), message

    async def read_json(
        self, timeout: float | None = None, *, decoder: Callable[[str | bytes], Any] = json.loads
    ) -> Any:
        """Return the next message, text or binary, decoded; waits and raises as ``recv``.

        ``decoder`` may be another library's, such as ``orjson.loads``. What it raises leaves
        the connection unharmed; the message has been read then.
        """
        return decoder(await self.recv(timeout))

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

        ``encoder`` may be another library's, such as ``orjson.dumps``; where it fails,
        nothing is sent.
        """
        await self._write(timeout, self._core.send, Kind.TEXT, encoder(value))

    async def write_prepared(self, prepared: PreparedMessage, timeout: float | None = None) -> None:
        """Send a message that is encoded once for many connections; waits as ``send``."""
        await self._write(timeout, self._core.send_prepared, prepared)

    async def _write(
        self, timeout: float | None, owe: Callable[..., None], *message: object
    ) -> None:
        if self._protocol.congested:
            await within(timeout, TOO_SLOW, self._protocol.write_in_turn(owe, *message))
        else:
            owe(*message)
            self._protocol.sent()

    @contextmanager
    def cork(self) -> Iterator[None]:
        """Gather what is sent in this ``with`` block and write it together.

        It leaves when 64 KiB are full, at the end of the loop's turn or of the block,
        whichever is first. Replies to messages that arrived together are gathered anyway.
        """
        self._protocol.corked += 1
        try:
            yield
        finally:
            self._protocol.corked -= 1
            self._protocol.flush()

    @property
    def write_compression(self) -> bool:
        """Whether messages are compressed; True, and without effect where none was agreed on."""
        return self._core.write_compression

    @write_compression.setter
    def write_compression(self, enabled: bool) -> None:
        self._core.write_compression = enabled

    @property
    def compression_level(self) -> int | None:
        """The deflate level of the next messages, -2 to 9; None where none are compressed."""
        return self._core.compression_level

    @compression_level.setter
    def compression_level(self, level: int) -> None:
        self._core.compression_level = level

    # Ending

    async def close(self, code: int = 1000, reason: str = "", timeout: float | None = None) -> None:
        """Close the connection: send a Close, await the peer's, end the stream (§7.1.2).

        Takes at most ``timeout`` seconds (default ``close_timeout``), then the socket is
        dropped. What had come before can still be received, up to 64 KiB of it. A
        connection that is closing or closed already is only waited for. When cancelled, the
        closing goes on within its bounds. A message that is being written in parts is cut
        off: then the Close says 1011.
        """
        core, protocol = self._core, self._protocol
        if timeout is None:
            timeout = core.close_timeout
        if core.may_send:
            core.close_timeout = timeout
            core.start_close(code, reason, protocol.now())
        protocol.say_goodbye()
        if core.due_at is not None and core.due_at <= protocol.now() + timeout:
            return await protocol.closed()  # the core gives up in time by itself
        with suppress(TimeoutError):  # another's Close may have been given more time
            return await self.wait_closed(timeout)
        protocol.abort(f"no answer within {timeout:g} s")
        await protocol.closed()

    def abort(self) -> None:
        """Drop the connection at once: no Close is sent, nothing unsent is written."""
        self._protocol.abort("we dropped it")

    async def wait_closed(self, timeout: float | None = None) -> None:
        """Wait until the connection is over, whoever ends it; ``ending`` says how.

        Raises:
            TimeoutError: it was not over within ``timeout`` seconds.
        """
        await within(timeout, "the connection was not over", self._protocol.closed())

    @property
    def ending(self) -> BaseException | None:
        """How it ended, None while it has not: a CloseError, or what a handler raised."""
        return self._core.ending

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close with 1000; with 1001 when cancelled, with 1011 when the block failed."""
        if error is None or isinstance(error, CloseError):
            await self.close()
        else:
            await self.close(1011 if isinstance(error, Exception) else 1001)

    # What it stands on

    @property
    def read_limit(self) -> int | None:
        """Bytes of one message, on the wire and inflated; a larger one is closed with 1009."""
        return self._core.read_limit

    @read_limit.setter
    def read_limit(self, limit: int | None) -> None:
        self._core.read_limit = limit

    @property
    def read_deadline(self) -> float | None:
        """A time of the loop's clock after which no read waits any longer; None for never.

        For every read, beside its own timeout: the earlier one counts. What has come is
        still given, and nothing is lost: a read under a later deadline goes on. A read
        that waits notices when it is put off, by a handler of pongs say, or brought forward.
        """
        deadline = self._protocol.read_deadline
        return None if deadline is None else deadline.at

    @read_deadline.setter
    def read_deadline(self, deadline: float | None) -> None:
        self._protocol.set_read_deadline(deadline)

    @property
    def write_deadline(self) -> float | None:
        """A time of the loop's clock after which no message is written; None for never.

        For every message, beside its own timeout: the earlier one counts. What had not
        begun by then is not sent; a message cut in the middle ends the connection.
        """
        turn = self._protocol.lock
        return None if turn is None else turn.deadline

    @write_deadline.setter
    def write_deadline(self, deadline: float | None) -> None:
        self._protocol.message_lock.deadline = deadline

    @property
    def transport(self) -> asyncio.Transport:
        """The transport underneath; writing to it breaks the connection."""
        return self._protocol.transport

    def _disown(self) -> None:
        self._protocol.disown()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a connection can be neither copied nor pickled")

    def __repr__(self) -> str:
        return f"<koko.aio.Conn {self._core.state.value} with {written(self.remote_address)}>"
