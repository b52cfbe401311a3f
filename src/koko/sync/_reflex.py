"""The short way of a message on threads, in plain Python: who receives reads, who sends writes.

What a ``Driver`` keeps, and the two verbs that every message passes through. Here they take
the way of all others. ``_native_reflex.pyx`` is the twin of this file, the same names in the
same order: on a plain socket, where nobody else is at work and no clock has to be looked
at, it does in C what ``receive`` and ``write`` do in general.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from koko.core.connection import Connection
from koko.message import Data
from koko.sync.message_lock import MessageLock
from koko.sync.transport import Stream


class Reflex:
    """The half of a ``Driver`` that every message passes through."""

    def __init__(self, core: Connection, stream: Stream) -> None:
        self.core = core
        self.stream = stream
        self.lock = threading.RLock()  # a handler may send: it is called with the lock held
        self.message_lock = MessageLock(core, self.lock)
        self.read_deadline: float | None = None
        self.write_deadline: float | None = None
        self.handling = False
        self.corked_by = 0  # the thread whose messages are gathered
        self._gathered = 0  # bytes of it
        self._receiver = 0  # the thread that receives
        self._reading = False  # somebody is in the socket
        self._followers = 0  # threads that wait for what he finds
        self._writing = False
        self._queued = 0  # threads that wait to write
        self._mute = False

    def next_message(self) -> str | bytes:
        """Return the next message, waiting for it if necessary."""
        message: str | bytes = self.receive(None, self.core.next_message)
        return message

    def write_message(self, kind: int, message: Data) -> None:
        """Write a message, whole, when it is our turn."""
        self.write(None, self.core.send, kind, message)

    if TYPE_CHECKING:  # what a Driver adds, for all other cases

        def receive(self, timeout: float | None, take: Callable[[], Any]) -> Any: ...
        def write(
            self, timeout: float | None, owe: Callable[..., object], *what: object
        ) -> None: ...
