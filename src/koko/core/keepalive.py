"""When to ping, and when to give a peer up: arithmetic on timestamps.

Any byte from the peer counts as life, and only time in which we listened counts as
silence. Nothing here reads a clock, sends a ping or closes anything: ``check`` is
told the time and says what is due.
"""

from __future__ import annotations

from enum import Enum

LATE = 1.0  # seconds a check may come late before it counts as not having listened


class Due(Enum):
    NOTHING = "nothing"
    PING = "ping"
    GIVE_UP = "give up"


class Keepalive:
    """How long the peer has been silent, and how much of that was our own fault.

    ``interval`` seconds of silence make a ping due; ``timeout`` seconds more without
    any byte make the peer dead. None turns either off. ``due_at`` is when ``check``
    wants to be called next, None for never. Whoever reads the peer's bytes sets
    ``heard_at`` and ``heard_what``: two stores are all that a message pays.
    """

    __slots__ = (
        "_checked_at",
        "_known_life",
        "_pinged",
        "_silent_from",
        "away",
        "due_at",
        "heard_at",
        "heard_what",
        "interval",
        "timeout",
    )

    def __init__(self, interval: float | None, timeout: float | None, now: float) -> None:
        self.interval = interval
        self.timeout = timeout
        self.heard_at = now
        self.heard_what = "the opening handshake"
        self.away = 0.0
        self.due_at = None if interval is None else now + interval
        self._known_life = now
        self._silent_from = now
        self._checked_at = now
        self._pinged = False

    def check(self, now: float, listening: bool = True) -> Due:
        """Say what is due, and move ``due_at`` to when to check again.

        ``listening`` is False when we had stopped reading (back-pressure). A check that
        comes late means that we were too busy to read.
        """
        if self.interval is None or self.due_at is None:
            return Due.NOTHING
        self._note_life()
        if not listening:
            self._excuse(self._checked_at, now)
        elif now > self.due_at + LATE:
            self._excuse(self.due_at, now)
        self._checked_at = now
        patience = self.timeout if self._pinged and self.timeout is not None else self.interval
        if now - self._silent_from < patience:
            self.due_at = self._silent_from + patience
            return Due.NOTHING
        if self._pinged and self.timeout is not None:
            self.due_at = None
            return Due.GIVE_UP
        self._pinged = True
        self._silent_from = now
        self.due_at = now + (self.interval if self.timeout is None else self.timeout)
        return Due.PING

    def silence(self, now: float) -> str:
        """Say what was heard last, how long ago, and whether we were listening."""
        said = (
            f"no answer to a ping within {self.timeout:g} s, "
            f"last heard {self.heard_what} {now - self.heard_at:.1f} s ago"
        )
        if self.away:
            said += f"; for {self.away:.1f} s of that this process did not listen"
        return said

    def _note_life(self) -> None:
        if self.heard_at != self._known_life:
            self._known_life = self._silent_from = self.heard_at
            self._pinged = False
            self.away = 0.0

    def _excuse(self, since: float, now: float) -> None:
        # What the peer sent while we were away is still unread: that time does not
        # count, and LATE more is left for reading it before anybody is judged.
        away = now - max(since, self._known_life)
        self.away += away
        self._silent_from = min(now, self._silent_from + away + LATE)
