"""One end of an open WebSocket, for threads: the verbs that wait.

``koko.core`` decides what the bytes mean, and ``driver`` which thread moves them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from socket import socket as Socket  # noqa: N812 - "socket" is a word of Conn's own
from threading import get_ident
from types import TracebackType
from typing import Any, Self

from koko.conn import BaseConn, ControlHandler
from koko.core.control import check_closing
from koko.core.incoming import Incoming, Joined
from koko.errors import CloseError, only_closes
from koko.http import Request, Response
from koko.message import Data, Kind, PreparedMessage, check_kind, check_prepared, kind_of
from koko.misuse import check_seconds, refuse_async
from koko.sync.driver import Driver
from koko.sync.streams import MessageReader, MessageWriter
from koko.sync.transport import peer_name

_TEXT, _BINARY = Kind.TEXT, Kind.BINARY


class Conn(BaseConn):
    """One end of an open WebSocket.

    Any number of threads may send; messages are never interleaved. One thread receives.
    No thread is started for a connection: the one that waits in ``recv``, ``ping`` or
    ``close`` does the reading, answers pings and notices Closes. While none of them runs,
    one thread for all connections of the process does so, twice a second and as long as
    no more than 64 KiB wait unread. That thread also sends the pings of the keepalive and
    drops dead peers, which ends every wait on the connection.

    A wait that ends in ``TimeoutError`` has lost nothing: the next ``recv`` goes on where
    it stopped, and what ``send`` could not begin to write was not sent.

    The handlers for pings, pongs and Closes are called in whichever thread reads. They may
    send, but not wait for the peer: ``recv`` and ``ping`` are a ``RuntimeError`` there.

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
        driver: Driver,
        request: Request,
        response: Response,
        subprotocol: str | None,
        remote: Any = None,
    ) -> None:
        self._driver = driver
        local = self.socket.getsockname()
        remote = peer_name(self.socket) if remote is None else remote
        super().__init__(
            driver.core, HandlerCalls(driver), request, response, subprotocol, local, remote
        )

    # Receiving

    def recv(self, timeout: float | None = None) -> str | bytes:
        """Return the next message, waiting for it if necessary: text as str, binary as bytes.

        Raises:
            CloseError: the connection is over; see ``code``, ``reason``, ``sent``, ``received``.
            ProtocolError: the peer broke the protocol; a Close that says so was sent.
            ErrReadLimit: the message is larger than ``read_limit``; closed with 1009.
            TimeoutError: nothing arrived within ``timeout`` seconds; nothing is lost.
            RuntimeError: another thread is receiving already.
        """
        if timeout is None:
            return self._driver.next_message()
        message: str | bytes = self._driver.reader.receive(timeout, self._core.next_message)
        return message

    def read_message(self, timeout: float | None = None) -> tuple[Kind, str | bytes]:
        """Return the kind of the next message and the message; waits and raises as ``recv``."""
        message = self._driver.reader.receive(timeout, self._core.next_message)
        return (_TEXT if type(message) is str else _BINARY), message

    def read_json(
        self, timeout: float | None = None, *, decoder: Callable[[str | bytes], Any] = json.loads
    ) -> Any:
        """Return the next message, text or binary, decoded; waits and raises as ``recv``.

        ``decoder`` may be another library's, such as ``orjson.loads``. If it fails the
        connection is unharmed, but the message has been read.
        """
        return decoder(self._driver.reader.receive(timeout, self._core.next_message))

    def next_reader(self, timeout: float | None = None) -> tuple[Kind, MessageReader]:
        """Return the kind of the next message and a reader of its bytes, once it has begun.

        Waits and raises as ``recv``. The unread rest of the message before is skipped.
        """
        take = partial(self._driver.reader.read_parts, self._core.next_stream)
        message: Incoming = self._driver.reader.receive(timeout, take)
        read = partial(self._core.read_stream, message)
        return message.kind, MessageReader(self._driver, message, read)

    def __iter__(self) -> Iterator[str | bytes]:
        """Yield messages until an ordinary end of the connection.

        Ordinary is our own ``close`` and a Close with 1000, 1001 or no code; any other
        end is raised, as by ``recv``.
        """
        next_message = self._driver.next_message
        try:
            while True:
                yield next_message()
        except CloseError as error:
            if not error.ordinary:
                raise

    # Sending

    def send(self, message: Data, timeout: float | None = None) -> None:
        """Send one message: str as text, bytes and other buffers as binary.

        Waits while the peer reads too slowly or another thread is writing. Returns when
        the message has been handed to the system, which does not mean that the peer has it.

        Raises:
            ErrCloseSent: a Close was sent already; nothing was written.
            CloseError: the connection is over, or the timeout cut this message off in the
                middle and so ended it.
            TimeoutError: it could not begin within ``timeout`` seconds; nothing was sent.
        """
        if type(message) is str:
            kind = _TEXT
        else:
            kind = _BINARY if type(message) is bytes else kind_of(message)
        if timeout is None:
            self._driver.write_message(kind, message)
        else:
            self._driver.writer.write(timeout, self._core.send, kind, message)

    def write_message(self, kind: int, data: Data, timeout: float | None = None) -> None:
        """Send one message of the given kind; bytes given as text are sent as they are.

        Waits and raises as ``send``.
        """
        check_kind(kind, data)
        self._driver.writer.write(timeout, self._core.send, kind, data)

    def write_json(
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
        self._driver.writer.write(timeout, self._core.send, _TEXT, encoder(value))

    def write_prepared(self, prepared: PreparedMessage, timeout: float | None = None) -> None:
        """Send a message that is encoded once for many connections; waits as ``send``."""
        check_prepared(prepared)
        self._driver.writer.write(timeout, self._core.send_prepared, prepared)

    def next_writer(self, kind: int, timeout: float | None = None) -> MessageWriter:
        """Begin a message of this kind and return its writer, to be used in ``with``.

        Waits while another thread is writing a message in parts.

        Raises:
            CloseError: the connection is over.
            TimeoutError: it could not begin within ``timeout`` seconds; nothing was sent.
            RuntimeError: this thread is writing one already.
        """
        check_kind(kind, b"")
        return MessageWriter(self._driver, Kind(kind), timeout)

    @contextmanager
    def cork(self) -> Iterator[None]:
        """Gather what this thread sends in the ``with`` block and write it together.

        It is written when the thread waits for a message, when 64 KiB are gathered, or at the
        end of the block, whichever is first. A send with a timeout is not gathered. Around an
        echo loop it makes one write of all replies to messages that arrived together.
        """
        driver, turns, thread = self._driver, self._driver.turns, get_ident()
        within_another = turns.corked_by == thread
        try:
            turns.corked_by = thread
            yield
        finally:
            # Never hand back to another thread: its own block may be over by now.
            turns.corked_by = thread if within_another else 0
            driver.writer.write_gathered()

    @property
    def compression_level(self) -> int | None:
        """The deflate level of the next messages, -2 to 9; None where nothing is compressed."""
        return self._core.compression_level

    @compression_level.setter
    def compression_level(self, level: int) -> None:
        self._driver.monitor.call(setattr, self._core, "compression_level", level)

    # Control frames: they do not wait for a message that is being written (§5.4)

    def write_control(self, kind: int, data: bytes = b"", deadline: float | None = None) -> None:
        """Send a ping, a pong or a Close of at most 125 bytes, ahead of waiting messages.

        A Close that is sent so is not waited for; see ``close``. ``deadline`` is a time of
        ``time.monotonic``: until then wait for a peer that reads too slowly. Without one the
        frame is queued and written when possible.

        Raises:
            ValueError: the payload may not stand in such a frame.
            ErrCloseSent: a Close was sent already.
            TimeoutError: the deadline passed first; nothing was sent.
        """
        check_seconds("deadline", deadline)
        core, driver = self._core, self._driver
        if deadline is None:
            driver.writer.owe(core.write_control, kind, data, driver.clock.now())
            return
        now = driver.clock.now()
        if deadline <= now:
            raise TimeoutError("the deadline had passed before the frame was written")
        driver.writer.write_between(deadline, core.write_control, kind, data, now)

    def ping(self, data: bytes | None = None, timeout: float | None = None) -> float:
        """Send a ping, wait for its pong and return the round trip in seconds.

        ``data`` is the ping's payload, at most 125 bytes; random without it. A pong
        answers every ping before it as well. Messages that arrive meanwhile are kept for
        ``recv``; once more than 64 KiB of them wait, the pong behind them is not seen
        until a thread receives.

        Raises:
            CloseError: the connection ended first.
            TimeoutError: no pong came within ``timeout`` seconds; the connection is unharmed.
            ValueError: a ping with this payload still waits for its pong.
        """
        return self._driver.ping(data, timeout)

    def pong(self, data: bytes = b"") -> None:
        """Send a pong that answers nothing, as a heartbeat (§5.5.3)."""
        self.write_control(Kind.PONG, data)

    # Ending

    def close(self, code: int = 1000, reason: str = "", timeout: float | None = None) -> None:
        """Close the connection: send a Close, await the peer's, end the stream (§7.1.2).

        Takes at most ``timeout`` seconds (default ``close_timeout``), then the socket is
        dropped. What had come before can still be received, up to 64 KiB of it. If the
        connection is closing or closed already, this only waits for its end. Threads that
        wait in ``recv`` or ``send`` are woken. In a handler it does not wait. A message that
        is being written in parts is cut off: then the Close says 1011.
        """
        check_closing(code, reason, timeout)  # also on a closed connection
        self._driver.start_close(code, reason)
        self._driver.finish(self._core.close_timeout if timeout is None else timeout)

    def abort(self) -> None:
        """Drop the connection at once: no Close is sent, nothing unsent is written."""
        self._driver.abort("we dropped it")

    def wait_closed(self, timeout: float | None = None) -> None:
        """Wait until the connection is over, whichever side ends it; ``ending`` says how.

        Raises:
            TimeoutError: it was not over within ``timeout`` seconds.
        """
        self._driver.wait_closed(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close with 1000; with 1001 when interrupted, with 1011 when the block failed.

        A ``CloseError`` is no failure, and neither is a group of nothing else.
        """
        if error is None or only_closes(error):
            self.close()
        else:
            self.close(1011 if isinstance(error, Exception) else 1001)

    # Deadlines, and what is underneath

    @property
    def read_deadline(self) -> float | None:
        """A time of ``time.monotonic`` after which no read waits any longer; None for never.

        It holds for every read, beside its own timeout: the earlier one counts. Messages that
        have come are still returned, and nothing is lost: a read under a later deadline goes
        on. A waiting read notices when a handler, such as the pong handler, puts it off.
        """
        return self._driver.read_deadline

    @read_deadline.setter
    def read_deadline(self, deadline: float | None) -> None:
        check_seconds("read_deadline", deadline)
        self._driver.read_deadline = deadline

    @property
    def write_deadline(self) -> float | None:
        """A time of ``time.monotonic`` after which no message is written; None for never.

        It holds for every message, beside its own timeout: the earlier one counts. A message
        that had not begun by then is not sent; one cut in the middle ends the connection.
        """
        return self._driver.message_lock.deadline

    @write_deadline.setter
    def write_deadline(self, deadline: float | None) -> None:
        check_seconds("write_deadline", deadline)
        self._driver.message_lock.deadline = deadline

    @property
    def socket(self) -> Socket:
        """The socket underneath; reading or writing it breaks the connection."""
        return self._driver.stream.socket


class HandlerCalls:
    """Calls the handlers of control frames, in the thread that reads."""

    __slots__ = ("_driver",)

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def check(self, name: str, handler: ControlHandler | None) -> None:
        refuse_async("a Conn of koko.sync", name, handler)

    def call(self, handler: ControlHandler, *args: object) -> None:
        handler(*args)

    def answer_ping(self, payload: bytes) -> None:
        driver = self._driver
        driver.writer.owe(driver.core.write_control, Kind.PONG, payload, driver.clock.now())


def join_messages(conn: Conn, separator: Data = b"") -> MessageReader:
    """Return a reader of all messages to come as one, each followed by ``separator``.

    It takes text and binary alike. It ends with an ordinary end of the connection, as
    iteration does; any other end is raised.
    """
    joined = Joined(conn._core, separator)
    return MessageReader(conn._driver, joined, joined.read)
