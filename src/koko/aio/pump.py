"""Moves bytes between an asyncio transport and the core, and wakes who waits.

The protocol behind a ``Conn``. What every message passes through is its ``Reflex``; what
happens seldom is here: the ends, the timer, back-pressure, those who wait for their turn.
Nothing about WebSocket is decided here: that is ``koko.core``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from koko.aio.reflex import Reflex
from koko.core.connection import Connection, Parting
from koko.core.lifecycle import State
from koko.errors import CloseError


class Pump(Reflex, asyncio.Protocol):
    """The private half of a ``Conn``: its protocol, its timer, its waits."""

    def __init__(
        self, core: Connection, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(core, transport, loop)
        self.lost = False
        self._half_closed = False
        self._leaving = False
        self._tasks: set[asyncio.Future[object]] = set()
        self._waiters: deque[asyncio.Future[None]] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due_at: float | None = None
        self.rearm()

    # What the transport calls

    def eof_received(self) -> bool:
        self._end("the peer's stream ended without a Close")
        if not self.transport.is_closing() and self.transport.get_write_buffer_size():
            # The peer may have stopped reading as well: the last bytes get a bounded time.
            self._timer = self.loop.call_later(self.core.close_timeout, self.transport.abort)
        return False  # the transport closes itself

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self._end(f"the connection broke: {error}" if error else "the stream was closed")
        if self._timer is not None:
            self._timer.cancel()

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        self.core.keepalive.taken_at = self.now()
        self.flush()
        self.release_waiters()
        if self.core.life.state is not State.OPEN:
            self.part()

    # What a Conn calls

    @property
    def turn(self) -> asyncio.Lock:
        """Who holds it may write; first come, first served."""
        if self.lock is None:
            self.lock = asyncio.Lock()
        return self.lock

    async def writable(self) -> None:
        """Wait until the transport takes more, or nothing may be sent any longer."""
        while self.write_paused and self.core.life.state is State.OPEN:
            await self.wait_for_change()

    async def closed(self) -> None:
        """Wait until the transport is gone."""
        while not self.lost:
            await self.wait_for_change()

    async def wait_for_change(self) -> None:
        """Wait until the transport takes more, the state changes or a pong has come."""
        if self._waiters is None:
            self._waiters = deque()
        waiter = self.loop.create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    async def write_in_turn(self, owe: Callable[..., None], *message: object) -> None:
        """Wait for our turn and for the peer, then write; until then nothing was owed."""
        async with self.turn:
            await self.writable()
            owe(*message)
            self.sent()

    def say_goodbye(self) -> None:
        """See a Close that is owed through to the end of the connection."""
        self._leaving = True
        self.flush()
        if not self.arrival.waiting:
            self.core.drop_unread()
        self._resume()
        self.part()

    def abort(self, why: str) -> None:
        self._end(why)
        self.transport.abort()

    def run(self, work: Awaitable[object]) -> None:
        """Run what a handler returned in a task; what it raises ends the connection."""
        task = asyncio.ensure_future(work, loop=self.loop)
        self._tasks.add(task)
        task.add_done_callback(self._ran)

    def release_waiters(self) -> None:
        """Have everybody who waits for a change look again."""
        for waiter in self._waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def part(self) -> None:
        """Do to the transport what the state of the connection asks for."""
        self.rearm()
        self.release_waiters()
        if self.core.ending is not None:
            self._resume()  # up to the end of the stream; what comes is dropped
        parting = self.core.parting
        if parting is Parting.STAY or (self.core.owed and not self.lost):
            return
        if parting is Parting.DROP:
            self.transport.close()
        elif not self._half_closed:
            self._half_closed = True
            end_half(self.transport)

    def rearm(self) -> None:
        """Set the one timer to when the core wants to be told the time."""
        due_at = self.core.due_at
        if due_at == self._due_at:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due_at = due_at
        if due_at is not None:
            self._timer = self.loop.call_at(due_at, self._tick)

    # What a Reflex calls

    def nobody_waits(self) -> None:
        """See that what came for nobody is not kept waiting, and not followed by too much."""
        self.rearm()  # a verdict waits for the reader, but not for ever
        if not self.core.full:
            return
        if self._leaving:
            self.core.drop_unread()  # nobody will read it, and the peer's Close is behind it
        elif self.core.ending is None and not (self.read_paused or self.transport.is_closing()):
            self.read_paused = True
            self.transport.pause_reading()

    def read_on(self) -> None:
        """Read on if there is room again; what was held back may have owed something."""
        if not self.core.full:
            self.flush()
            self.rearm()
            self._resume()

    def last_word(self) -> str | bytes | None:
        """Return the next message, or raise how the connection ended."""
        core = self.core
        try:
            message = core.next_message()
        finally:
            if core.owed:
                self.flush()
            if core.life.state is not State.OPEN:
                self.part()
        if self.read_paused:
            self.read_on()
        return message

    def busy(self) -> RuntimeError:
        """Return the error of a second receiver."""
        return RuntimeError(
            f"recv() is already running in task {self.arrival.receiver!r}; "
            "one receiver per connection (share messages through a queue)"
        )

    # How it works inside

    def _tick(self) -> None:
        self._timer = self._due_at = None
        core = self.core
        unsent = self.transport.get_write_buffer_size()
        core.tick(self.now(), listening=not self.read_paused, unsent=unsent)
        self.flush()
        if core.ending is not None:
            self.arrival.wake()
        if core.life.state is State.CLOSED:
            self.transport.abort()
        self.part()

    def _end(self, why: str) -> None:
        self.core.feed_eof(self.now(), why)
        self.rearm()
        self.arrival.wake()
        self.release_waiters()

    def _resume(self) -> None:
        if self.read_paused:
            self.read_paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def _ran(self, task: asyncio.Future[object]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        self.core.fault(error)
        if self.core.ending is error:
            self.flush()
            self.arrival.wake()
            self.part()
        elif not isinstance(error, CloseError):  # too late for any reader: it is still told
            complaint = f"a handler failed after the connection had ended: {self.core.ending}"
            self.loop.call_exception_handler({"message": complaint, "exception": error})


def end_half(transport: asyncio.Transport) -> None:
    """End our half of the stream; the whole of it where there are no halves."""
    try:
        if transport.can_write_eof():
            transport.write_eof()
            return
    except OSError:  # the peer has reset it
        pass
    transport.close()
