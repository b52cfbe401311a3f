"""Conversations of ``koko.sync`` over a socket pair, for the fast path: it needs a descriptor.

The clock is the turned one, and all waits of the general way are on it. A thread on the
fast path waits in the system, where the clock does not see it: it is known to wait when
every byte that the peer has sent was fed. Only the general way knows a peer that stops
reading: for so long the descriptor is kept from the fast path, as that of a closed socket.
"""

from __future__ import annotations

import fcntl
import select
import socket
import sys
import termios
from typing import Any

from koko.sync.driver import Driver
from koko.sync.transport import READ, WRITE, PlainStream
from tests.conversation.talk_sync import HUNG, PIPE, SyncTalk, TurnedClock

_LOOK = 0.0005  # seconds between two looks at threads that wait in the system


class WatchedClock(TurnedClock):
    """The turned clock, which also knows who waits in the system."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[SocketLine] = []

    def settle(self) -> None:
        looks = int(HUNG / _LOOK)
        with self.changed:
            self.changed.notify_all()
            while not self._is_still():
                self._carry()
                self.changed.wait(_LOOK)
                looks -= 1
                assert looks, "a thread is stuck"
        self._carry()

    def _carry(self) -> None:
        for line in self.lines:
            line.push()
            line.drain()

    def _is_still(self) -> bool:
        asleep = sum(line.has_sleeper for line in self.lines)
        return self._busy == asleep and not any(map(self._is_over, self._waits))


class OurSocket(socket.socket):
    """Our end: counts how often the fast path came, and tells how the line was ended."""

    line: SocketLine
    visits = 0

    def fileno(self) -> int:
        if sys._getframe(1).f_code.co_filename.endswith("conn.py"):  # called by C, from a Conn
            self.visits += 1
            if self.line.room is not None:
                return -1
        return super().fileno()

    def send(self, octets: Any, flags: int = 0) -> int:  # type: ignore[override]
        room = self.line.room
        if room is None:
            return super().send(octets, flags)
        if not room:
            raise BlockingIOError
        sent = super().send(octets[:room], flags)
        self.line.room = room - sent
        return sent

    def close(self) -> None:
        self.line.note_left()
        super().close()

    def shutdown(self, how: int) -> None:
        self.line.ended = self.line.ended or how == socket.SHUT_WR
        self.line.dropped = self.line.dropped or how == socket.SHUT_RDWR
        super().shutdown(how)
        self.line.wake()


class SocketLine:
    """The pair: what the peer does with its end, and how ours waits."""

    writes = 0  # unknown: the fast path's cannot be counted

    def __init__(self, clock: WatchedClock) -> None:
        ours, self._theirs = socket.socketpair()
        self._ours = OurSocket(fileno=ours.detach())
        self._ours.line = self
        self._theirs.setblocking(False)
        self.stream = PlainStream(self._ours)
        self.stream.wait = self._wait  # type: ignore[method-assign]
        self.driver: Driver | None = None
        self.written = bytearray()
        self.ended = False
        self.dropped = False
        self.room: int | None = None  # as in ``MemoryStream``
        self._clock = clock
        self._delivered = 0
        self._unsent = bytearray()  # waits until our side has read what is before it
        self._over = False
        self._left = 0  # bytes that had not been read when our end was closed
        clock.lines.append(self)

    @property
    def visits(self) -> int:
        """How often the fast path has come for the descriptor."""
        return self._ours.visits

    @property
    def has_sleeper(self) -> bool:
        """True while a thread waits in the system for bytes that have not been sent."""
        assert self.driver is not None
        turns = self.driver.turns
        # On the fast path one thread has both roles by one object; else they are two.
        on_fast_path = turns.reader is not None and turns.reader is turns.receiver
        fed = self.driver.core.bytes_in == self._delivered
        return on_fast_path and fed and not (self._over or self.dropped)

    def wake(self) -> None:
        with self._clock.changed:
            self._clock.changed.notify_all()

    # What the peer does

    @property
    def unheard(self) -> int:
        descriptor = socket.socket.fileno(self._ours)
        if descriptor < 0:
            return self._left
        waits = fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4))
        return len(self._unsent) + int.from_bytes(waits, sys.byteorder)

    def note_left(self) -> None:
        self._left = self.unheard

    def deliver(self, octets: bytes) -> None:
        self._delivered += len(octets)
        self._unsent += octets
        self.push()

    def push(self) -> None:
        """Send more of what the peer says, as far as there is room in the system."""
        try:
            while self._unsent:
                del self._unsent[: self._theirs.send(self._unsent)]
            if self._over:
                self._theirs.shutdown(socket.SHUT_WR)
        except OSError:  # full, or our end is gone
            return

    def hang_up(self) -> None:
        self._over = True
        self.push()

    def break_(self) -> None:
        self._over = True
        self.drain()
        socket.socket.send(self._ours, b"!")  # an end that is closed with bytes unread is a reset
        self._theirs.close()

    def stall(self) -> None:
        self.room = PIPE

    def take(self, count: int) -> None:
        with self._clock.changed:
            self.room = (self.room or 0) + count

    def flow(self) -> None:
        self.room = None

    def drain(self) -> None:
        """Take what has left: nothing stays with the system."""
        try:
            while octets := self._theirs.recv(1 << 20):
                self.written += octets
        except OSError:
            return

    def close(self) -> None:
        self._theirs.close()
        self._ours.close()

    # How our side waits

    def _wait(self, events: int, timeout: float | None) -> int:
        self._clock.block(lambda: bool(self._ready(events)), timeout)
        return self._ready(events)

    def _ready(self, events: int) -> int:
        descriptor = socket.socket.fileno(self._ours)
        if descriptor < 0 or self.dropped:
            return events
        poller = select.poll()
        poller.register(descriptor, events & READ)
        found = poller.poll(0)
        readable = READ if found else 0
        return events & (readable | (WRITE if self.room != 0 else 0))


class SocketTalk(SyncTalk):
    """Opens connections of ``koko.sync`` to peers at the other end of a socket pair."""

    def __init__(self) -> None:
        super().__init__()
        self.clock: WatchedClock = WatchedClock()

    def _line(self) -> Any:
        return SocketLine(self.clock)

    @property
    def visits(self) -> int:
        return sum(line.visits for line in self.clock.lines)

    def end(self) -> None:
        super().end()
        for line in self.clock.lines:
            line.close()
