"""When to ping, and when to give a peer up: arithmetic on timestamps.

Any byte from the peer counts as life, and so does any byte of ours that it takes after
that one had to wait; only time in which we listened counts as silence. A peer that talks
and takes nothing is given up as well: whoever sends to it would wait for ever. Nothing
here reads a clock, sends a ping or closes anything: ``check`` is told the time and says
what is due.
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
    any byte make the peer dead. As dead is one that takes nothing of what waits for it
    for as long as both together. None turns either off. ``due_at`` is when ``check``
    wants to be called next, None for never. Whoever reads the peer's bytes sets
    ``heard_at`` and ``heard_what``: two stores are all that a message pays. Whoever sees
    that the peer has made room for what had to wait sets ``taken_at``.
    """

    __slots__ = (
        "_checked_at",
        "_known_life",
        "_pinged",
        "_silent_from",
        "_stuck_from",
        "_unsent",
        "away",
        "due_at",
        "heard_at",
        "heard_what",
        "interval",
        "taken_at",
        "timeout",
    )

    def __init__(self, interval: float | None, timeout: float | None, now: float) -> None:
        self.interval = interval
        self.timeout = timeout
        self.heard_at = now
        self.heard_what = "the opening handshake"
        self.taken_at = now
        self.away = 0.0
        self.due_at = None if interval is None else now + interval
        self._known_life = now
        self._silent_from = now
        self._checked_at = now
        self._pinged = False
        self._unsent = 0
        self._stuck_from: float | None = None

    def check(self, now: float, listening: bool = True, unsent: int = 0) -> Due:
        """Say what is due, and move ``due_at`` to when to check again.

        ``listening`` is False when we had stopped reading (back-pressure). A check that
        comes late means that we were too busy to read. ``unsent`` is how many bytes wait
        for the peer to make room.
        """
        if self.interval is None or self.due_at is None:
            return Due.NOTHING
        late = now > self.due_at + LATE
        self._note_life()
        self._note_room(now, unsent, late)
        if not listening:
            self._excuse(self._checked_at, now)
        elif late:
            self._excuse(self.due_at, now)
        self._checked_at = now
        due = Due.GIVE_UP if self._is_stuck(now) else self._due(now, self.interval)
        self.due_at = None if due is Due.GIVE_UP else self._next(self.interval)
        return due

    def why(self, now: float) -> str:
        """Say why it was given up."""
        if self._is_stuck(now) and self._stuck_from is not None:
            return (
                f"the peer took none of the {self._unsent} bytes that wait for it "
                f"within {now - self._stuck_from:.0f} s"
            )
        return f"no answer to a ping within {self.timeout:g} s"

    def heard(self, now: float) -> str:
        """Say what was heard last, how long ago, and whether we were listening."""
        said = f"last heard {self.heard_what} {now - self.heard_at:.1f} s ago"
        if self.away:
            said += f"; for {self.away:.1f} s of that this process did not listen"
        return said

    def _due(self, now: float, interval: float) -> Due:
        if now - self._silent_from < self._patience(interval):
            return Due.NOTHING
        if self._pinged and self.timeout is not None:
            return Due.GIVE_UP
        self._pinged = True
        self._silent_from = now
        return Due.PING

    def _next(self, interval: float) -> float:
        silent_until = self._silent_from + self._patience(interval)
        if self._stuck_from is None or self.timeout is None:
            return silent_until
        return min(silent_until, self._stuck_from + interval + self.timeout)

    def _patience(self, interval: float) -> float:
        return self.timeout if self._pinged and self.timeout is not None else interval

    def _is_stuck(self, now: float) -> bool:
        if self._stuck_from is None or self.interval is None or self.timeout is None:
            return False
        return now - self._stuck_from >= self.interval + self.timeout

    def _note_room(self, now: float, unsent: int, late: bool) -> None:
        if unsent < self._unsent:
            self.taken_at = now
        # More than before was written meanwhile, by somebody who does not wait. A process
        # that was away could not write; what it has missed is seen at the next check.
        if not unsent:
            self._stuck_from = None
        elif self._stuck_from is None or unsent > self._unsent or late:
            self._stuck_from = now
        else:
            self._stuck_from = max(self._stuck_from, self.taken_at)
        self._unsent = unsent
        # A ping waits behind what the peer has not taken: it is not late while that moves.
        self._silent_from = max(self._silent_from, self.taken_at)

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
