"""One thread that looks after all connections while no thread of the application does.

It comes twice a second, and whenever a connection has something due. It sends pings, gives
dead peers up, and reads where no other thread reads, so that pings are answered and pongs
and Closes noticed while the application does something else. It reads no more than 64 KiB
ahead. It runs only while there is a connection, never waits for one, and survives whatever
an application's handlers do.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Protocol
from weakref import ref

from koko.sync.monitor import hold

PERIOD = 0.5  # seconds; half of what ``keepalive`` takes for being late
_BREATH = 0.02  # seconds to leave to others, whatever is due


class Kept(Protocol):
    """What the housekeeper looks after."""

    def look_after(self) -> float | None:
        """Do what is due, without waiting; return when to come again, None for never."""

    def disown(self) -> None:
        """Let go of what belongs to the parent of this process; called in a child of fork."""


class Housekeeper:
    """The one thread; started for the first connection, gone after the last."""

    def __init__(self, period: float = PERIOD) -> None:
        self._period = period
        self._lock = threading.Lock()
        self._kept: dict[int, ref[Kept]] = {}
        self._thread: threading.Thread | None = None

    def keep(self, kept: Kept) -> None:
        """Look after ``kept`` until ``forget`` is called for it or it is garbage.

        Raises:
            RuntimeError: the system has no thread for it.
        """
        hold(self._lock, self._keep, kept)

    def forget(self, kept: Kept) -> None:
        """Stop looking after ``kept``."""
        self._kept.pop(id(kept), None)

    @property
    def all(self) -> list[Kept]:
        """What it looks after at the moment."""
        return [kept for known in tuple(self._kept.values()) if (kept := known()) is not None]

    def _keep(self, kept: Kept) -> None:
        # A thread that could not start, or was interrupted in it, is not alive.
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="koko-housekeeper", daemon=True)
            self._thread.start()
        self._kept[id(kept)] = ref(kept)

    def _run(self) -> None:
        wait = self._period
        while True:
            time.sleep(wait)
            round_ = hold(self._lock, self._next_round)
            if not round_:
                return
            due_at = time.monotonic() + self._period
            for kept in round_:
                due_at = min(due_at, self._look_after(kept, due_at))
            wait = max(_BREATH, due_at - time.monotonic())
            del round_, kept  # or they would live until the next round

    def _next_round(self) -> list[Kept]:
        # Not a WeakSet: its callbacks are Python, and an interrupt that comes in one is lost.
        round_ = []
        for number, known in tuple(self._kept.items()):
            if (kept := known()) is not None:
                round_.append(kept)
            elif self._kept.get(number) is known:
                del self._kept[number]
        if not round_ and self._thread is threading.current_thread():
            self._thread = None
        return round_

    def _look_after(self, kept: Kept, latest: float) -> float:
        try:
            due_at = kept.look_after()
        except BaseException:
            complain(kept)
            return latest
        return latest if due_at is None else due_at

    def start_anew(self) -> None:
        """Begin again in a child of fork: no thread survives that."""
        inherited = self.all
        self.__init__(self._period)  # type: ignore[misc]
        for kept in inherited:
            try:
                kept.disown()
            except Exception:  # another thread may have been at work on it
                complain(kept)


def complain(kept: object) -> None:
    """Log what went wrong in looking after a connection."""
    try:
        logging.getLogger("koko").exception("could not look after %r", kept)
    except BaseException:  # raised by the application's log handler; the thread goes on
        return


housekeeper = Housekeeper()

# A child of fork gives its copies of the descriptors back: while it has them, a peer does not see
# the end that the parent sends. And nothing may be written by both.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=housekeeper.start_anew)
