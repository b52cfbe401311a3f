"""The pings on their way, and the pongs that answer them (§5.5.2, §5.5.3).

Knows payloads and timestamps. ``keepalive`` decides when a ping is due; the sender and the
responder handle the frames.
"""

from __future__ import annotations

from collections.abc import Callable

MAX_PINGS = 256  # a peer that never answers costs us no more than these


class Ping:
    """A ping on its way: when it left, and how long its pong took once that has come."""

    __slots__ = ("on_pong", "payload", "round_trip", "sent_at")

    def __init__(self, payload: bytes, sent_at: float) -> None:
        self.payload = payload
        self.sent_at = sent_at
        self.round_trip: float | None = None
        self.on_pong: Callable[[], object] | None = None


class Pings:
    """The newest ``MAX_PINGS`` pings that have no pong yet, oldest first."""

    __slots__ = ("_waiting", "latency")

    def __init__(self) -> None:
        self.latency: float | None = None
        self._waiting: dict[bytes, Ping] = {}

    def __contains__(self, payload: bytes) -> bool:
        return payload in self._waiting

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, ping: Ping) -> None:
        """Remember a ping that leaves now."""
        if len(self._waiting) == MAX_PINGS:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[ping.payload] = ping

    def answer(self, payload: bytes, now: float) -> None:
        """Take a pong for the ping it repeats and for all before that one.

        §5.5.3 lets a peer answer only the newest ping. A pong to no ping of ours is ignored.
        """
        if payload not in self._waiting:
            return
        sent = list(self._waiting)
        for ping in [self._waiting.pop(key) for key in sent[: sent.index(payload) + 1]]:
            ping.round_trip = self.latency = now - ping.sent_at
            if ping.on_pong is not None:
                ping.on_pong()

    def clear(self) -> None:
        """Forget them all: nothing more will come."""
        self._waiting.clear()
