"""Moves bytes between an asyncio transport and the core, and wakes who waits.

The protocol behind a ``Conn``. What every message passes through is its ``Reflex``; what
happens seldom is here: the ends, the timer, back-pressure, those who wait for their turn.
Nothing about WebSocket is decided here: that is ``koko.core``.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from koko.aio.forking import INHERITED, disown_transport
from koko.aio.message_lock import MessageLock
from koko.aio.reflex import Reflex
from koko.aio.tasks import not_ours
from koko.aio.timers import Timed, TimerWheel
from koko.aio.transport import backlog_of, close, unsent_in
from koko.aio.waiting import TOO_SLOW, within
from koko.core import lifecycle
from koko.core.connection import Connection, StreamAction
from koko.core.outgoing import Outgoing
from koko.errors import CloseError
from koko.message import Kind


class ConnProtocol(Reflex, asyncio.Protocol):
    """The private half of a ``Conn``: its protocol, its timer, its waits."""

    __slots__ = (
        "_deadline_timer",
        "_due_at",
        "_half_closed",
        "_leaving",
        "_rung",
        "_shares_timers",
        "_tasks",
        "_timer_slot",
        "_timers",
        "_waiters",
        "lost",
        "read_deadline",
    )

    def __init__(
        self,
        core: Connection,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        timers: TimerWheel | None = None,
    ) -> None:
        super().__init__(core, transport, loop)
        self.lost = False
        self.read_deadline: float | None = None
        self._deadline_timer: asyncio.TimerHandle | None = None  # for read_deadline
        self._rung = 0.0  # when the last one was due
        self._half_closed = False
        self._leaving = False
        self._tasks: set[asyncio.Future[object]] | None = None
        self._waiters: list[asyncio.Future[None]] | None = None
        self._timers = timers or TimerWheel(loop)
        self._shares_timers = timers is not None
        self._timer_slot: set[Timed] | None = None
        self._due_at: float | None = None
        self.rearm()

    # What the transport calls

    def eof_received(self) -> bool:
        self._end("the peer's stream ended without a Close")
        if not self.transport.is_closing() and unsent_in(self.transport):
            # The peer may have stopped reading as well: the last bytes get a bounded time.
            self._timer_slot = self._timers.set(self.now() + self.core.close_timeout, self)
        return False  # the transport closes itself

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        if self._timer_slot is not None:
            self._timer_slot.discard(self)
        if not self._shares_timers:  # nobody else will come
            self._timers.settle()
        self._forget_deadline()
        self._end(f"the connection broke: {error}" if error else "the stream was closed")

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        self.core.keepalive.taken_at = self.now()
        self.flush()
        self.release_waiters()
        if self.core.life.state is not lifecycle.OPEN:
            self.apply_stream_action()

    # What a Conn calls

    @property
    def message_lock(self) -> MessageLock:
        """Who holds it may write; first come, first served."""
        if self.lock is None:
            self.lock = MessageLock(self.now)
        return self.lock

    async def writable(self) -> None:
        """Wait until the transport takes more, or nothing may be sent any longer."""
        while self.write_paused and self.core.may_send:
            await self.wait_for_change()

    async def vacant(self) -> None:
        """Wait until a message may begin, or nothing may be sent; for who holds the turn."""
        turn = self.message_lock
        while (self.write_paused or turn.message) and self.core.may_send:
            await self.wait_for_change()

    async def closed(self) -> None:
        """Wait until the transport is gone."""
        while not self.lost:
            await self.wait_for_change()

    async def wait_for_change(self) -> None:
        """Wait until the transport takes more, the state changes, a pong or a turn has come."""
        if self._waiters is None:
            self._waiters = []
        waiter = self.loop.create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    async def write_in_turn(self, owe: Callable[..., None], *message: object) -> None:
        """Wait for our turn and for the peer, then write; until then nothing was owed."""
        turn = self.message_lock
        turn.check_own()
        await within(turn.time_left(None), TOO_SLOW, self._write_in_turn(owe, *message))

    async def open_message(self, kind: Kind) -> Outgoing:
        """Begin a message that is written in parts, when no other is being written."""
        async with self.message_lock:
            await self.vacant()
            message = self.core.start_message(kind)
            self.message_lock.pass_to(message)
            return message

    def leave_message(self, message: Outgoing) -> None:
        """Let others send."""
        if self.message_lock.message is message:
            self.message_lock.message = self.message_lock.writer = None
            self.release_waiters()

    def set_read_deadline(self, deadline: float | None) -> None:
        """Let no read wait beyond ``deadline``; one that waits already notices."""
        self.read_deadline = deadline
        self.core.watch(deadline is not None)
        if deadline is not None and self.waiter.waiting and self._rings_after(deadline):
            self.loop.call_soon(self.waiter.wake)  # not now: this may be a handler, amid a feed

    def say_goodbye(self) -> None:
        """See a Close that is owed through to the end of the connection."""
        self._leaving = True
        self.flush()
        if self.core.full and not self.waiter.waiting:
            self.core.discard_new()  # the peer's Close is behind it
        self._resume()
        self.apply_stream_action()

    def abort(self, why: str) -> None:
        self._end(why)
        self.transport.abort()

    def disown(self) -> None:
        """End the connection in a child of fork, without a word to the peer: it is the parent's."""
        self.core.feed_eof(self.now(), INHERITED)
        disown_transport(self.transport)

    def run(self, work: Awaitable[object]) -> None:
        """Run what a handler returned in a task; what it raises ends the connection."""
        task = asyncio.ensure_future(work, loop=self.loop)
        if self._tasks is None:
            self._tasks = set()
        self._tasks.add(task)
        task.add_done_callback(self._ran)

    def release_waiters(self) -> None:
        """Have everybody who waits for a change look again."""
        if self._waiters:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def apply_stream_action(self) -> None:
        """Do to the transport what the state of the connection asks for."""
        self.rearm()
        self.release_waiters()
        core, action = self.core, self.core.stream_action
        if core.ending is not None:
            self._resume()  # up to the end of the stream; what comes is dropped
        if action is StreamAction.KEEP or (core.owed and not self.lost):
            return
        if action is StreamAction.CLOSE:
            close(self.transport)
        elif not self._half_closed:
            self._half_closed = True
            end_half(self.transport)

    def rearm(self) -> None:
        """Set the one alarm to when the core wants to be told the time."""
        due_at = self.core.due_at
        if due_at == self._due_at:
            return
        if self._timer_slot is not None:
            self._timer_slot.discard(self)
        self._due_at = due_at
        self._timer_slot = None if due_at is None else self._timers.set(due_at, self)

    def on_timer(self) -> None:
        """Tell the core the time, which it wanted to be told by now."""
        self._timer_slot = self._due_at = None
        core = self.core
        core.tick(self.now(), not self.read_paused, backlog_of(self.transport))
        self.flush()
        if core.life.state is lifecycle.CLOSED:
            self.transport.abort()  # what was just written still leaves; TLS must not wait
        self.apply_stream_action()
        if core.ending is not None:
            self.waiter.wake()

    # What a Reflex calls

    def pause_if_full(self) -> None:
        """See that what came for nobody is not kept waiting, and not followed by too much."""
        self.rearm()  # a verdict waits for the reader, but not for ever
        if not self.core.full:
            return
        if self._leaving:
            self.core.discard_new()
        elif self.core.ending is None and not (self.read_paused or self.transport.is_closing()):
            self.read_paused = True
            self.transport.pause_reading()

    def resume_if_room(self) -> None:
        """Read on if there is room again; what was held back may have owed something."""
        if not self.core.full:
            self.flush()
            self.rearm()
            self._resume()

    def slow_message(self) -> str | bytes | None:
        """Return the next message, or raise how the connection ended."""
        message: str | bytes | None = self.ask(self.core.next_message)
        return message

    @types.coroutine
    def arrives(self) -> Generator[Any, None, None]:
        """Wait, as the receiver, until there may be something to find."""
        waiter = self.next_waiter()
        waiter._asyncio_future_blocking = True
        yield waiter

    def ask(self, take: Callable[[], Any]) -> Any:
        """Return what ``take`` finds, None when ``arrives`` must be awaited for it."""
        core = self.core
        if self.waiter.waiting:
            raise self.busy()
        core.inbox.taken_at = self.now()
        try:
            found = take()
        finally:
            if core.owed:
                self.flush()
            if core.life.state is not lifecycle.OPEN:
                self.apply_stream_action()
        if self.read_paused:
            self.resume_if_room()
        if found is None and self.read_deadline is not None:
            self._mind_deadline(self.read_deadline)
        return found

    def busy(self) -> RuntimeError:
        """Return the error of a second receiver."""
        return RuntimeError(
            f"recv() is already running in task {self.waiter.receiver!r}; "
            "one receiver per connection (share messages through a queue)"
        )

    # How it works inside

    async def _write_in_turn(self, owe: Callable[..., None], *message: object) -> None:
        async with self.message_lock:
            await self.vacant()
            owe(*message)
            self.sent()

    def _mind_deadline(self, deadline: float) -> None:
        # A timer may ring before its time by what the loop calls the resolution of its clock.
        if max(self.now(), self._rung) >= deadline:
            raise TimeoutError("no message came before read_deadline")
        # One that was put off, as with each pong, sets no timer: it rings once too early.
        if self._rings_after(deadline):
            self._forget_deadline()
            self._deadline_timer = self.loop.call_at(deadline, self._wake_at, deadline)

    def _forget_deadline(self) -> None:
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
            self._deadline_timer = None

    def _rings_after(self, deadline: float) -> bool:
        return self._deadline_timer is None or self._deadline_timer.when() > deadline

    def _wake_at(self, when: float) -> None:
        self._deadline_timer = None
        self._rung = when
        self.waiter.wake()

    def _end(self, why: str) -> None:
        self.core.feed_eof(self.now(), why)
        self.rearm()
        self.release_waiters()
        self.waiter.wake()  # last: what leaves the task may be for the loop, as sys.exit() is

    def _resume(self) -> None:
        if self.read_paused:
            self.read_paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def _ran(self, task: asyncio.Future[object]) -> None:
        assert self._tasks is not None  # it was in there
        self._tasks.discard(task)
        error = failure_of(task)
        if error is None:
            return
        self.core.fault(error)
        if self.core.ending is error:
            self.flush()
            self.apply_stream_action()
            self.waiter.wake()
        elif not isinstance(error, CloseError):  # too late for any reader: it is still told
            complaint = f"a handler failed after the connection had ended: {self.core.ending}"
            self.loop.call_exception_handler({"message": complaint, "exception": error})


def failure_of(task: asyncio.Future[object]) -> BaseException | None:
    """Return what a handler's task failed with; None where somebody has cancelled it."""
    try:
        task.result()
    except asyncio.CancelledError as error:
        if not isinstance(task, asyncio.Task) or task.cancelling():
            return None
        failure = not_ours(error)
        failure.__cause__ = error
        return failure
    except BaseException as error:
        return error
    return None


def end_half(transport: asyncio.Transport) -> None:
    """End our half of the stream; the whole of it where there are no halves."""
    try:
        if transport.can_write_eof():
            transport.write_eof()
            return
    except OSError:  # the peer has reset it
        pass
    close(transport)
