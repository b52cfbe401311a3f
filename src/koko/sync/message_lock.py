"""Whose message it is: while one is written in parts, nobody else's may begin.

Control frames do not ask: they may stand between two fragments (§5.4). A lock of the
caller's is held whenever anything here is called.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from koko.core.connection import Connection
from koko.core.lifecycle import State
from koko.core.outgoing import Outgoing
from koko.errors import CloseError
from koko.sync.transport import time_left

OWN = (
    "this thread is writing a message with next_writer() and would wait for itself; "
    "close that writer first"
)


class MessageLock:
    """Who has it, and who waits for it."""

    __slots__ = ("_core", "_deferred", "_free", "_lock", "dropped", "holder", "message")

    def __init__(self, core: Connection, lock: threading.RLock) -> None:
        # The thread that opened the message: itself, since its number may be another's soon.
        self.holder: threading.Thread | None = None
        self.message: Outgoing | None = None
        self.dropped = False  # its writer was collected as garbage
        self._core = core
        self._lock = lock
        self._free: threading.Condition | None = None  # 1 KB, and most messages are whole
        self._deferred: list[Callable[[], object]] = []

    def wait(self, deadline: float | None) -> None:
        """Wait until a message may begin, or nothing may be sent any longer."""
        while self.holder and self._core.state is State.OPEN:
            self.check_own()
            self._free = self._free or threading.Condition(self._lock)
            if not self._free.wait(time_left(deadline)):
                raise TimeoutError("another message is still being written; nothing was sent")

    def check_own(self) -> None:
        """Raise if this thread would wait for its own writer."""
        if self.holder is threading.current_thread():
            raise RuntimeError(OWN)

    def take(self, message: Outgoing) -> None:
        self.holder = threading.current_thread()
        self.message = message

    def leave(self) -> None:
        """Let the next one begin; what could not wait until now goes first."""
        self.holder = None
        self.message = None
        self.dropped = False
        deferred, self._deferred = self._deferred, []
        for owe in deferred:
            with suppress(CloseError):
                owe()
        self.wake()

    def defer(self, owe: Callable[[], object]) -> None:
        """Begin a message when the one that is being written has ended."""
        self._deferred.append(owe)

    def wake(self) -> None:
        """Have those who wait look again."""
        if self._free is not None:
            self._free.notify_all()
