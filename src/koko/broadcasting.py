"""The options and the outcome of a broadcast: what both faces' ``broadcast`` share.

A face decides which connections are slow, and waits for them. This module decides how long
it may wait, and what happens to those that stay slow.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, TypeVar, get_args

from koko.errors import Close
from koko.message import Data, PreparedMessage, kind_of
from koko.misuse import check_seconds

C = TypeVar("C")
Slow = Literal["drop", "close"]

# §7.4.1 has no code for it; the registry's 1013 tells a client to come back later.
SLOW_CLOSE = Close(1013, "too slow for what is broadcast")


class Patience:
    """How long broadcasts may still wait for one connection: one timeout for all of them.

    With a timeout for each, every broadcast would wait for a peer that reads just fast enough,
    and the peer would never count as slow. So the waits of all broadcasts are added up, and
    the time in which the connection has room is taken off.

    Attributes:
        spent: the seconds of waiting that count against the connection.
    """

    __slots__ = ("_looked_at", "spent")

    def __init__(self) -> None:
        self.spent = 0.0
        self._looked_at = 0.0

    def left(self, timeout: float | None, now: float) -> float | None:
        """Return how long a broadcast that finds no room may wait, None for no limit."""
        self._looked_at = now
        return None if timeout is None else max(0.0, timeout - self.spent)

    def spend(self, seconds: float, now: float) -> None:
        """Count a wait of so many seconds that ends now."""
        self.spent += seconds
        self._looked_at = now

    def make_good(self, now: float) -> None:
        """Take off the time since the last look: the connection has had room since then."""
        self.spent = max(0.0, self.spent - (now - self._looked_at))
        self._looked_at = now


class Delivery(NamedTuple):
    """What became of a broadcast, in numbers of connections.

    Attributes:
        sent: connections to which the message is on its way.
        dropped: those that were too slow and did not get it; nothing else happened to them.
        closed: those that were too slow and were closed with 1013.
        gone: those that were closing or closed already, or ended during the wait.
    """

    sent: int
    dropped: int
    closed: int
    gone: int


def prepare(message: Data | PreparedMessage, slow: str, timeout: float | None) -> PreparedMessage:
    """Return the message, encoded once; raise for an option that is out of range."""
    if slow not in get_args(Slow):
        raise ValueError(f"slow={slow!r}, expected 'drop' the message or 'close' the connection")
    check_seconds("timeout", timeout)
    if timeout is not None and timeout < 0:
        raise ValueError(f"timeout={timeout!r}, expected 0 seconds or more, or None for no limit")
    if isinstance(message, PreparedMessage):
        return message
    return PreparedMessage(kind_of(message), message)


def audience_of(conns: Iterable[C], kind: type[C]) -> dict[C, None]:
    """Return the connections, each once, or raise if one is not of this face."""
    audience = dict.fromkeys(conns)
    if not {*map(type, audience)} <= {kind}:  # faster than a look at each
        for conn in audience:
            if not isinstance(conn, kind):
                face = ".".join(kind.__module__.split(".")[:2])
                raise TypeError(
                    f"broadcast() got {conn!r} among its connections, expected {face}'s"
                )
    return audience


def count(sent: int, gone: int, too_slow: int, slow: Slow) -> Delivery:
    """Return the outcome; the slow ones were dropped or closed, as ``slow`` says."""
    dropped, closed = (too_slow, 0) if slow == "drop" else (0, too_slow)
    return Delivery(sent, dropped, closed, gone)
