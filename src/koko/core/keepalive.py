"""When to ping, and when to give a peer up: arithmetic on timestamps.

The law for a silent peer: a ping leaves every ``interval`` seconds, and the peer is dead
``interval + timeout`` seconds after its last byte. Any byte is a sign of life.

A ping waits behind what was written before it. So a peer that takes some of what waits for
it, and leaves some, is alive as well: it is slow. What it takes at once proves only that
its system runs: the system of a process that hangs takes small messages, and pings, for
hours. A peer that talks is given up too if our own system is full and the peer takes
nothing: whoever sends to it would wait for ever.

Only time in which we listened counts as silence. Nothing here reads a clock, sends a ping
or closes anything: ``check`` is told the time and says what is due.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import Enum
from math import inf
from typing import NamedTuple

LATE = 1.0  # seconds a check may come late before it counts as not having listened
EARLY = 0.2  # of the interval: how much a ping may come early, so that many do not come together
LOOKS = 4  # checks within the timeout while something waits for the peer


class Due(Enum):
    NOTHING = "nothing"
    PING = "ping"
    GIVE_UP = "give up"


class Backlog(NamedTuple):
    """What waits for the peer.

    Attributes:
        unsent: bytes that our own system has not taken yet.
        queued: bytes that it has taken, and the peer's has not acknowledged.
        acked: bytes that the peer's has acknowledged, counted from any beginning; None
            where the system does not tell.
    """

    unsent: int = 0
    queued: int = 0
    acked: int | None = None

    @property
    def waiting(self) -> int:
        return self.unsent + self.queued

    def taken_since(self, before: Backlog) -> int:
        """Return how much the peer has taken; without ``acked``, at least how much."""
        if self.acked is None or before.acked is None:
            return max(0, before.waiting - self.waiting)
        return self.acked - before.acked


NOTHING_WAITS = Backlog()


class Keepalive:
    """How long the peer has been silent, and how much of that was our own fault.

    Without an ``interval`` no ping leaves and no peer is given up; without a ``timeout`` no
    peer is given up. ``due_at`` is when ``check`` wants to be called next, None for never.
    The connection sets ``heard_at`` and ``heard_what`` before it asks. A face sets
    ``taken_at`` when the peer has made room for what had to wait. ``draw`` gives a number
    from 0 to 1, for how early a ping leaves.
    """

    __slots__ = (
        "_asked_at",
        "_backlog",
        "_checked_at",
        "_draw",
        "_known_life",
        "_quiet_from",
        "_silent_from",
        "_stuck_from",
        "away",
        "due_at",
        "heard_at",
        "heard_what",
        "interval",
        "taken_at",
        "timeout",
    )

    def __init__(
        self,
        interval: float | None,
        timeout: float | None,
        now: float,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.interval = interval
        self.timeout = timeout
        self.heard_at = now
        self.heard_what = "the opening handshake"
        self.taken_at = now
        self.away = 0.0
        self._draw = draw
        self._known_life = now  # heard_at, as the last check found it
        self._silent_from = now  # the last life, without the time in which we did not listen
        self._quiet_from = now  # the last life or ping
        self._asked_at: float | None = None  # when the first ping since the last byte left
        self._checked_at = now
        self._backlog = NOTHING_WAITS
        self._stuck_from: float | None = None
        self.due_at = None if interval is None else self._next_ping(interval)

    def check(self, now: float, listening: bool = True, backlog: Backlog = NOTHING_WAITS) -> Due:
        """Say what is due, and move ``due_at`` to when to check again.

        ``listening`` is False when we had stopped reading (back-pressure). A check that
        comes late means that we were too busy to read.
        """
        interval = self.interval
        if interval is None or self.due_at is None:
            return Due.NOTHING
        late = now > self.due_at + LATE
        self._note_life()
        self._note_taken(now, backlog, late)
        if late:  # what has come meanwhile is read before a ping asks for more
            self._quiet_from = max(self._quiet_from, now - (1 - EARLY) * interval)
        if late or not listening:
            self._excuse(self.due_at if listening else self._checked_at, now)
        self._checked_at = now
        if now >= min(self._dead_at(interval), self._stuck_until(interval)):
            self.due_at = None
            return Due.GIVE_UP
        due = Due.NOTHING if late else self._ask(now, interval)
        self.due_at = self._next(now, interval)
        return due

    def why(self, now: float) -> str:
        """Say why it was given up."""
        if self.interval is not None and now >= self._stuck_until(self.interval):
            assert self._stuck_from is not None  # or it would never be
            return (
                f"the peer took none of the {self._backlog.waiting} bytes that wait for it "
                f"within {now - self._stuck_from:.0f} s"
            )
        return f"no answer to a ping within {self.timeout:g} s"

    def heard(self, now: float) -> str:
        """Say what was heard last, how long ago, and whether we were listening."""
        ago = now - self.heard_at
        said = f"last heard {self.heard_what} {ago:.1f} s ago"
        if self.away and self.heard_at == self._known_life:
            said += f"; for {min(self.away, ago):.1f} s of that this process did not listen"
        return said

    def _ask(self, now: float, interval: float) -> Due:
        if now - self._quiet_from < (1 - EARLY) * interval:
            return Due.NOTHING
        self._quiet_from = now
        if self._asked_at is None:
            self._asked_at = now
        elif self._backlog.unsent:
            return Due.NOTHING  # an earlier ping may be among it
        return Due.PING

    def _next(self, now: float, interval: float) -> float:
        due_at = min(self._next_ping(interval), self._dead_at(interval))
        if self.timeout is not None and self._asked_at is not None and self._backlog.waiting:
            due_at = min(due_at, now + self.timeout / LOOKS)
        return min(due_at, self._stuck_until(interval))

    def _next_ping(self, interval: float) -> float:
        return self._quiet_from + interval * (1 - EARLY * self._draw())

    def _dead_at(self, interval: float) -> float:
        if self._asked_at is None or self.timeout is None:
            return inf
        # A check may have come a little late: each ping has the whole of its time.
        return max(self._silent_from + interval, self._asked_at) + self.timeout

    def _stuck_until(self, interval: float) -> float:
        if self._stuck_from is None or self.timeout is None:
            return inf
        return self._stuck_from + interval + self.timeout

    def _note_life(self) -> None:
        if self.heard_at != self._known_life:
            self._known_life = self._silent_from = self.heard_at
            self._quiet_from = max(self._quiet_from, self.heard_at)
            self._asked_at = None
            self.away = 0.0

    def _note_taken(self, now: float, backlog: Backlog, late: bool) -> None:
        before = self._backlog
        taken = backlog.taken_since(before)
        if taken and (before.unsent or taken < before.waiting):
            self.taken_at = now
        # Without ``acked``, what was written meanwhile may hide what was taken. A process
        # that was away could not write; the next check sees what this one missed.
        hidden = backlog.acked is None and backlog.waiting > before.waiting
        if not backlog.unsent:
            self._stuck_from = None
        elif self._stuck_from is None or taken or hidden or late:
            self._stuck_from = now
        else:
            self._stuck_from = max(self._stuck_from, self.taken_at)
        self._silent_from = max(self._silent_from, self.taken_at)
        self._quiet_from = max(self._quiet_from, self.taken_at)
        self._backlog = backlog if backlog.waiting else NOTHING_WAITS

    def _excuse(self, since: float, now: float) -> None:
        # What the peer sent while we were away is still unread. That time does not count,
        # and LATE more is left for reading it before the peer can be given up.
        away = now - max(since, self._known_life)
        self.away += away
        self._silent_from = min(now, self._silent_from + away + LATE)
