"""A transport under a ``Conn`` that is made of the events of an ASGI server.

What is written to it are frames: whole messages leave as ``websocket.send``, a Close leaves as
``websocket.close``. What the server reports comes out as frames again. So everything above is
the same as on a socket. One task awaits ``receive``, another awaits ``send``: the server's
back-pressure counts as a socket's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Protocol

from koko.adapters._asgi_scope import Event
from koko.core.codec import Decoder, Encoder
from koko.core.control import close_payload, parse_close
from koko.core.wire import Control, Opcode, Role
from koko.errors import Close, ProtocolError

Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[object]]

HIGH, LOW = 1 << 16, 1 << 14  # bytes that wait for the server: writers wait, and go on
GATHER = 1 << 16  # bytes of messages that are received in one go
EVENT = 256  # bytes that an event takes in memory beside its payload: many may be empty
NO_KEY = bytes(4)  # a server's frames are masked; with zeros they stay as they are
# Seconds in which a server that failed to send may still report how the connection ended.
REPORT = 1.0

TEXT, BINARY, CLOSE = Opcode.TEXT, Opcode.BINARY, Opcode.CLOSE


class Path(Protocol):
    """What a transport needs of the protocol above it."""

    def data_received(self, data: bytes) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def connection_lost(self, error: Exception | None) -> None: ...
    def disconnected(self, code: int, reason: str) -> None: ...
    def abort(self, why: str) -> None: ...


class EventTransport(asyncio.Transport):
    """The transport of one connection that the server has accepted."""

    _path: Path
    _reader: asyncio.Task[None]
    _writer: asyncio.Task[None]

    def __init__(self, receive: Receive, send: Send, close: Send, extra: dict[str, Any]) -> None:
        super().__init__(extra)
        self._loop = asyncio.get_running_loop()
        self._receive = receive
        self._send = send
        self._close_by = close
        self._decoder = Decoder(Role.CLIENT)
        self._head = Encoder(Role.CLIENT).head
        self._limits = (LOW, HIGH)
        self._events: deque[tuple[Event, int]] = deque()  # each with how many bytes leave by it
        self._unsent = 0
        self._partial = 0  # bytes of a message that is not whole yet
        self._full = False  # writers wait
        self._more = asyncio.Event()  # something to send, or the end of it
        self._frames: list[bytes] = []  # what came and waits for the loop
        self._gathered = 0
        self._reading = asyncio.Event()
        self._reading.set()
        self._closing = False
        self._says_close = False
        self._over = False  # the server has reported the end
        self._finished = False
        self._left = False  # both tasks have ended, and nobody waits for them
        self._giving_up: asyncio.TimerHandle | None = None

    def begin(self, path: Path) -> None:
        """Begin to receive and to send."""
        self._path = path
        self._reader = self._loop.create_task(self._read())
        self._writer = self._loop.create_task(self._write())
        self._reader.add_done_callback(self._reader_ended)
        self._writer.add_done_callback(self._writer_ended)

    async def leave(self) -> None:
        """Wait until both tasks have ended: the server's functions may not be called later."""
        cancelled = None
        while running := [task for task in (self._reader, self._writer) if not task.done()]:
            try:
                await asyncio.wait(running)
            except asyncio.CancelledError as error:  # anyio's come again and again
                cancelled = error
                self.abort()
        self._left = True
        self._forget_tasks()
        try:
            if cancelled is not None:
                raise cancelled
        finally:
            cancelled = None  # its traceback holds this frame

    # What asyncio's protocols call

    def is_closing(self) -> bool:
        return self._closing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._over or self._closing:
            return
        events = list(self._events_of(bytes(data)))
        self._partial += len(data)  # a message in parts makes nobody wait before it is whole
        if not events:
            return
        self._events += [(event, EVENT) for event in events[:-1]]
        self._events.append((events[-1], self._partial + EVENT))
        self._unsent += self._partial + EVENT * len(events)
        self._partial = 0
        self._more.set()
        if self._unsent > self._limits[1] and not self._full:
            self._full = True
            self._path.pause_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Do nothing: it follows a Close, and the server knows what to do about that."""

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._more.set()
            if self._writer.done():
                self._finish()

    def abort(self) -> None:
        self._closing = True
        self._events.clear()
        if not self._left:
            self._writer.cancel()
        self._finish()

    def pause_reading(self) -> None:
        self._reading.clear()

    def resume_reading(self) -> None:
        self._reading.set()

    def is_reading(self) -> bool:
        return self._reading.is_set()

    def get_write_buffer_size(self) -> int:
        return self._unsent

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._limits

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        high = high if high is not None else HIGH if low is None else 4 * low
        self._limits = (high // 4 if low is None else low, high)

    # Out

    def _events_of(self, data: bytes) -> Iterator[Event]:
        """Yield what these frames say in the words of ASGI."""
        decoder = self._decoder
        items = decoder.feed(data)
        while items or decoder.backlog:
            for item in items:
                if type(item) is str:
                    yield {"type": "websocket.send", "text": item}
                elif type(item) is bytes:
                    yield {"type": "websocket.send", "bytes": item}
                elif type(item) is Control and item.opcode is CLOSE:
                    code, reason = parse_close(item.payload)
                    self._says_close = True
                    yield {"type": "websocket.close", "code": code, "reason": reason}
            items = decoder.feed(b"") if decoder.backlog else []
        if decoder.failure is not None and not self._says_close:
            yield self._refused(decoder.failure)

    def _refused(self, failure: ProtocolError) -> Event:
        """Return the Close for a message that ASGI cannot say: a text that is not UTF-8.

        A peer that got it would close with 1007. So our side hears that, and the peer as well:
        the decoder reads nothing behind its failure, not even our own Close.
        """
        self._says_close = True
        code, reason = failure.code, "a text message that is not UTF-8"
        payload = close_payload(Close(code, reason))
        self._gather(CLOSE, payload)
        return {"type": "websocket.close", "code": code, "reason": reason}

    async def _write(self) -> None:
        events = self._events
        while True:
            while events:
                event, size = events.popleft()
                if event["type"] == "websocket.close":
                    await self._close_by(event)
                else:
                    await self._send(event)
                self._sent(size)
            if self._closing:
                return
            self._more.clear()
            await self._more.wait()

    def _sent(self, size: int) -> None:
        self._unsent -= size
        if self._full and self._unsent <= self._limits[0] and not self._over:
            self._full = False
            self._path.resume_writing()

    def _writer_ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if self._closing or self._over:
            return self._finish() if self._closing else None
        # A server that fails to send knows that the peer is gone, and will say how it left.
        # Until then writers wait.
        self._full = True
        self._path.pause_writing()
        why = f"the server sends no more: {type(error).__name__}: {error}"
        if self._reader.done() or not self._reading.is_set():
            self._path.abort(why)
        else:
            self._giving_up = self._loop.call_later(REPORT, self._path.abort, why)

    # In

    async def _read(self) -> None:
        while True:
            await self._reading.wait()
            event = await self._receive()
            if event["type"] == "websocket.disconnect":
                # Not from here: a path enters tasks by itself, as a transport of a loop lets it.
                self._loop.call_soon(self._report, event)
                return
            self._take(event)
            if self._gathered >= GATHER:  # a server that never waits must not keep the loop
                await asyncio.sleep(0)

    def _take(self, event: Event) -> None:
        text = event.get("text")
        if text is None:
            self._gather(BINARY, event.get("bytes") or b"")
        else:
            self._gather(TEXT, text.encode())

    def _gather(self, opcode: Opcode, payload: bytes) -> None:
        if not self._frames:
            self._loop.call_soon(self._deliver)
        self._frames += (self._head(opcode, len(payload)), NO_KEY, payload)
        self._gathered += len(payload) + EVENT

    def _deliver(self) -> None:
        frames, self._frames = self._frames, []
        self._gathered = 0
        if not self._finished:
            self._path.data_received(b"".join(frames))

    def _report(self, event: Event) -> None:
        if self._finished:
            return
        self._over = True
        self._events.clear()
        self._unsent = 0
        if not self._says_close:  # a Close may be what the server is at: it has its time
            self._writer.cancel()
        if self._full:  # what is still owed has to leave, if to nowhere, before the end
            self._full = False
            self._path.resume_writing()
        self._path.disconnected(event.get("code") or 1005, event.get("reason") or "")

    def _reader_ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if not self._finished and (task.cancelled() or error is not None):
            self._path.abort(f"the server reports no more: {type(error).__name__}: {error}")

    # The end

    def _finish(self) -> None:
        if self._finished:
            return
        self._finished = True
        self._reader.cancel()
        if self._giving_up is not None:
            self._giving_up.cancel()
        self._loop.call_soon(self._lose)

    def _lose(self) -> None:
        path = self._path
        del self._path  # it holds us: a circle would wait for the garbage collector
        path.connection_lost(None)
        self._forget_tasks()

    def _forget_tasks(self) -> None:
        """Break another circle: the cancellation that a task has ended with holds our frames."""
        if self._left and not hasattr(self, "_path"):
            del self._reader, self._writer
