"""Whose message it is: while one is written in parts, nobody else's may begin.

Control frames do not ask: they may stand between two fragments (§5.4). Who waits, and how,
is ``writer``'s; the lock of the connection is held whenever anything here is called.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from koko.core.connection import Connection
from koko.core.outgoing import Outgoing
from koko.errors import CloseError

OWN = (
    "this thread is writing a message with next_writer() and would wait for itself; "
    "close that writer first"
)


class MessageLock:
    """Who has it, and what was sent meanwhile by handlers, which may not wait."""

    __slots__ = ("_core", "_deferred", "dropped", "holder", "message", "owner")

    def __init__(self, core: Connection) -> None:
        # The thread that opened the message: itself, since its number may be another's soon.
        self.holder: threading.Thread | None = None
        self.message: Outgoing | None = None
        self.owner = 0  # the writer that the application has, as ``id`` gives it
        self.dropped = False  # that was collected as garbage
        self._core = core
        self._deferred: list[Callable[[], object]] = []

    @property
    def in_the_way(self) -> bool:
        """True while nobody else's message may begin and waiting for that makes sense."""
        return self.holder is not None and self._core.may_send

    def check_own(self) -> None:
        """Raise if this thread would wait for its own writer."""
        if self.holder is threading.current_thread():
            raise RuntimeError(OWN)

    def take(self, message: Outgoing, owner: int) -> None:
        self.holder = threading.current_thread()
        self.message = message
        self.owner = owner

    def drop(self, owner: int) -> None:
        """Take note that a writer is gone; may be called by a finalizer, anywhere."""
        if self.owner == owner:
            self.dropped = True

    def leave(self) -> None:
        """Let the next one begin; what could not wait until now goes first."""
        deferred, self._deferred = self._deferred, []
        self.holder = None
        self.message = None
        self.owner = 0
        self.dropped = False
        for owe in deferred:
            with suppress(CloseError):
                owe()

    def defer(self, owe: Callable[[], object]) -> None:
        """Begin a message when the one that is being written has ended."""
        self._deferred.append(owe)
