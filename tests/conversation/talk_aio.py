"""Conversations of ``koko.aio``, on a loop whose time stands still until it is advanced.

Everything is memory, so a loop that would wait for its selector has nothing left to
do: there it stops, and the script goes on.
"""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from koko.aio import Conn, Delivery, broadcast
from koko.aio.protocol import ConnProtocol
from koko.core.connection import Connection
from koko.core.deflate import Agreed
from koko.core.options import ConnectionOptions
from koko.core.wire import Role
from koko.http import Request, Response
from tests.conversation.peer import Peer
from tests.core.ends import at_interval

HIGH_WATER = 1 << 16  # bytes in a transport from which asyncio asks for a pause
SEGMENT = 1 << 14  # bytes that arrive at once


class IdleSelector(selectors.DefaultSelector):
    """A selector that never waits; ``on_idle`` learns how long it should have."""

    on_idle: Callable[[float | None], object]

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout > 0:
            self.on_idle(timeout)
        return super().select(0)


class TurnedLoop(asyncio.SelectorEventLoop):
    """An event loop with a clock that you turn."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self._idle_for: float | None = None
        selector = IdleSelector()
        selector.on_idle = self._idle
        super().__init__(selector)

    def time(self) -> float:
        return self.seconds

    def _idle(self, timeout: float | None) -> None:
        self._idle_for = timeout
        self.stop()

    def settle(self) -> None:
        """Run until there is nothing left to do at this time."""
        self.run_forever()

    def advance(self, seconds: float) -> None:
        """Let time pass; what is due on the way happens at its time."""
        until = self.seconds + seconds
        self.settle()
        while self._idle_for is not None and self.seconds + self._idle_for <= until:
            self.seconds += self._idle_for
            self.settle()
        self.oversleep(until - self.seconds)

    def oversleep(self, seconds: float) -> None:
        """Let time pass in one go, as a process does that was too busy to look."""
        self.seconds += seconds
        self.settle()


class MemoryTransport(asyncio.Transport):
    """A transport that writes into the peer's hands."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__({"sockname": ("127.0.0.1", 1), "peername": ("127.0.0.1", 2)})
        self.written = bytearray()
        self.writes = 0
        self.ended = False
        self.dropped = False
        self._loop = loop
        self._protocol: Any = None
        self._incoming: deque[bytes] = deque()
        self._held = bytearray()
        self._stalled = self._paused = self._closing = self._gone = False

    # What the peer does

    @property
    def unheard(self) -> int:
        return sum(map(len, self._incoming))

    def deliver(self, octets: bytes) -> None:
        for at in range(0, len(octets), SEGMENT):
            self._incoming.append(octets[at : at + SEGMENT])
        self._loop.call_soon(self._hand_on)

    def hang_up(self) -> None:
        self._incoming.append(b"")
        self._loop.call_soon(self._hand_on)

    def break_(self) -> None:
        self._loop.call_soon(self._lose, ConnectionResetError("Connection reset by peer"))

    def stall(self) -> None:
        self._stalled = True

    def take(self, count: int) -> None:
        full = len(self._held) > HIGH_WATER
        self.written += self._held[:count]
        del self._held[:count]
        if full and len(self._held) < HIGH_WATER // 4:
            self._loop.call_soon(self._protocol.resume_writing)

    def flow(self) -> None:
        self._stalled = False
        full = len(self._held) > HIGH_WATER
        self.written += self._held
        self._held.clear()
        if full:
            self._loop.call_soon(self._protocol.resume_writing)
        if self._closing:
            self._loop.call_soon(self._lose, None)

    def _hand_on(self) -> None:
        while self._incoming and not (self._paused or self._closing):
            octets = self._incoming.popleft()
            if octets:
                self._protocol.data_received(octets)
            elif not self._protocol.eof_received():
                self.close()

    def _lose(self, error: Exception | None) -> None:
        if not self._gone:
            self._gone = self._closing = self.dropped = True
            self._protocol.connection_lost(error)

    # What our side does

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol  # type: ignore[no-any-return]

    def write(self, octets: bytes | bytearray | memoryview) -> None:  # type: ignore[override]
        assert not self.ended, "write() after write_eof()"
        self.writes += 1
        if not self._stalled:
            self.written += octets
            return
        self._held += octets
        if len(self._held) > HIGH_WATER:
            self._protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return len(self._held)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._loop.call_soon(self._hand_on)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if not self._held:
                self._loop.call_soon(self._lose, None)

    def abort(self) -> None:
        self._closing = True
        self._held.clear()
        self._loop.call_soon(self._lose, None)


class Call:
    """A verb that was begun and may have to wait."""

    def __init__(self, loop: TurnedLoop, verb: str, work: Coroutine[Any, Any, Any]) -> None:
        self._loop = loop
        self._verb = verb
        self.task = loop.create_task(work, name=verb)
        # A script need not ask how every call ended.
        self.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        loop.settle()

    @property
    def waits(self) -> bool:
        return not self.task.done()

    def result(self) -> Any:
        """Return or raise what the verb did; it must be done."""
        assert self.task.done(), f"{self._verb}() still waits"
        return self.task.result()

    def cancel(self) -> None:
        self.task.cancel()
        self._loop.settle()


class Us:
    """A ``Conn`` with the verbs of ``koko.sync``; ``start_`` before one only begins it."""

    def __init__(self, conn: Any, loop: TurnedLoop) -> None:
        self.conn = conn
        self._loop = loop

    def on(self, stream: Any) -> Us:
        """Return the same for a reader or a writer of the connection's."""
        return Us(stream, self._loop)

    def __getattr__(self, name: str) -> Any:
        verb = name.removeprefix("start_")
        begin = partial(self._begin, verb)
        return begin if verb != name else lambda *args, **named: begin(*args, **named).result()

    def _begin(self, verb: str, *args: object, **named: object) -> Call:
        return Call(self._loop, verb, self._work(verb, *args, **named))

    async def _work(self, verb: str, *args: Any, **named: Any) -> Any:
        if verb == "iterate":
            return [message async for message in self.conn]
        if verb == "leave":  # the ``async with`` block, with what was raised in it
            async with self.conn:
                if args:
                    raise args[0]
            return None
        done = getattr(self.conn, verb)(*args, **named)
        return done if done is None or verb == "abort" else await done


class AioTalk:
    """Opens connections of ``koko.aio`` to peers in memory."""

    face = "aio"

    def __init__(self) -> None:
        self.clock = TurnedLoop()

    def open(
        self, role: Role = Role.CLIENT, agreed: Agreed | None = None, **options: Any
    ) -> tuple[Us, Peer]:
        """Return us, in this role, and the peer."""
        loop = self.clock
        line = MemoryTransport(loop)
        core = Connection(role, ConnectionOptions(**options), agreed, loop.time(), at_interval)
        protocol = ConnProtocol(core, line, loop)
        line.set_protocol(protocol)
        conn = Conn(protocol, Request("GET", "/", {}), Response(101), None)  # type: ignore[arg-type]
        return Us(conn, loop), Peer(role.peer, line, loop.settle)

    def broadcast(self, crowd: list[Us], message: Any, **options: Any) -> Delivery:
        """Send a message to all of us; it must not have to wait."""
        work = broadcast([us.conn for us in crowd], message, **options)
        delivery: Delivery = Call(self.clock, "broadcast", work).result()
        return delivery

    def end(self) -> None:
        """End what is still going on and check that it ended in order."""
        tasks = asyncio.all_tasks(self.clock)
        for task in tasks:
            task.cancel()
        self.clock.settle()
        self.clock.close()
        assert all(task.done() for task in tasks)
