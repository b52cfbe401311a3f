"""One message to many connections, for threads: one thread, which waits for all of them at once."""

from __future__ import annotations

import selectors
import time
from collections.abc import Iterable
from contextlib import suppress
from time import monotonic

from koko.broadcasting import SLOW_CLOSE, Delivery, Slow, audience_of, count, prepare
from koko.core.lifecycle import State
from koko.message import Data, PreparedMessage
from koko.sync.clock import deadline_in, time_left
from koko.sync.conn import Conn

_LOOK = 0.5  # seconds after which all are looked at: a closed socket reports nothing
_BREATH = 0.005  # seconds for the thread whose turn it is, when there is room but not for us


def broadcast(
    conns: Iterable[Conn],
    message: Data | PreparedMessage,
    *,
    slow: Slow = "drop",
    timeout: float | None = 0.0,
) -> Delivery:
    """Send one message to many connections, encoded once; return what became of it, in numbers.

    A connection is slow while the system takes no more for its peer, or while another
    thread's message is being written. The slow ones are waited for, all at once, in this
    thread, and keep nobody else waiting. All broadcasts together wait at most ``timeout``
    seconds for each, less the time in which it has room; with None only the keepalive gives
    it up. ``slow`` says what happens to those that are still slow then, and to those whose
    ``write_deadline`` has passed: "drop" the message, or "close" the connection with 1013,
    within its ``close_timeout`` and without waiting for that.

    A message that the system takes only in part counts as sent. Its rest is written while
    it is waited for and then by the thread that looks after all connections, twice a second;
    until that is done the connection is slow for the next broadcast.
    """
    prepared = prepare(message, slow, timeout)
    round_ = _Round(prepared, timeout)
    for conn in audience_of(conns, Conn):
        round_.begin(conn)
    if round_.waiting:
        round_.wait()
    if slow == "close":
        for conn in round_.late:
            conn._driver.start_close(*SLOW_CLOSE)
    return count(round_.sent, round_.gone, len(round_.late), slow)


class _Waiting:
    """A connection that is waited for: until when, and whether the message has begun."""

    def __init__(self, begun: bool, until: float | None) -> None:
        self.begun = begun
        self.until = until


class _Round:
    """One broadcast on its way.

    Attributes:
        waiting: the connections to wait for.
        late: those that are too slow, or whose ``write_deadline`` has passed.
    """

    def __init__(self, prepared: PreparedMessage, timeout: float | None) -> None:
        self.sent = 0
        self.gone = 0
        self.waiting: dict[Conn, _Waiting] = {}
        self.late: list[Conn] = []
        self._prepared = prepared
        self._timeout = timeout

    def begin(self, conn: Conn) -> None:
        """Send what leaves without waiting, and note how long to wait for the rest."""
        patience, sent = conn._driver.writer.patience, self.sent
        done = self._offer(conn, False)
        begun = self.sent > sent
        if begun and patience.spent:
            patience.make_good(monotonic())
        if done:
            return
        left = patience.left(self._timeout, monotonic())
        if left == 0:
            self._give_up(conn, begun)
        else:
            self.waiting[conn] = _Waiting(begun, deadline_in(left))

    def wait(self) -> None:
        """Offer again as room is made, until each has had its time."""
        began = monotonic()
        with selectors.DefaultSelector() as selector:
            for conn in self.waiting:
                with suppress(OSError, ValueError):  # closed meanwhile
                    selector.register(conn.socket, selectors.EVENT_WRITE, conn)
            while self.waiting:
                ready = [key.data for key, _ in selector.select(self._patience())]
                done = [conn for conn in ready or tuple(self.waiting) if self._is_done(conn)]
                for conn in done:
                    del self.waiting[conn]
                    conn._driver.writer.patience.spend(monotonic() - began, monotonic())
                    with suppress(OSError, ValueError, KeyError):
                        selector.unregister(conn.socket)
                if ready and not done:
                    time.sleep(_BREATH)

    def _patience(self) -> float:
        untils = [waiting.until for waiting in self.waiting.values() if waiting.until is not None]
        return min(_LOOK, time_left(min(untils)) or 0.0) if untils else _LOOK

    def _is_done(self, conn: Conn) -> bool:
        waiting, sent = self.waiting[conn], self.sent
        if self._offer(conn, waiting.begun):
            return True
        waiting.begun = waiting.begun or self.sent > sent
        if waiting.until is None or monotonic() < waiting.until:
            return False
        self._give_up(conn, waiting.begun)
        return True

    def _give_up(self, conn: Conn, begun: bool) -> None:
        if not begun:  # a message that has begun cannot be taken back
            self.late.append(conn)

    def _offer(self, conn: Conn, begun: bool) -> bool:
        """Send what leaves at once; return True if there is nothing to wait for."""
        driver = conn._driver
        nested = driver.monitor.nested
        done: bool = driver.monitor.call(self._offer_locked, conn, begun, nested)
        return done

    def _offer_locked(self, conn: Conn, begun: bool, nested: bool) -> bool:
        core, link = conn._core, conn._driver.link
        if not begun:
            if core.state is not State.OPEN:
                self.gone += 1
                return True
            if conn._driver.writer.too_late:
                self.late.append(conn)
                return True
            link.flush()
            if link.message_lock.message is not None:
                link.message_lock.check_own()
                if not nested:
                    return False
                # It leaves behind the message that is being written.
                conn._driver.writer.write(None, core.send_prepared, self._prepared)
                self.sent += 1
                return True
            if not link.has_room:
                return False
            core.send_prepared(self._prepared)
            self.sent += 1
        link.flush()
        return link.has_room or core.state is State.CLOSED
