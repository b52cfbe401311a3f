"""Whose message it is: while one is written in parts, no other may begin.

Control frames do not ask: they may stand between two fragments (§5.4). ``writer`` does the
waiting; the connection's lock is held whenever anything here is called but ``drop``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from koko.core.connection import Connection
from koko.core.outgoing import Outgoing
from koko.errors import CloseError
from koko.sync.clock import Clock
from koko.sync.monitor import News

OWN = (
    "this thread is writing a message with next_writer() and would wait for itself; "
    "close that writer first"
)


class MessageLock:
    """Who may begin a message, and until when.

    Attributes:
        deadline: no message may begin after it; None for never.
        message: the one that is being written in parts.
        writer: the thread that began it; not its number, which another may have soon.
        waiting: the threads that wait to write.
    """

    __slots__ = (
        "_core",
        "_deferred",
        "_dropped",
        "_owner",
        "deadline",
        "message",
        "waiting",
        "writer",
    )

    def __init__(self, core: Connection, clock: Clock) -> None:
        self.deadline: float | None = None
        self.message: Outgoing | None = None
        self.writer: threading.Thread | None = None
        self.waiting = News(clock)
        self._owner = 0  # the application's writer object, as ``id`` gives it
        self._dropped = False  # that object was collected as garbage
        self._core = core
        self._deferred: list[Callable[[], object]] = []

    def locked(self) -> bool:
        """Return True while another message must be waited for; its own thread is told."""
        if self.message is None or not self._core.may_send:
            return False
        self.check_own()
        return True

    def check_own(self) -> None:
        """Raise if this thread would wait for its own writer."""
        if self.writer is threading.current_thread():
            raise RuntimeError(OWN)

    def pass_to(self, message: Outgoing, owner: int) -> None:
        """Let this thread go on with ``message`` while no other may begin."""
        self.writer = threading.current_thread()
        self.message = message
        self._owner = owner

    def drop(self, owner: int) -> None:
        """Note that a writer was collected; needs no lock, for a finalizer may call it anywhere."""
        if self._owner == owner:
            self._dropped = True

    def leave_dropped(self, now: float) -> None:
        """End the message of a writer that was collected."""
        if self._dropped and self.message is not None:
            self.leave(self.message, now)

    def leave(self, message: Outgoing, now: float) -> None:
        """Let the next message begin; what handlers sent meanwhile goes first.

        A message that is not whole is cut off.
        """
        if self.message is not message:
            return
        message.cut(now)
        deferred, self._deferred = self._deferred, []
        self.writer = None
        self.message = None
        self._owner = 0
        self._dropped = False
        for owe in deferred:
            with suppress(CloseError):
                owe()
        self.waiting.tell()

    def defer(self, owe: Callable[[], object]) -> None:
        """Begin a handler's message, which may not wait, once this one has ended."""
        self._deferred.append(owe)
