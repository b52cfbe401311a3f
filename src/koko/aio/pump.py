"""Moves bytes between an asyncio transport and the core, and wakes who waits.

The protocol behind a ``Conn``. What arrives is fed to the core, the waiting reader
is woken where the bytes arrive, what is owed leaves in as few writes as possible.
Nothing about WebSocket is decided here: that is ``koko.core``.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context
from typing import Any

from koko.core.connection import Connection, Parting
from koko.core.lifecycle import State
from koko.errors import CloseError

GATHER = 1 << 16  # bytes of replies gathered while more messages wait to be read


class _Cancelled:
    """What a cancelled reader finds in the place of an arrival."""

    @staticmethod
    def result() -> None:
        raise asyncio.CancelledError


class Arrival:
    """The wait of one reader for what comes next; made once, awaited many times.

    Speaks the protocol that ``asyncio.Task`` expects of a future, so that ``wake``
    can enter the task at once: a Future costs a ``call_soon`` and another turn of
    the loop. Cancelling goes through ``call_soon``, as with any future.
    """

    __slots__ = (
        "_asyncio_future_blocking",
        "_callback",
        "_context",
        "_loop",
        "_yielded",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asyncio_future_blocking = False
        self._loop = loop
        self._callback: Callable[[Any], object] | None = None
        self._context: Context | None = None
        self._yielded = False

    @property
    def waiting(self) -> bool:
        return self._callback is not None

    @property
    def reader(self) -> str:
        """The name of the task that waits, for the error of a second one."""
        task = getattr(self._callback, "__self__", None)
        return task.get_name() if isinstance(task, asyncio.Task) else "another task"

    def wake(self) -> None:
        """Let the reader go on: at once, or soon when some task is running already.

        A task cannot be entered from within another; bytes arrive from inside a task
        where the transport is memory (tests, in-process pairs).
        """
        callback, context = self._callback, self._context
        if callback is None or context is None:
            return
        self._callback = None
        if asyncio.current_task(self._loop) is None:
            context.run(callback, self)
        else:
            self._loop.call_soon(callback, self, context=context)

    # The awaitable

    def __await__(self) -> Generator[Any, None, None]:
        self._yielded = False
        return self  # type: ignore[return-value]  # an iterator is all that await asks for

    def __iter__(self) -> Arrival:
        return self

    def __next__(self) -> Arrival:
        if self._yielded:
            raise StopIteration
        self._yielded = self._asyncio_future_blocking = True
        return self

    # What the task asks of a future

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(
        self, callback: Callable[[Any], object], *, context: Context | None = None
    ) -> None:
        self._callback = callback
        self._context = context

    def result(self) -> None:
        pass

    def cancel(self, msg: object = None) -> bool:
        callback, self._callback = self._callback, None
        if callback is None:
            return False
        # Not ``self``: until the task has learned of it, another may wait here already.
        self._loop.call_soon(callback, _Cancelled, context=self._context)
        return True


class Pump(asyncio.Protocol):
    """The private half of a ``Conn``: its protocol, its timer, its waits."""

    def __init__(
        self, core: Connection, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.core = core
        self.transport = transport
        self.loop = loop
        self.now = clock_of(loop)
        self.arrival = Arrival(loop)
        self.lost = False
        self.corked = 0  # how many blocks gather what is sent
        self._turn: asyncio.Lock | None = None
        self._write_paused = False
        self._read_paused = False
        self._gathered = 0
        self._feeding = False
        self._flush_due = False
        self._half_closed = False
        self._leaving = False
        self._tasks: set[asyncio.Future[object]] = set()
        self._waiters: deque[asyncio.Future[None]] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due_at: float | None = None
        self.rearm()

    # What the transport calls

    def data_received(self, data: bytes) -> None:
        core, arrival = self.core, self.arrival
        self._feeding = True
        try:
            core.feed(data, self.now())
            if arrival.waiting and (core.inbox or core.ending is not None):
                arrival.wake()
        finally:
            self._feeding = False
        if core.owed:
            self.flush()
        if core.state is not State.OPEN:
            self.part()
        if not arrival.waiting:
            self.rearm()  # a verdict waits for the reader, but not for ever
            if core.full:
                self._hold_back()

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
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self.flush()
        self.release_waiters()
        if self.core.state is not State.OPEN:
            self.part()

    # What a Conn calls

    @property
    def congested(self) -> bool:
        """True when a writer has to wait for its turn or for the peer."""
        return self._write_paused or (self._turn is not None and self._turn.locked())

    @property
    def turn(self) -> asyncio.Lock:
        """Who holds it may write; first come, first served."""
        if self._turn is None:
            self._turn = asyncio.Lock()
        return self._turn

    async def writable(self) -> None:
        """Wait until the transport takes more, or nothing may be sent any longer."""
        while self._write_paused and self.core.state is State.OPEN:
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

    def next_message(self) -> str | bytes | None:
        """Return the next message, None when ``arrival`` must be awaited for it."""
        core = self.core
        if core.inbox:
            message = core.next_message()
            if self._read_paused and not core.full:
                self.flush()  # what was held back may have owed something
                self.rearm()
                self._read_on()
            return message
        if self.arrival.waiting:
            raise RuntimeError(
                f"recv() is already running in task {self.arrival.reader!r}; "
                "one receiver per connection (share messages through a queue)"
            )
        try:
            message = core.next_message()
        finally:
            if core.owed:
                self.flush()
            if core.state is not State.OPEN:
                self.part()
        if self._read_paused and not core.full:
            self._read_on()
        return message

    def sent(self) -> None:
        """Write what was just owed: at once, or with the next replies while messages wait.

        What is gathered leaves at the end of the loop's turn at the latest.
        """
        core = self.core
        if core.inbox or self.corked:
            self._gathered += len(core.owed[-1])
            if self._gathered < GATHER:
                if not self._feeding and not self._flush_due:
                    self._flush_due = True
                    self.loop.call_soon(self.flush)
                return
        self.flush()

    def flush(self) -> None:
        """Write everything owed, unless the transport asked us to wait."""
        self._flush_due = False
        self._gathered = 0
        if not self.core.owed or self._write_paused:
            return
        if not self.transport.is_closing():  # or asyncio logs a line for each
            self.transport.write(self.core.take_owed())

    def say_goodbye(self) -> None:
        """See a Close that is owed through to the end of the connection."""
        self._leaving = True
        self.flush()
        if not self.arrival.waiting:
            self.core.drop_unread()
        self._read_on()
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
            self._read_on()  # up to the end of the stream; what comes is dropped
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

    # How it works inside

    def _tick(self) -> None:
        self._timer = self._due_at = None
        core = self.core
        core.tick(self.now(), listening=not self._read_paused)
        self.flush()
        if core.ending is not None:
            self.arrival.wake()
        if core.state is State.CLOSED:
            self.transport.abort()
        self.part()

    def _end(self, why: str) -> None:
        self.core.feed_eof(self.now(), why)
        self.rearm()
        self.arrival.wake()
        self.release_waiters()

    def _hold_back(self) -> None:
        if self._leaving:
            self.core.drop_unread()  # nobody will read it, and the peer's Close is behind it
        elif self.core.ending is None and not (self._read_paused or self.transport.is_closing()):
            self._read_paused = True
            self.transport.pause_reading()

    def _read_on(self) -> None:
        if self._read_paused:
            self._read_paused = False
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


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """Return the clock of ``loop``, or one that runs with it and does not stand still.

    uvloop's is read once in a turn of the loop and counts milliseconds: a round trip would
    be none or one of them.
    """
    return time.monotonic if type(loop).__module__.startswith("uvloop") else loop.time


def end_half(transport: asyncio.Transport) -> None:
    """End our half of the stream; the whole of it where there are no halves."""
    try:
        if transport.can_write_eof():
            transport.write_eof()
            return
    except OSError:  # the peer has reset it
        pass
    transport.close()
