"""Deadlines that share a timer: which fire, when, and which do not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest

from koko.aio.timers import RATE, TimerWheel


class TurnedLoop:
    """What timers need of a loop, with a clock that we turn."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.made = 0
        self.complaints: list[dict[str, Any]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> TurnedLoop:
        self.made += 1
        self.timers = [(when, callback)]
        return self

    def cancel(self) -> None:
        self.timers.clear()

    def call_exception_handler(self, complaint: dict[str, Any]) -> None:
        self.complaints.append(complaint)

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while self.timers and self.timers[0][0] <= end:
            self.now, callback = max(self.now, self.timers[0][0]), self.timers.pop()[1]
            callback()
        self.now = end


class Timed:
    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.fired = 0
        self._then = then

    def on_timer(self) -> None:
        self.fired += 1
        self._then()


@pytest.fixture
def loop() -> TurnedLoop:
    return TurnedLoop()


@pytest.fixture
def timers(loop: TurnedLoop) -> TimerWheel:
    return TimerWheel(cast(asyncio.AbstractEventLoop, loop))


def test_no_timer_fires_too_early_nor_more_than_a_slot_late(
    loop: TurnedLoop, timers: TimerWheel
) -> None:
    timed = Timed()
    timers.set(1010.001, timed)
    loop.advance(10)
    assert not timed.fired
    loop.advance(1 / RATE)
    assert timed.fired == 1
    loop.advance(100)
    assert timed.fired == 1


def test_who_was_discarded_is_left_in_peace(loop: TurnedLoop, timers: TimerWheel) -> None:
    leaver, stayer = Timed(), Timed()
    alarm = timers.set(1010, leaver)
    assert timers.set(1010, stayer) is alarm
    alarm.discard(leaver)
    loop.advance(10)
    assert (leaver.fired, stayer.fired) == (0, 1)


def test_the_earlier_deadline_comes_first_though_it_was_set_later(
    loop: TurnedLoop, timers: TimerWheel
) -> None:
    order: list[int] = []
    for when in (1020, 1005, 1010):
        timers.set(when, Timed(partial(order.append, when)))
    loop.advance(30)
    assert order == [1005, 1010, 1020]


def test_deadlines_of_one_slot_cost_one_timer(loop: TurnedLoop, timers: TimerWheel) -> None:
    for _ in range(100):
        timers.set(1010, Timed())
    assert loop.made == 1


def test_a_timer_may_set_another_even_for_now(loop: TurnedLoop, timers: TimerWheel) -> None:
    def again() -> None:
        if timed.fired < 3:
            timers.set(loop.now, timed)

    timed = Timed(again)
    timers.set(1010, timed)
    loop.advance(11)
    assert timed.fired == 3


def test_a_timer_may_discard_another_of_its_slot(loop: TurnedLoop, timers: TimerWheel) -> None:
    def only() -> None:
        alarm.clear()

    first, second = Timed(only), Timed(only)
    alarm = timers.set(1010, first)
    timers.set(1010, second)
    loop.advance(10)
    assert first.fired + second.fired == 1


def test_a_timer_that_fails_is_reported_and_the_others_fire(
    loop: TurnedLoop, timers: TimerWheel
) -> None:
    def fail() -> None:
        raise ValueError("no")

    others = [Timed(), Timed()]
    for timed in (others[0], Timed(fail), others[1]):
        timers.set(1010, timed)
    loop.advance(10)
    assert [timed.fired for timed in others] == [1, 1]
    assert str(loop.complaints[0]["exception"]) == "no"


def test_deadlines_that_passed_while_the_loop_was_blocked_are_put_off_once(
    loop: TurnedLoop, timers: TimerWheel
) -> None:
    stayers, leaver, late_comer = [Timed(), Timed()], Timed(), Timed()
    for number, timed in enumerate(stayers):
        timers.set(1010 + number, timed)
    slot = timers.set(1010.5, leaver)
    loop.now = 1012.0  # blocked from before 1010
    loop.advance(0)
    assert [timed.fired for timed in stayers] == [0, 0]
    slot.discard(leaver)  # what its peer had sent has been read meanwhile
    timers.set(1012.5, late_comer)
    loop.advance(0.6)
    assert late_comer.fired == 1
    loop.now = 1020.0  # and again
    loop.advance(0)
    assert [timed.fired for timed in stayers] == [1, 1]
    assert not leaver.fired
    loop.advance(100)
    assert [timed.fired for timed in (*stayers, leaver, late_comer)] == [1, 1, 0, 1]
    assert not timers._slots


def test_a_deadline_is_put_off_by_as_much_as_the_loop_was_late(
    loop: TurnedLoop, timers: TimerWheel
) -> None:
    short, long = Timed(), Timed()
    timers.set(1010, short)
    loop.now = 1010.25
    loop.advance(0)
    loop.advance(0.2)
    assert not short.fired
    loop.advance(0.1)
    assert short.fired == 1
    timers.set(1020, long)
    loop.now = 1090.0
    loop.advance(0)
    loop.advance(0.9)
    assert not long.fired
    loop.advance(0.2)
    assert long.fired == 1


def test_slots_that_everybody_has_left_are_not_kept(loop: TurnedLoop, timers: TimerWheel) -> None:
    stayer = Timed()
    timers.set(5000, stayer)
    for number in range(10_000):
        leaver = Timed()
        timers.set(2000 + number / RATE, leaver).discard(leaver)
    assert len(timers._slots) == len(timers._order) < 4 * RATE
    loop.advance(4001)
    assert stayer.fired == 1
