"""One message to many connections, for threads: one thread, which waits for all of them at once."""

from __future__ import annotations

import selectors
import time
from collections.abc import Iterable
from contextlib import suppress
from time import monotonic

from koko.broadcasting import TOO_SLOW, Delivery, Slow, count, prepare
from koko.core.lifecycle import State
from koko.message import Data, PreparedMessage
from koko.sync.conn import Conn
from koko.sync.driver import Driver
from koko.sync.transport import deadline_in

_LOOK = 0.5  # seconds after which those are looked at whose socket tells nothing any more
_BREATH = 0.005  # seconds to leave to the thread whose turn it is where there is room


def broadcast(
    conns: Iterable[Conn],
    message: Data | PreparedMessage,
    *,
    slow: Slow = "drop",
    timeout: float | None = 0.0,
) -> Delivery:
    """Send one message to many connections, encoded once; return what became of it, in numbers.

    A connection is slow while the system takes no more for its peer, or while another
    thread writes, be it a message in parts. The slow ones are waited for at most ``timeout``
    seconds, all at once, in this thread and behind nobody else; None leaves the giving up to
    the keepalive. To those who are still slow then, and to those whose ``write_deadline``
    has passed, happens what ``slow`` says: "drop" the message, or "close" the connection
    with 1013, within its ``close_timeout`` and without waiting for that.

    Of a message that the system takes only in part, the rest is written while ``timeout``
    lasts and then by the thread that looks after all connections, twice a second.
    """
    prepared = prepare(message, slow, timeout)
    round_ = _Round(prepared)
    for conn in dict.fromkeys(conns):
        round_.offer(conn)
    if round_.waiting and timeout != 0:
        round_.wait(deadline_in(timeout))
    late = round_.late + [conn for conn, begun in round_.waiting.items() if not begun]
    if slow == "close":
        for conn in late:
            conn._driver.start_close(*TOO_SLOW)
    return count(round_.sent, round_.gone, len(late), slow)


class _Round:
    """One broadcast on its way.

    Attributes:
        waiting: who must be waited for; True where a part of the message has left.
        late: to whom nothing may be sent any more, since their ``write_deadline`` has passed.
    """

    def __init__(self, prepared: PreparedMessage) -> None:
        self.sent = 0
        self.gone = 0
        self.waiting: dict[Conn, bool] = {}
        self.late: list[Conn] = []
        self._prepared = prepared

    def offer(self, conn: Conn) -> bool:
        """Send what leaves without waiting; True when there is nothing to be waited for."""
        driver, core = conn._driver, conn._core
        with driver.lock:
            begun = self.waiting.get(conn, False)
            if not begun and core.state is not State.OPEN:
                self.gone += 1
                return True
            if not begun and driver.too_late:
                self.late.append(conn)
                return True
            if not driver.handling:
                driver.flush()
            if not begun and driver.message_lock.holder:
                driver.message_lock.check_own()
                if not driver.handling:
                    self.waiting[conn] = False
                    return False
                driver.write(None, core.send_prepared, self._prepared)  # behind that message
                self.sent += 1
                return True
            if not begun and _has_room(driver):
                driver.owe(core.send_prepared, self._prepared)
                self.sent += 1
                begun = True
            if begun and (_has_room(driver) or core.state is State.CLOSED):
                return True
            self.waiting[conn] = begun
            return False

    def wait(self, deadline: float | None) -> None:
        """Offer again as room is made, until the deadline."""
        with selectors.DefaultSelector() as selector:
            for conn in self.waiting:
                with suppress(OSError, ValueError):  # closed meanwhile
                    selector.register(conn.socket, selectors.EVENT_WRITE, conn)
            while self.waiting and (deadline is None or monotonic() < deadline):
                left = _LOOK if deadline is None else min(_LOOK, deadline - monotonic())
                ready = [key.data for key, _ in selector.select(left)]
                done = [conn for conn in ready or tuple(self.waiting) if self.offer(conn)]
                for conn in done:
                    del self.waiting[conn]
                    with suppress(OSError, ValueError, KeyError):
                        selector.unregister(conn.socket)
                if ready and not done:
                    time.sleep(_BREATH)


def _has_room(driver: Driver) -> bool:
    return not (driver._writing or driver.stream.pending)
