"""The protocol behind a ``Conn``: the general path, with the fast path before it if it was built.

No other module tells the two apart. The fast path is a base class because that makes it fast:
a transport enters it in C, and its fields are a struct.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from koko.aio.general_path import GeneralPath
from koko.core.codec import IMPLEMENTATION

if TYPE_CHECKING or IMPLEMENTATION == "pure":
    from koko.aio.message_verbs import MessageVerbs, send_now

    class ConnProtocol(GeneralPath):
        """The private half of a ``Conn``, in plain Python."""

else:
    from koko.aio._native_fast_path import FastPath, MessageVerbs, send_now

    class ConnProtocol(FastPath, GeneralPath):
        """The private half of a ``Conn``, with a short cut for messages."""

        __slots__ = (  # beside what the fast path keeps in C
            "_due_at",
            "_half_closed",
            "_handler_tasks",
            "_leaving",
            "_shares_timers",
            "_timer_slot",
            "_timers",
            "_waiters",
            "lost",
            "read_deadline",
        )


__all__ = ["ConnProtocol", "MessageVerbs", "send_now"]
