"""What must be done for a connection while no thread of the application is inside it.

One thread a process looks after every connection, twice a second: it sends the pings
that are due, gives dead peers up, and reads, without waiting, where nobody else
reads, so that pings are answered and pongs and Closes noticed while the application
does something else. It reads no more than 64 KiB ahead. It runs only while there is
a connection, and it never waits for one.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Protocol
from weakref import WeakSet

PERIOD = 0.5  # seconds; half of what ``keepalive`` takes for being late


class Kept(Protocol):
    """What is looked after."""

    def look_after(self, now: float) -> None:
        """Do what is due, without waiting."""


class Housekeeper:
    """The one thread; started for the first connection, gone after the last."""

    def __init__(self, period: float = PERIOD) -> None:
        self._period = period
        self._lock = threading.Lock()
        self._kept: WeakSet[Kept] = WeakSet()
        self._thread: threading.Thread | None = None

    def keep(self, kept: Kept) -> None:
        """Look after ``kept`` until it is forgotten or nobody else knows it."""
        with self._lock:
            self._kept.add(kept)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="koko-housekeeper", daemon=True
                )
                self._thread.start()

    def forget(self, kept: Kept) -> None:
        """Look after ``kept`` no more."""
        with self._lock:
            self._kept.discard(kept)

    def _run(self) -> None:
        while True:
            time.sleep(self._period)
            with self._lock:
                round_ = list(self._kept)
                if not round_:
                    self._thread = None
                    return
            now = time.monotonic()
            for kept in round_:
                try:
                    kept.look_after(now)
                except Exception:
                    logging.getLogger("koko").exception("could not look after %r", kept)
            del round_, kept  # or the last round would keep them alive until the next


housekeeper = Housekeeper()

# No thread survives a fork. A child starts its own for the connections it makes; those
# it has inherited are its parent's to look after.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=housekeeper.__init__)  # type: ignore[misc]
