"""Moves bytes between an asyncio transport and the core, and wakes the tasks that wait.

Every byte can go this way. It is plain Python, complete by itself, and takes any transport and
any codec; ``_native_fast_path`` is an optional short cut for messages before it. ``koko.core``
decides everything about WebSocket.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any

from koko.aio.forking import INHERITED, disown_transport
from koko.aio.handler_tasks import HandlerTasks
from koko.aio.message_lock import MessageLock
from koko.aio.read_deadline import ReadDeadline
from koko.aio.tasks import clock_of
from koko.aio.timers import Timed, TimerWheel
from koko.aio.transport import backlog_of, base_of, close, end_half, has_failed, unsent_in
from koko.aio.waiter import Waiter
from koko.core.connection import Connection
from koko.core.lifecycle import CLOSED, OPEN, StreamAction
from koko.core.outbox import GATHER
from koko.errors import CloseError
from koko.message import Data

KEEP, CLOSE, _ = StreamAction


class GeneralPath(asyncio.Protocol):
    """The protocol of one connection, its timer and its waits.

    It stores no fields itself, so that the fast path can keep some of them in C: the classes
    in ``koko.aio.protocol`` store them.
    """

    if not TYPE_CHECKING:
        __slots__ = ()

    core: Connection
    transport: asyncio.Transport
    base: asyncio.Transport | None  # the transport of the socket, where that is another
    loop: asyncio.AbstractEventLoop
    now: Callable[[], float]
    waiter: Waiter
    corked: int  # how many cork() blocks are open
    write_paused: bool
    read_paused: bool
    gathered: int  # bytes that wait to be written with the next replies
    feeding: bool
    flush_due: bool
    lock: MessageLock | None  # its holder may write; made when a writer has to wait

    def __init__(
        self,
        core: Connection,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        timers: TimerWheel | None = None,
    ) -> None:
        self.hold(core, transport, loop)
        self.base = base_of(transport)
        self.lost = False
        self.read_deadline: ReadDeadline | None = None
        self._half_closed = self._leaving = False
        self._handler_tasks: HandlerTasks | None = None
        self._waiters: list[asyncio.Future[None]] | None = None
        self._timers = timers or TimerWheel(loop)
        self._shares_timers = timers is not None
        self._timer_slot: set[Timed] | None = None
        self._due_at: float | None = None
        self.rearm()

    def hold(
        self, core: Connection, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop
    ) -> None:
        """Set the fields that every message needs."""
        self.core = core
        self.transport = transport
        self.loop = loop
        self.now = clock_of(loop)
        self.waiter = Waiter(loop)
        self.corked = self.gathered = 0
        self.write_paused = self.read_paused = self.feeding = self.flush_due = False
        self.lock = None

    # What the transport calls

    def data_received(self, data: bytes) -> None:
        """Feed the core, wake the receiver, then write what is owed."""
        core, inbox = self.core, self.core.inbox
        try:
            now = self.now()
            if not inbox.only_messages:
                core.feed(data, now)
            elif (others := inbox.feed(data, now)) is not None:
                core.handle(others, now)
            waiter = self.waiter
            if waiter.callback is not None and (inbox.messages or not inbox.only_messages):
                self.feeding = True
                waiter.wake()
        finally:  # an error that ends a task may be for the loop, such as SystemExit
            self.feeding = False
            if core.owed:
                self.flush()
            if core.life.state is not OPEN:
                self.see_to_end()
            elif self.waiter.callback is None:
                self.pause_if_full()

    def eof_received(self) -> bool:
        self._end("the peer's stream ended without a Close")
        if not self.transport.is_closing() and unsent_in(self.transport):
            # The peer may have stopped reading: give the last bytes a bounded time to leave.
            self._timer_slot = self._timers.set(self.now() + self.core.close_timeout, self)
        return False  # the transport closes itself

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self._end(f"the connection broke: {error}" if error else "the stream was closed")
        if not self._shares_timers:  # no other connection would cancel the loop's timer
            self._timers.settle()
        if self.read_deadline is not None:
            self.read_deadline.forget()

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        self.core.keepalive.taken_at = self.now()
        self.flush()
        self.release_waiters()
        if self.core.life.state is not OPEN:
            self.apply_stream_action()

    # Whole messages: the fast path replaces these

    @property
    def congested(self) -> bool:
        """True when a writer has to wait for the lock or for the peer."""
        return self.write_paused or (self.lock is not None and self.lock.locked())

    def next_waiter(self) -> Waiter:
        """Return what a receiver awaits: a new one if a task has not left the last one yet."""
        if self.waiter._outcome is not None:
            self.waiter = Waiter(self.loop)
        return self.waiter

    def next_message(self) -> str | bytes | None:
        """Return the next message, None when ``next_waiter`` must be awaited for it."""
        core, inbox = self.core, self.core.inbox
        if self.waiter.callback is not None and not inbox.messages:
            raise self.busy()
        if not inbox.only_messages:
            return self.slow_message()
        message = inbox.take()
        if message is None:
            if core.owed:
                self.flush()
        elif not inbox.messages and inbox.decoder.backlog:
            core.catch_up()
        if message is not None and not self.feeding:
            inbox.taken_at = self.now()  # the message had waited in the inbox
        if self.read_paused:
            self.resume_if_room()
        return message

    def write(self, kind: int, message: Data) -> None:
        """Send a message; the caller has made sure that none is being written."""
        self.core.send(kind, message)
        self.sent()

    def sent(self) -> None:
        """Write what is owed now: at once, or with the next replies while messages wait.

        What is gathered is written at the end of the loop's turn at the latest.
        """
        core = self.core
        if self.corked or core.inbox.messages:
            self.gathered += len(core.owed[-1])
            if self.gathered < GATHER:
                if not self.feeding and not self.flush_due:
                    self.flush_due = True
                    self.loop.call_soon(self.flush)
                return
        self.flush()

    def flush(self) -> None:
        """Write everything owed, unless the transport has paused writing."""
        self.flush_due = False
        self.gathered = 0
        if not self.core.owed or self.write_paused:
            return
        if has_failed(self.transport, self.base):  # writers wait until connection_lost
            self.write_paused = True
        else:
            self.transport.write(self.core.take_owed())

    # Receiving

    def slow_message(self) -> str | bytes | None:
        """Return the next message, past control frames, or raise the end of the connection."""
        message: str | bytes | None = self.ask(self.core.next_message)
        return message

    @types.coroutine
    def arrives(self) -> Generator[Any, None, None]:
        """Wait, as the one receiver, until something may have come."""
        waiter = self.next_waiter()
        waiter._asyncio_future_blocking = True
        yield waiter

    def ask(self, take: Callable[[], Any]) -> Any:
        """Return what ``take`` returns; None means: await ``arrives`` and ask again."""
        core = self.core
        if self.waiter.waiting:
            raise self.busy()
        core.inbox.taken_at = self.now()
        try:
            found = take()
        finally:
            if core.owed:
                self.flush()
            if core.life.state is not OPEN and not self.feeding:
                self.apply_stream_action()
        if self.read_paused:
            self.resume_if_room()
        if found is None and self.read_deadline is not None:
            self.read_deadline.limit_wait(self._look_again)
        return found

    def busy(self) -> RuntimeError:
        """Return the error of a second receiver."""
        return RuntimeError(
            f"recv() is already running in task {self.waiter.receiver!r}; "
            "one receiver per connection (share messages through a queue)"
        )

    def pause_if_full(self) -> None:
        """Pause reading when the inbox is full and no task receives."""
        core = self.core
        if not core.full:
            return
        if self._leaving:
            core.discard_new()
        elif core.life.ending is None and not (self.read_paused or self.transport.is_closing()):
            self.read_paused = True
            self.transport.pause_reading()

    def resume_if_room(self) -> None:
        """Resume reading if the inbox has room; frames that were held back may owe answers."""
        if not self.core.full:
            self.flush()
            self.rearm()
            self._resume()

    def set_read_deadline(self, deadline: float | None) -> None:
        """Set the deadline of all reads, of one that waits already, too."""
        if self.read_deadline is None:
            self.read_deadline = ReadDeadline(self.loop, self.now)
        self.read_deadline.at = deadline
        self.core.watch(deadline is not None)
        if self.waiter.waiting:
            self.read_deadline.bring_forward(self._look_again)

    @property
    def message_lock(self) -> MessageLock:
        """The lock whose holder may write; first come, first served."""
        if self.lock is None:
            self.lock = MessageLock(self.now)
        return self.lock

    # The state of the connection

    async def closed(self) -> None:
        """Wait until the transport is gone."""
        while not self.lost:
            await self.wait_for_change()

    async def wait_for_change(self) -> None:
        """Wait for room in the transport, a new state, a pong, or the end of a message."""
        if self._waiters is None:
            self._waiters = []
        waiter = self.loop.create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def release_waiters(self) -> None:
        """Wake all tasks in ``wait_for_change``, so that they check again."""
        if self._waiters:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def say_goodbye(self) -> None:
        """Write a Close that is owed, and begin to wait for the end of the connection."""
        self._leaving = True
        self.flush()
        if self.core.full and not self.waiter.waiting:
            self.core.discard_new()  # to reach the peer's Close behind the unread messages
        self._resume()
        self.apply_stream_action()

    def abort(self, why: str) -> None:
        self._end(why)
        self.transport.abort()

    def disown(self) -> None:
        """End the connection in a child of fork; the peer must not notice, it is the parent's."""
        self.core.feed_eof(self.now(), INHERITED)
        disown_transport(self.transport)

    def see_to_end(self) -> None:
        """Go on with the end of the connection after bytes have come."""
        if self.transport.is_closing():
            return  # nothing is left to do but wait for ``connection_lost``
        self.apply_stream_action()
        if not self.waiter.waiting:
            self.pause_if_full()

    def apply_stream_action(self) -> None:
        """Do to the transport what the state of the connection asks for."""
        self.rearm()
        self.release_waiters()
        core, life = self.core, self.core.life
        if self.read_paused and life.ending is not None:
            self._resume()  # to reach the end of the stream; messages are dropped
        action = life.stream_action
        if action is KEEP or (core.owed and not self.lost):
            return
        if action is CLOSE:
            close(self.transport)
        elif not self._half_closed:
            self._half_closed = True
            end_half(self.transport)

    def rearm(self) -> None:
        """Set the connection's one timer to the next deadline of the core."""
        due_at = self.core.due_at
        if due_at != self._due_at:
            self._disarm()
            self._due_at = due_at
            self._timer_slot = None if due_at is None else self._timers.set(due_at, self)

    def _disarm(self) -> None:
        if self._timer_slot is not None:
            self._timer_slot.discard(self)
        self._timer_slot = self._due_at = None

    def on_timer(self) -> None:
        """Tell the core that one of its deadlines has come."""
        self._timer_slot = self._due_at = None
        core = self.core
        core.tick(self.now(), not self.read_paused, backlog_of(self.transport))
        self.flush()
        if core.life.state is CLOSED:
            self.transport.abort()  # what was just written has left; TLS would wait for the peer
        self.apply_stream_action()
        if core.life.ending is not None:
            self.waiter.wake()

    def _end(self, why: str) -> None:
        self.core.feed_eof(self.now(), why)
        self._disarm()
        self.release_waiters()
        self.waiter.wake()  # last: the task may raise an error for the loop, such as SystemExit

    def _look_again(self) -> None:  # for the task that receives by then
        self.waiter.wake()

    def _resume(self) -> None:
        if self.read_paused:
            self.read_paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    # The handlers of control frames

    def run(self, work: Awaitable[object]) -> None:
        """Run what a handler returned in a task; what it raises ends the connection."""
        if self._handler_tasks is None:
            self._handler_tasks = HandlerTasks(self.loop)
        self._handler_tasks.run(work, self._handler_failed)

    def _handler_failed(self, error: BaseException) -> None:
        self.core.fault(error)
        if self.core.ending is error:
            self.flush()
            self.apply_stream_action()
            self.waiter.wake()
        elif not isinstance(error, CloseError):  # too late for a receiver: tell the loop
            complaint = f"a handler failed after the connection had ended: {self.core.ending}"
            self.loop.call_exception_handler({"message": complaint, "exception": error})
