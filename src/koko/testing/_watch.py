"""Watches an event loop from a thread of its own: nothing in a loop that is blocked can."""

from __future__ import annotations

import math
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Protocol

from koko.testing._limit import GRACE, LEAVE, overdue

LOOK = 0.25  # seconds between two looks


class Driver(Protocol):
    """What is known here of a ``Driver`` of ``koko.sync``."""

    def abort(self, why: str) -> None: ...
    def look_after(self) -> float | None: ...


class Watch:
    """Finds a loop that does not turn, and drops connections that it does not end in time.

    Args:
        ask: has the loop call a function; raises ``RuntimeError`` when the loop has ended.
        place: returns where the thread of the loop is.
        lose: called with the error of all who wait for the loop, once that is of no use.
        timeout: seconds that a connection may last. None: nothing is watched.
    """

    def __init__(
        self,
        ask: Callable[[Callable[[], object]], object],
        place: Callable[[], str],
        lose: Callable[[BaseException], object],
        timeout: float | None,
    ) -> None:
        self._ask = ask
        self._place = place
        self._lose = lose
        self._timeout = timeout
        self._silent = 0.0  # seconds that we have waited for the loop to turn
        self._limits: deque[tuple[float, weakref.ref[Driver]]] = deque()  # in order of time
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch."""
        if self._timeout is not None:
            watch = threading.Thread(
                target=self._run, args=(self._timeout,), name="koko-asgi-watch", daemon=True
            )
            watch.start()
            self._thread = watch

    def limit(self, conn: Driver) -> None:
        """Drop a connection when it lasts too long, whatever becomes of the loop."""
        patience = math.inf if self._timeout is None else self._timeout + GRACE
        self._limits.append((monotonic() + patience, weakref.ref(conn)))

    def stop(self) -> None:
        """End the watch; the connections take note that the server has ended them."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        for _, known in self._limits:  # a socket that nobody closed would warn, now and then
            if (conn := known()) is not None:
                conn.look_after()

    def sentence(self) -> str:
        """Return how the loop is blocked."""
        return f"the application blocks its event loop{self._place()}"

    def _run(self, timeout: float) -> None:
        turned = threading.Event()
        with suppress(RuntimeError):  # the loop has ended
            self._ask(turned.set)
            while not self._over.wait(LOOK):
                self._silent += LOOK  # not what the clock says: perhaps the whole process slept
                if turned.is_set():
                    turned, self._silent = threading.Event(), 0.0
                    self._ask(turned.set)
                self._drop_overdue(timeout)
                if self._silent >= timeout + GRACE:
                    break
            else:
                return
            self._give_up()

    def _give_up(self) -> None:
        sentence = self.sentence()
        self._lose(TimeoutError(sentence))
        while self._limits:
            self._drop_next(sentence)

    def _drop_overdue(self, timeout: float) -> None:
        while self._limits and self._limits[0][0] <= monotonic():
            why = overdue("asgi", timeout)
            self._drop_next(f"{why}; {self.sentence()}" if self._silent >= LEAVE else why)

    def _drop_next(self, why: str) -> None:
        conn = self._limits.popleft()[1]()
        if conn is not None:
            conn.abort(why)
