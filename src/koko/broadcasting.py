"""What a broadcast is told and what it counts: the policy of telling many at once.

Who is slow is the faces' to see, and so is the waiting; what becomes of the slow ones is
said here.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from koko.errors import Close
from koko.message import Data, PreparedMessage, kind_of

Slow = Literal["drop", "close"]

# §7.4.1 has no code for it; the registry's 1013 tells a client to come back later.
TOO_SLOW = Close(1013, "too slow for what is broadcast")


class Patience:
    """How long broadcasts may still wait for one connection: their timeout once, not each.

    A peer that reads just fast enough would else be waited for by every broadcast, and never
    be late. What is waited for it counts together, less the time in which it has room.

    Attributes:
        spent: the seconds that were waited and are not made good.
    """

    __slots__ = ("_looked_at", "spent")

    def __init__(self) -> None:
        self.spent = 0.0
        self._looked_at = 0.0

    def left(self, timeout: float | None, now: float) -> float | None:
        """Return how long a broadcast that finds no room may wait, None for ever."""
        self._looked_at = now
        return None if timeout is None else max(0.0, timeout - self.spent)

    def spend(self, seconds: float, now: float) -> None:
        """Take note that so long was waited, up to now."""
        self.spent += seconds
        self._looked_at = now

    def make_good(self, now: float) -> None:
        """Take note that there is room, and was since the last look."""
        self.spent = max(0.0, self.spent - (now - self._looked_at))
        self._looked_at = now


class Delivery(NamedTuple):
    """What became of a broadcast, in numbers of connections.

    Attributes:
        sent: have it on its way.
        dropped: were too slow and did not get it; nothing else happened to them.
        closed: were too slow and were closed with 1013 for it.
        gone: were closing or closed already, or ended while they were waited for.
    """

    sent: int
    dropped: int
    closed: int
    gone: int


def prepare(message: Data | PreparedMessage, slow: str, timeout: float | None) -> PreparedMessage:
    """Return the message, encoded once; complain of options that cannot be."""
    if slow not in get_args(Slow):
        raise ValueError(f"slow={slow!r}: 'drop' for the message or 'close' for the connection")
    if timeout is not None and timeout < 0:
        raise ValueError(f"timeout={timeout!r}: a number of seconds from 0, or None for no limit")
    if isinstance(message, PreparedMessage):
        return message
    return PreparedMessage(kind_of(message), message)


def count(sent: int, gone: int, too_slow: int, slow: Slow) -> Delivery:
    """Return the outcome; what the caller said of the slow ones has happened to them."""
    dropped, closed = (too_slow, 0) if slow == "drop" else (0, too_slow)
    return Delivery(sent, dropped, closed, gone)
