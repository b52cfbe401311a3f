"""Who is at a server: each client from being accepted to being gone, and who waits for that."""

from __future__ import annotations

import threading
from time import monotonic
from typing import NamedTuple

from koko.places import Place, place
from koko.sync.conn import Conn
from koko.sync.monitor import News, hold
from koko.sync.transport import PlainStream


class Guest(NamedTuple):
    """A client that a thread serves."""

    stream: PlainStream
    peer: str


class Crowd:
    """The clients of one server.

    Attributes:
        places: how many have each of them.
        guests: by the thread that serves them.
        conns: those of them with an open connection.
        deadline: when ``wait`` ends; ``hurry`` brings it forward.
    """

    def __init__(self) -> None:
        self.places = dict.fromkeys(Place, 0)
        self.guests: dict[int, Guest] = {}
        self.conns: dict[int, Conn] = {}
        self.deadline = 0.0
        self._lock = threading.Lock()
        self._left = News()  # threads that wait for guests to leave

    def take_place(self, limit: int | None) -> Place:
        """Return where the next client is put; it counts from now on."""
        return hold(self._lock, self._take_place, limit)  # type: ignore[no-any-return]

    def give_back(self, given: Place) -> None:
        """Count a client no more."""
        hold(self._lock, self._give_back, given)

    def see_out(self, thread: int, given: Place) -> None:
        """Forget a client, and count it no more."""
        hold(self._lock, self._see_out, thread, given)

    @property
    def others(self) -> dict[int, Guest]:
        """Those that this thread does not serve itself."""
        me = threading.get_ident()
        return {thread: guest for thread, guest in tuple(self.guests.items()) if thread != me}

    def wait(self) -> None:
        """Wait until all others have left, or for the deadline."""
        while True:
            ticket = hold(self._lock, self._left.ticket)
            left = self.deadline - monotonic()
            if left <= 0 or not self.others:
                return
            self._left.wait(ticket, left)

    def hurry(self) -> None:
        """Have those that wait for the others wait no more."""
        self.deadline = 0.0
        hold(self._lock, self._left.tell)

    def disown(self) -> None:
        """Let go of them all in a child of fork: they are the parent's."""
        self._lock = threading.Lock()
        for guest in self.guests.values():
            guest.stream.close()
        self.guests.clear()
        self.conns.clear()

    def _take_place(self, limit: int | None) -> Place:
        given = place(limit, self.places[Place.SEAT], self.places[Place.DOOR])
        self.places[given] += 1
        return given

    def _give_back(self, given: Place) -> None:
        self.places[given] -= 1

    def _see_out(self, thread: int, given: Place) -> None:
        self._give_back(given)
        self.conns.pop(thread, None)
        self.guests.pop(thread, None)
        self._left.tell()
