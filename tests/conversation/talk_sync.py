"""Conversations of ``koko.sync``, each verb in a thread, on a clock that stands still.

A thread that would wait for bytes, for room or for another thread waits here, in
``TurnedClock.block``; so it is known when all of them wait and nothing more happens.
The housekeeper's rounds are done by hand, as the clock comes to them.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any

from koko.core.connection import Connection
from koko.core.deflate import Agreed
from koko.core.options import ConnectionOptions
from koko.core.wire import Role
from koko.http import Request, Response
from koko.sync import Conn, Delivery, broadcast
from koko.sync.clock import Clock
from koko.sync.driver import Driver
from koko.sync.housekeeper import PERIOD, Kept
from koko.sync.transport import READ, WRITE
from tests.conversation.peer import Peer
from tests.core.ends import at_interval

PIPE = 1 << 16  # bytes that the system takes for a peer who does not read
BREATH = 0.02  # seconds between two rounds of the housekeeper, at least
HUNG = 5.0  # real seconds after which a test that is stuck fails


class TurnedClock(Clock):
    """The time, and who waits for it."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.changed = threading.Condition(threading.RLock())
        self.kept: list[Kept] = []
        self._busy = 0
        self._waits: list[tuple[Callable[[], bool], float | None]] = []
        self._round_at = self.seconds + PERIOD

    def now(self) -> float:  # type: ignore[override]
        return self.seconds

    def wait(self, ticket: threading.Lock, timeout: float) -> None:
        self.block(lambda: not ticket.locked(), timeout)

    def wake(self, ticket: threading.Lock) -> None:
        with self.changed:
            ticket.release()
            self.changed.notify_all()

    def block(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until ``done()`` or until the clock has been turned so far."""
        with self.changed:
            wait = (done, None if timeout is None else self.seconds + timeout)
            self._waits.append(wait)
            self._busy -= 1
            self.changed.notify_all()
            self.changed.wait_for(lambda: self._is_over(wait))
            self._busy += 1
            self._waits.remove(wait)
            return done()

    def call(self, work: Callable[[], object]) -> threading.Thread:
        """Begin some work in a thread of its own."""

        def run() -> None:
            try:
                work()
            finally:
                with self.changed:
                    self._busy -= 1
                    self.changed.notify_all()

        with self.changed:
            self._busy += 1
        thread = threading.Thread(target=run, name="worker", daemon=True)
        thread.start()
        return thread

    def settle(self) -> None:
        """Wait until every thread waits for something that is not there."""
        with self.changed:
            self.changed.notify_all()
            assert self.changed.wait_for(self._is_still, HUNG), "a thread is stuck"

    def advance(self, seconds: float) -> None:
        """Let time pass; what is due on the way happens at its time."""
        until = self.seconds + seconds
        while (at := min(self._moments(), default=until)) < until:
            self._turn_to(at)
        self._turn_to(until)

    def oversleep(self, seconds: float) -> None:
        """Let time pass in one go, as a process does that was too busy to look."""
        self._round_at = self.seconds + seconds
        self._turn_to(self._round_at)

    def _turn_to(self, now: float) -> None:
        self.seconds = now
        self.settle()
        if now >= self._round_at:
            self._round_at = now + PERIOD
            for kept in tuple(self.kept):
                self._busy += 1
                due_at = kept.look_after()
                self._busy -= 1
                if due_at is not None:  # not before the clock is turned again
                    self._round_at = max(now + BREATH, min(self._round_at, due_at))
            self.settle()

    def _moments(self) -> Iterable[float]:
        yield self._round_at
        with self.changed:
            for _, deadline in self._waits:
                if deadline is not None:
                    yield deadline

    def _is_over(self, wait: tuple[Callable[[], bool], float | None]) -> bool:
        done, deadline = wait
        return done() or (deadline is not None and self.seconds >= deadline)

    def _is_still(self) -> bool:
        return not self._busy and not any(map(self._is_over, self._waits))

    # In the place of the housekeeper, whose rounds we do

    def keep(self, kept: Kept) -> None:
        self.kept.append(kept)

    def forget(self, kept: Kept) -> None:
        self.kept.remove(kept)


class MemoryStream:
    """A stream that writes into the peer's hands."""

    driver: Driver

    def __init__(self, clock: TurnedClock) -> None:
        self.stream = self
        self.socket = socket.socket()  # only for its addresses
        self.written = bytearray()
        self.writes = 0
        self.ended = False
        self.dropped = False
        self._clock = clock
        self._incoming = bytearray()
        self._rest = b""
        self._room: int | None = None  # None for as much as one likes
        self._over = False
        self._error: OSError | None = None

    # What the peer does

    @property
    def unheard(self) -> int:
        return len(self._incoming)

    def deliver(self, octets: bytes) -> None:
        with self._clock.changed:
            self._incoming += octets

    def hang_up(self) -> None:
        self._over = True

    def break_(self) -> None:
        self._error = ConnectionResetError(104, "Connection reset by peer")

    def stall(self) -> None:
        self._room = PIPE

    def take(self, count: int) -> None:
        with self._clock.changed:
            self._room = (self._room or 0) + count

    def flow(self) -> None:
        self._room = None

    # What our side does

    @property
    def pending(self) -> int:
        return len(self._rest)

    def recv(self) -> bytes | None:
        if not self._ready(READ):
            return None
        with self._clock.changed:
            if self._error is not None:
                raise self._error
            octets = bytes(self._incoming[: 1 << 14])
            del self._incoming[: 1 << 14]
            return octets

    steady = True

    def write(self, frames: list[bytes]) -> bool:
        if self.dropped:
            raise BrokenPipeError(32, "nobody is there")
        assert not self.ended, "write() after end()"
        self.writes += 1
        self._rest += b"".join(frames)
        frames.clear()
        return self.flush()

    def flush(self) -> bool:
        room = len(self._rest) if self._room is None else self._room
        left, self._rest = self._rest[:room], self._rest[room:]
        self.written += left
        if self._room is not None:
            self._room -= len(left)
        return not self._rest

    def wait(self, events: int, timeout: float | None) -> int:
        self._clock.block(lambda: bool(self._ready(events)), timeout)
        return self._ready(events)

    def _ready(self, events: int) -> int:
        if self.dropped or self._error is not None:
            return events
        readable = READ if self._incoming or self._over else 0
        return events & (readable | (WRITE if self._room != 0 else 0))

    def end(self) -> None:
        self.ended = True

    def shutdown(self) -> None:
        with self._clock.changed:
            self.dropped = self._over = True
            self._clock.changed.notify_all()

    def close(self) -> None:
        self.shutdown()
        self.socket.close()


class Call:
    """A verb that was begun and may have to wait."""

    def __init__(self, clock: TurnedClock, verb: str, work: Callable[[], Any]) -> None:
        self._verb = verb
        self._work = work
        self._outcome: list[Any] = []
        self._error: BaseException | None = None
        self.thread = clock.call(self._run)
        clock.settle()

    def _run(self) -> None:
        try:
            self._outcome.append(self._work())
        except BaseException as error:
            self._error = error

    @property
    def waits(self) -> bool:
        return self._error is None and not self._outcome

    def result(self) -> Any:
        """Return or raise what the verb did; it must be done."""
        assert not self.waits, f"{self._verb}() still waits"
        if self._error is not None:
            raise self._error
        return self._outcome[0]


class Us:
    """A ``Conn`` each of whose verbs runs in a thread; ``start_`` before one only begins it."""

    def __init__(self, conn: Any, clock: TurnedClock) -> None:
        self.conn = conn
        self._clock = clock

    def on(self, stream: Any) -> Us:
        """Return the same for a reader or a writer of the connection's."""
        return Us(stream, self._clock)

    def __getattr__(self, name: str) -> Any:
        verb = name.removeprefix("start_")
        if verb == name:
            return lambda *args, **named: self._begin(verb, *args, **named).result()
        return lambda *args, **named: self._begin(verb, *args, **named)

    def _begin(self, verb: str, *args: Any, **named: Any) -> Call:
        return Call(self._clock, verb, lambda: self._work(verb, *args, **named))

    def _work(self, verb: str, *args: Any, **named: Any) -> Any:
        if verb == "iterate":
            return list(self.conn)
        if verb == "leave":  # the ``with`` block, with what was raised in it
            with self.conn:
                if args:
                    raise args[0]
            return None
        return getattr(self.conn, verb)(*args, **named)


class SyncTalk:
    """Opens connections of ``koko.sync`` to peers in memory."""

    face = "sync"

    def __init__(self) -> None:
        self.clock = TurnedClock()
        self._conns: list[Conn] = []

    def open(
        self, role: Role = Role.CLIENT, agreed: Agreed | None = None, **options: Any
    ) -> tuple[Us, Peer]:
        """Return us, in this role, and the peer."""
        clock = self.clock
        line = self._line()
        core = Connection(role, ConnectionOptions(**options), agreed, clock.seconds, at_interval)
        line.driver = driver = Driver(core, line.stream, clock=clock, keeper=clock)
        conn = Conn(driver, Request("GET", "/", {}), Response(101), None)  # type: ignore[arg-type]
        self._conns.append(conn)
        return Us(conn, clock), Peer(role.peer, line, clock.settle)

    def _line(self) -> Any:
        return MemoryStream(self.clock)

    def broadcast(self, crowd: list[Us], message: Any, **options: Any) -> Delivery:
        """Send a message to all of us; it must not have to wait."""
        conns = [us.conn for us in crowd]
        call = Call(self.clock, "broadcast", lambda: broadcast(conns, message, **options))
        delivery: Delivery = call.result()
        return delivery

    def end(self) -> None:
        """End what is still going on and check that it ended in order."""
        for conn in self._conns:
            Us(conn, self.clock).abort()
        self.clock.settle()
        assert all(conn._driver.closed for conn in self._conns)
