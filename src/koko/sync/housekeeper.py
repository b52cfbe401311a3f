"""What must be done for a connection while no thread of the application is inside it.

One thread a process looks after every connection, twice a second and whenever one of them
has something due: it sends the pings that are due, gives dead peers up, and reads, without
waiting, where nobody else reads, so that pings are answered and pongs and Closes noticed
while the application does something else. It reads no more than 64 KiB ahead. It runs only
while there is a connection, and it never waits for one. Nothing that the application does
in one of its handlers ends this thread.
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
    """What is looked after."""

    def look_after(self) -> float | None:
        """Do what is due, without waiting; return when there is more to do, None for never."""

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
        """Look after ``kept`` until it is forgotten or nobody else knows it.

        Raises:
            RuntimeError: the system has no thread for it.
        """
        hold(self._lock, self._keep, kept)

    def forget(self, kept: Kept) -> None:
        """Look after ``kept`` no more."""
        self._kept.pop(id(kept), None)

    def _keep(self, kept: Kept) -> None:
        # One that was not started, for an interrupt or for want of threads, is not alive.
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
            del round_, kept  # or the last round would keep them alive until the next

    def _next_round(self) -> list[Kept]:
        # No WeakSet: it would call Python where a connection is collected, and an interrupt
        # that falls into that is lost.
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
        inherited = [kept for known in self._kept.values() if (kept := known()) is not None]
        self.__init__(self._period)  # type: ignore[misc]
        for kept in inherited:
            try:
                kept.disown()
            except Exception:  # another thread may have been in the middle of it
                complain(kept)


def complain(kept: Kept) -> None:
    """Log what went wrong in looking after a connection."""
    try:
        logging.getLogger("koko").exception("could not look after %r", kept)
    except BaseException:  # a log handler of the application's: the thread goes on all the same
        return


housekeeper = Housekeeper()

# What a child of fork has inherited is its parent's: its copies of the descriptors would keep
# a peer waiting for an end that the parent has sent, and nothing of it may be written twice.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=housekeeper.start_anew)
