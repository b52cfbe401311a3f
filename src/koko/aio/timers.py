"""Many deadlines on one timer of the loop.

Every connection has a deadline at every moment, and almost none of them is ever reached, so
setting and cancelling one must cost almost nothing. Deadlines that are close together share a
slot, and only the first slot has a timer of the loop. They expire together, never too early
and at most ``1 / RATE`` seconds late, while the loop runs.

After the application has blocked the loop, what peers sent meanwhile may still be unread, and
its own tasks have not run either. So deadlines that passed then are put off, once.
"""

from __future__ import annotations

import asyncio
from heapq import heapify, heappop, heappush
from math import ceil
from typing import Protocol

from koko.aio.tasks import FATAL

RATE = 64  # slots a second
EARLY = 0.001  # seconds by which a loop may call a timer too early
LATE = 0.1  # seconds after which a loop that calls late has been blocked
LEEWAY = 1.0  # seconds, at most, by which a deadline is put off: by as much as the loop was late


class Timed(Protocol):
    """Something that has a deadline."""

    def on_timer(self) -> None: ...


Together = set[Timed]  # they expire together


class TimerWheel:
    """The deadlines of the connections of one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, set[Timed]] = {}
        self._order: list[int] = []  # the same slots, as a heap
        self._enough = RATE
        self._strict_until = 0  # up to this slot no deadline is put off: one of them was
        self._timer: asyncio.TimerHandle | None = None

    def set(self, when: float, timed: Timed) -> set[Timed]:
        """Call ``timed.on_timer()`` at ``when``, unless it is discarded from the returned slot."""
        slot = ceil(when * RATE)
        due_together = self._slots.get(slot)
        if due_together is None:
            due_together = self._slots[slot] = set()
            heappush(self._order, slot)
            if self._order[0] == slot:
                self._arm()
            elif len(self._order) > self._enough:
                self._sweep()
        due_together.add(timed)
        return due_together

    def settle(self) -> None:
        """Cancel the loop's timer if no deadline is left: nothing may come to do it later."""
        if not self._order or self._slots[self._order[0]]:
            return
        while self._order and not self._slots[self._order[0]]:
            del self._slots[heappop(self._order)]
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = (
            self._loop.call_at(self._order[0] / RATE, self._expire) if self._order else None
        )

    def _sweep(self) -> None:
        # Remove empty slots: with long deadlines they could be many.
        self._slots = {slot: timed for slot, timed in self._slots.items() if timed}
        self._order = list(self._slots)
        heapify(self._order)
        self._enough = RATE + 2 * len(self._order)

    def _put_off(self, slots: list[Together], slot: int) -> None:
        """Have these expire from ``slot`` on: each in one of its own, as their owners hold them."""
        for due_together in filter(None, slots):
            while slot in self._slots:
                slot += 1
            self._slots[slot] = due_together
            heappush(self._order, slot)
            self._strict_until = slot

    def _expire(self) -> None:
        now = (self._loop.time() + EARLY) * RATE
        due: list[Together] = []
        put_off: list[Together] = []
        leeway = 0.0
        while self._order and self._order[0] <= now:
            slot = heappop(self._order)
            late_together = self._slots.pop(slot)
            if now - slot > LATE * RATE and slot > self._strict_until:
                put_off.append(late_together)
                leeway = max(leeway, min(now - slot, LEEWAY * RATE))
            else:
                due.append(late_together)
        self._put_off(put_off, ceil(now + leeway))
        self._arm()
        fatal = None
        for due_together in due:
            while due_together:  # one that is called may discard others
                try:
                    due_together.pop().on_timer()
                except FATAL as error:  # for the loop, after the other deadlines
                    fatal = error
                except BaseException as error:  # the others must not miss their deadlines
                    complaint = "on_timer() of a connection failed"
                    self._loop.call_exception_handler({"message": complaint, "exception": error})
        if fatal is not None:
            raise fatal
