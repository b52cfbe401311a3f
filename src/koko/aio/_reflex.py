"""The short way of a message, in plain Python: in from the transport to the task, and out.

What runs for every message on asyncio, and nothing else: waking the receiver where the
bytes arrive, the awaitables of ``recv`` and ``send``, the gathering of replies. What
happens seldom is ``protocol``'s, what a message means is ``koko.core``'s. ``_native_reflex.pyx``
is the twin of this file: the same names in the same order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextvars import Context
from typing import TYPE_CHECKING, Any, Self, TypeVar

from koko.aio.message_lock import MessageLock
from koko.aio.tasks import ARRIVED, FUTURE, cancelled, clock_of, may_enter, still_awaits
from koko.aio.waiting import TOO_SLOW, within
from koko.core.connection import Connection
from koko.core.lifecycle import State
from koko.core.outbox import GATHER
from koko.errors import CloseError
from koko.message import Data, Kind, PreparedMessage, kind_of

if TYPE_CHECKING:
    from koko.aio.protocol import ConnProtocol

OPEN = State.OPEN


class Waiter:
    """The wait of one receiver for what comes next; made seldom, waited on many times.

    Speaks the protocol of ``asyncio.Future``, as far as a ``Task`` and those who look into
    one use it, so that ``wake`` can enter the task at once: a Future costs a ``call_soon``
    and another turn of the loop. Cancelling goes through ``call_soon``, as with any future.
    """

    __slots__ = (
        "_asyncio_future_blocking",
        "_callback",
        "_context",
        "_loop",
        "_outcome",
        "_yielded",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asyncio_future_blocking = False
        self._loop = loop
        self._callback: Callable[[Any], object] | None = None
        self._context: Context | None = None
        # Set for a task that goes on soon and not now. It can cancel what it awaits until
        # then, so that the next wait is another Waiter's.
        self._outcome: asyncio.Future[None] | None = None
        self._yielded = False

    @property
    def waiting(self) -> bool:
        return self._callback is not None

    @property
    def receiver(self) -> str:
        """The name of the task that waits, for the error of a second one."""
        task = getattr(self._callback, "__self__", None)
        return task.get_name() if isinstance(task, asyncio.Task) else "another task"

    def wake(self) -> None:
        """Let the receiver go on: at once, or soon where its task cannot be entered now.

        Bytes arrive from inside a task where the transport is memory (tests, in-process pairs).
        """
        if self._callback is None:
            return
        if may_enter(self._loop):
            self.enter()
        else:
            self.end(ARRIVED)

    def enter(self) -> None:
        """Let the receiver go on at once; soon where that turns out to be impossible."""
        callback, context = self._callback, self._context
        assert callback is not None
        assert context is not None
        self._callback = None
        try:
            context.run(callback, ARRIVED)
        except RuntimeError:
            if not still_awaits(callback, self):
                raise
            self._callback = callback
            self.end(ARRIVED)

    def end(self, outcome: asyncio.Future[None]) -> None:
        """Let the receiver go on soon, and find this."""
        self._outcome = outcome
        callback, self._callback = self._callback, None
        if callback is not None:
            self._loop.call_soon(callback, outcome, context=self._context)

    # The awaitable

    def __await__(self) -> Generator[Any, None, None]:
        self._yielded = False
        return self  # type: ignore[return-value]  # an iterator is all that await asks for

    def __iter__(self) -> Waiter:
        return self

    def __next__(self) -> Waiter:
        if self._yielded:
            raise StopIteration
        self._yielded = self._asyncio_future_blocking = True
        return self

    # What a task asks of a future

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(
        self, callback: Callable[[Any], object], *, context: Context | None = None
    ) -> None:
        self._callback = callback
        self._context = context
        if self._outcome is not None:
            self.end(self._outcome)

    def remove_done_callback(self, callback: Callable[[Any], object]) -> int:
        if self._callback != callback:
            return 0
        self._callback = None
        return 1

    def cancel(self, msg: object = None) -> bool:
        if self._outcome is not None:
            return False
        self.end(cancelled(msg))
        return True

    # What others ask of the future that a task waits for. anyio asks whether it is one first.

    @property  # type: ignore[misc]
    def __class__(self) -> type[asyncio.Future[Any]]:  # type: ignore[override]
        return FUTURE

    def done(self) -> bool:
        return self._outcome is not None

    def cancelled(self) -> bool:
        return self._outcome is not None and self._outcome.cancelled()

    def result(self) -> None:
        return self._over().result()

    def exception(self) -> BaseException | None:
        return self._over().exception()

    def _make_cancelled_error(self) -> asyncio.CancelledError:
        error: asyncio.CancelledError = self._over()._make_cancelled_error()  # type: ignore[attr-defined]
        return error

    def _over(self) -> asyncio.Future[None]:
        if self._outcome is None:
            raise asyncio.InvalidStateError("a receiver is waiting still")
        return self._outcome


class Reflex:
    """The half of a ``ConnProtocol`` that every message passes through."""

    def __init__(
        self, core: Connection, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.core = core
        self.transport = transport
        self.loop = loop
        self.now = clock_of(loop)
        self.waiter = Waiter(loop)
        self.corked = 0  # how many blocks gather what is sent
        self.write_paused = False
        self.read_paused = False
        self.gathered = 0  # bytes that wait for the next replies
        self.feeding = False
        self.flush_due = False
        self.lock: MessageLock | None = None  # who holds it may write; made when one has to wait

    @property
    def congested(self) -> bool:
        """True when a writer has to wait for its turn or for the peer."""
        return self.write_paused or (self.lock is not None and self.lock.locked())

    def data_received(self, data: bytes) -> None:
        """Feed the core, wake the receiver, write what is owed then."""
        core, inbox = self.core, self.core.inbox
        try:
            now = self.now()
            if not inbox.only_messages:
                core.feed(data, now)
            elif (others := inbox.feed(data, now)) is not None:
                core.handle(others, now)
            waiter = self.waiter
            if waiter._callback is not None and (inbox._messages or not inbox.only_messages):
                self.feeding = True
                waiter.wake()
        finally:  # what ends a task may be for the loop as well, as sys.exit() is
            self.feeding = False
            if core.owed:
                self.flush()
            if core.life.state is not OPEN:
                self.apply_stream_action()
            if self.waiter._callback is None:
                self.pause_if_full()

    def next_waiter(self) -> Waiter:
        """Return what a receiver is to wait for; a task may not have left the last one yet."""
        if self.waiter._outcome is not None:
            self.waiter = Waiter(self.loop)
        return self.waiter

    def next_message(self) -> str | bytes | None:
        """Return the next message, None when ``waiter`` must be awaited for it."""
        core, inbox = self.core, self.core.inbox
        if self.waiter._callback is not None and not inbox._messages:
            raise self.busy()
        if not inbox.only_messages:
            return self.slow_message()
        message = inbox.take()
        if message is None:
            if core.owed:
                self.flush()
        elif not inbox._messages and inbox.decoder.backlog:
            core.catch_up()
        if message is not None and not self.feeding:
            inbox.taken_at = self.now()  # it had waited
        if self.read_paused:
            self.resume_if_room()
        return message

    async def receive(self) -> str | bytes:
        """Return the next message, waiting for it if necessary."""
        while (message := self.next_message()) is None:
            await self.next_waiter()
        return message

    def write(self, kind: int, message: Data) -> None:
        """Send a message; whoever calls it has the turn."""
        self.core.send(kind, message)
        self.sent()

    def sent(self) -> None:
        """Write what was just owed: at once, or with the next replies while messages wait.

        What is gathered leaves at the end of the loop's turn at the latest.
        """
        core = self.core
        if self.corked or core.inbox._messages:
            self.gathered += len(core.owed[-1])
            if self.gathered < GATHER:
                if not self.feeding and not self.flush_due:
                    self.flush_due = True
                    self.loop.call_soon(self.flush)
                return
        self.flush()

    def flush(self) -> None:
        """Write everything owed, unless the transport asked us to wait."""
        self.flush_due = False
        self.gathered = 0
        if not self.core.owed or self.write_paused:
            return
        if self.transport.is_closing():  # it failed: who sends on waits for its end to be told
            self.write_paused = True
        else:
            self.transport.write(self.core.take_owed())

    if TYPE_CHECKING:  # what a ConnProtocol adds, for what happens seldom

        def busy(self) -> RuntimeError: ...
        def slow_message(self) -> str | bytes | None: ...
        def pause_if_full(self) -> None: ...
        def apply_stream_action(self) -> None: ...
        def resume_if_room(self) -> None: ...
        async def write_in_turn(self, owe: Callable[..., None], *message: object) -> None: ...


class MessageVerbs:
    """The verbs of a ``Conn`` for whole messages."""

    def __init__(self, protocol: ConnProtocol) -> None:
        self._protocol = protocol

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | bytes:
        """Return the next message; an ordinary end of the connection ends the iteration.

        Ordinary is our own ``close`` and a Close with 1000, 1001 or no code; any other
        end is raised, as by ``recv``.
        """
        protocol = self._protocol
        try:
            while (message := protocol.next_message()) is None:
                await protocol.next_waiter()
            return message
        except CloseError as error:
            if error.ordinary:
                raise StopAsyncIteration from None
            raise

    def recv(self, timeout: float | None = None) -> Coroutine[Any, Any, str | bytes]:
        """Return the next message, waiting for it if necessary: text as str, binary as bytes.

        Raises:
            CloseError: the connection is over; see ``code``, ``reason``, ``sent``, ``received``.
            ProtocolError: the peer broke the protocol; a Close that says so was sent.
            ErrReadLimit: the message is larger than ``read_limit``; closed with 1009.
            TimeoutError: nothing arrived within ``timeout`` seconds; nothing is lost.
            RuntimeError: another task is receiving already.
        """
        receiving = self._protocol.receive()
        return receiving if timeout is None else within(timeout, "no message came", receiving)

    def send(self, message: Data, timeout: float | None = None) -> Coroutine[Any, Any, None]:
        """Send one message: str as text, bytes and other buffers as binary.

        Waits while the peer reads too slowly. Returns when the message has been handed
        to the transport, which does not mean that the peer has it.

        Raises:
            ErrCloseSent: a Close was sent already; nothing was written.
            CloseError: the connection is over.
            TimeoutError: it was not our turn within ``timeout`` seconds; nothing was sent.
        """
        if type(message) is str:
            kind = Kind.TEXT
        else:
            kind = Kind.BINARY if type(message) is bytes else kind_of(message)
        sending = self._send(kind, message)
        return sending if timeout is None else within(timeout, TOO_SLOW, sending)

    async def _send(self, kind: Kind, message: Data) -> None:
        protocol = self._protocol
        if (protocol.lock is None and not protocol.write_paused) or not protocol.congested:
            protocol.write(kind, message)
        else:
            await protocol.write_in_turn(protocol.core.send, kind, message)


C = TypeVar("C", bound=MessageVerbs)


def offer(conns: Iterable[C], prepared: PreparedMessage) -> tuple[int, int, list[C]]:
    """Send a prepared message to all who have room, without waiting.

    Returns how many it was sent to, how many were over, and who has no room.
    """
    sent = gone = 0
    late: list[C] = []
    for conn in conns:
        protocol = conn._protocol
        if protocol.core.life.state is not OPEN:
            gone += 1
        elif protocol.write_paused or not (protocol.lock is None or protocol.lock.free):
            late.append(conn)
        else:
            protocol.core.send_prepared(prepared)
            protocol.sent()
            sent += 1
    return sent, gone, late
