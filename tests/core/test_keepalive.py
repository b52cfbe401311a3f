"""When a ping is due and when a peer is dead; time is a number."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from koko.core.connection import Connection
from koko.core.keepalive import EARLY, LATE, LOOKS, NOTHING_WAITS, Backlog, Due, Keepalive
from koko.core.options import ConnectionOptions
from koko.core.wire import Role
from tests.core.ends import at_interval

NOTHING, PING, GIVE_UP = Due


def alive(interval, timeout, draw=at_interval):
    return Keepalive(interval, timeout, 0.0, draw)


def hear(keepalive, now, what="a message"):
    keepalive.heard_at, keepalive.heard_what = now, what


def let(keepalive, until, backlog=NOTHING_WAITS, **said):
    """Check whenever a check is due, and return when something was, and what."""
    found = []
    while keepalive.due_at is not None and (now := keepalive.due_at) <= until:
        due = keepalive.check(now, backlog=backlog, **said)
        assert keepalive.due_at is None or keepalive.due_at > now
        if due is not NOTHING:
            found.append((now, due))
    return found


def pings(keepalive, until):
    return [now for now, due in let(keepalive, until) if due is PING]


# The law


def test_nothing_is_due_before_the_interval_has_passed():
    keepalive = alive(20, 10)
    assert keepalive.due_at == 20
    assert keepalive.check(15.9) is NOTHING
    assert keepalive.due_at == 20


@pytest.mark.parametrize(
    ("interval", "timeout", "asked"),
    [
        (20, 20, [20]),
        (20, 10, [20]),
        (20, 0.5, [20]),
        (2, 20, [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]),
        (7, 20, [7, 14, 21]),
    ],
)
def test_pings_leave_every_interval_and_death_is_interval_and_timeout_after_the_last_byte(
    interval, timeout, asked
):
    keepalive = alive(interval, timeout)
    dead_at = interval + timeout
    assert let(keepalive, 1e6) == [*((at, PING) for at in asked), (dead_at, GIVE_UP)]
    assert keepalive.due_at is None
    assert keepalive.check(1e6) is NOTHING


def test_the_next_ping_leaves_an_interval_after_one_that_was_answered_whatever_the_timeout():
    keepalive = alive(2, 20)
    for at in (2.0, 4.0, 6.0):
        assert keepalive.due_at == at
        assert keepalive.check(at) is PING
        hear(keepalive, at + 0.1, "a pong")


def test_death_is_counted_from_the_last_byte_also_where_that_answered_a_ping():
    keepalive = alive(20, 20)
    assert keepalive.check(20.0) is PING
    hear(keepalive, 20.5, "a pong")
    assert let(keepalive, 1e6) == [(40, PING), (60, PING), (60.5, GIVE_UP)]


def test_a_pong_to_an_old_ping_is_life_as_any_byte_is():
    keepalive = alive(2, 20)
    assert pings(keepalive, 9) == [2, 4, 6, 8]
    hear(keepalive, 9.0, "a pong")
    assert let(keepalive, 1e6)[-1] == (9 + 2 + 20, GIVE_UP)


def test_life_puts_the_ping_off():
    keepalive = alive(20, 10)
    hear(keepalive, 15.0)
    assert keepalive.check(20.0) is NOTHING
    assert keepalive.due_at == 35
    assert keepalive.check(35.0) is PING


def test_without_an_interval_nothing_is_ever_due():
    keepalive = alive(None, 10)
    assert keepalive.due_at is None
    assert keepalive.check(1e9, backlog=Backlog(1)) is NOTHING


def test_without_a_timeout_the_peer_is_pinged_for_ever():
    assert let(alive(20, None), 100) == [(at, PING) for at in (20, 40, 60, 80, 100)]


@pytest.mark.parametrize("timeout", [10, 0.5])
def test_a_ping_that_left_late_has_the_whole_of_its_time(timeout):
    keepalive = alive(20, timeout)
    assert keepalive.check(20.0 + LATE) is PING
    assert let(keepalive, 1e6)[-1] == (20 + LATE + timeout, GIVE_UP)


# Many connections


def test_pings_of_many_are_spread_and_none_leaves_later_than_its_interval():
    random = Random(1)
    firsts = [pings(alive(20, 20, random.random), 20)[0] for _ in range(1000)]
    assert min(firsts) >= 20 * (1 - EARLY)
    assert max(firsts) <= 20
    tenths = [int(at * 10) for at in firsts]
    assert max(map(tenths.count, tenths)) < 60


def test_connections_are_spread_without_being_told_how():
    ends = [Connection(Role.SERVER, ConnectionOptions(), None, 0.0) for _ in range(100)]
    assert len({end.due_at for end in ends}) == 100
    assert all(20 * (1 - EARLY) <= end.due_at <= 20 for end in ends)


def test_pings_of_one_stay_spread():
    left = pings(alive(20, None, Random(2).random), 1000)
    gaps = [after - before for before, after in pairwise(left)]
    assert all(20 * (1 - EARLY) <= gap <= 20 for gap in gaps)
    assert max(gaps) - min(gaps) > 2


def test_a_ping_that_leaves_early_brings_no_death_forward():
    for draw in (0.0, 0.5, 0.999):
        assert let(alive(20, 20, lambda draw=draw: draw), 1e6)[-1] == (40, GIVE_UP)


# What the error says


def test_the_error_says_what_was_heard_last_and_when():
    keepalive = alive(20, 10)
    assert keepalive.why(30.0) == "no answer to a ping within 10 s"
    assert keepalive.heard(30.0) == "last heard the opening handshake 30.0 s ago"
    hear(keepalive, 5.0, "a pong")
    assert keepalive.heard(35.0) == "last heard a pong 30.0 s ago"


def test_time_in_which_we_did_not_listen_is_never_longer_than_the_silence():
    keepalive = alive(20, 20)
    for now in (10.0, 20.0, 30.0, 40.0):
        keepalive.check(now, listening=False)
    assert keepalive.heard(40.0).endswith("; for 40.0 s of that this process did not listen")
    hear(keepalive, 44.5, "a ping")
    assert keepalive.heard(44.5) == "last heard a ping 0.0 s ago"
    keepalive.check(45.0, listening=False)
    assert keepalive.heard(45.0).endswith(
        "a ping 0.5 s ago; for 0.5 s of that this process did not listen"
    )


# Time in which we did not listen


def test_time_in_which_we_were_too_busy_to_listen_does_not_count():
    keepalive = alive(20, 10)
    assert keepalive.check(20.0) is PING
    assert keepalive.check(37.0) is NOTHING  # due at 30, 7 s ago
    assert keepalive.heard(37.0).endswith("; for 7.0 s of that this process did not listen")
    assert let(keepalive, 1e6)[-1] == (30 + 7 + LATE, GIVE_UP)


def test_a_check_that_is_a_little_late_is_no_excuse():
    keepalive = alive(20, 10)
    keepalive.check(20.0)
    assert keepalive.check(30.0 + LATE) is GIVE_UP


def test_after_a_long_sleep_what_has_come_is_read_before_anybody_is_asked_or_judged():
    keepalive = alive(20, 20)
    assert keepalive.check(100.0) is NOTHING
    hear(keepalive, 100.1)
    assert let(keepalive, 1e6) == [(120.1, PING), (140.1, GIVE_UP)]


def test_after_a_long_sleep_a_peer_of_whom_nothing_had_come_is_asked_soon():
    random = Random(3)
    asked = []
    for _ in range(100):
        keepalive = alive(20, 20, random.random)
        keepalive.check(100.0)
        asked.append(pings(keepalive, 1e6)[0])
    assert 100 < min(asked) < 101
    assert 103 < max(asked) <= 100 + 20 * EARLY


@pytest.mark.parametrize("timeout", [10, 0.5])
def test_time_in_which_we_had_stopped_reading_does_not_count_however_short(timeout):
    keepalive = alive(20, timeout)
    keepalive.check(20.0)
    assert keepalive.check(20.0 + timeout, listening=False) is NOTHING
    assert let(keepalive, 1e6)[-1] == (20 + 2 * timeout + LATE, GIVE_UP)


def test_pings_leave_while_we_do_not_read_since_they_tell_the_peer_that_we_live():
    keepalive = alive(20, 20)
    assert let(keepalive, 100, listening=False) == [(at, PING) for at in (20, 40, 60, 80, 100)]


def test_the_excuse_ends_with_the_next_sign_of_life():
    keepalive = alive(20, 10)
    assert keepalive.check(50.0) is NOTHING
    assert keepalive.away == 30
    hear(keepalive, 51.0)
    keepalive.check(51.0)
    assert keepalive.check(71.0) is PING
    assert keepalive.heard(81.0).endswith("last heard a message 30.0 s ago")


def test_what_was_not_heard_before_the_last_sign_of_life_is_no_excuse():
    keepalive = alive(20, 10)
    hear(keepalive, 50.0)  # read just before the check, both 30 s late
    assert keepalive.check(50.0) is NOTHING
    assert keepalive.away == 0
    assert keepalive.due_at == 70


# A peer that is slow


def transfer(keepalive, size, rate, until, *, counted, burst=0):
    """Let a peer's system acknowledge ``size`` bytes, ``rate`` a second; say when it is dead.

    ``burst`` bytes more are written at each check, by somebody who does not wait.
    """
    written = size
    while keepalive.due_at is not None and (now := keepalive.due_at) <= until:
        acked = min(written, int(rate * now))
        backlog = Backlog(0, written - acked, acked if counted else None)
        if keepalive.check(now, backlog=backlog) is GIVE_UP:
            return now
        written += burst
    return None


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize(("interval", "timeout"), [(20, 20), (2, 20), (20, 1), (1, 1)])
def test_a_silent_peer_is_alive_while_its_system_takes_what_waits(interval, timeout, counted):
    keepalive = alive(interval, timeout)
    dead_at = transfer(keepalive, 2_500_000, 32_000, 1e6, counted=counted)
    last_byte = 2_500_000 / 32_000
    assert last_byte + timeout - timeout / LOOKS <= dead_at <= last_byte + interval + timeout


def test_what_is_written_meanwhile_hides_nothing_where_acknowledged_bytes_are_counted():
    keepalive = alive(20, 20)
    assert transfer(keepalive, 2_500_000, 32_000, 300, counted=True, burst=1_000_000) is None


def test_a_silent_peer_that_takes_everything_at_once_is_dead_in_time():
    """Its system runs, and takes what is small; its process has stopped."""
    keepalive = alive(20, 20)
    acked = 0
    while keepalive.due_at is not None:
        now, acked = keepalive.due_at, acked + 1000
        due = keepalive.check(now, backlog=Backlog(0, 100, acked))  # the newest is on its way
    assert (now, due) == (40, GIVE_UP)


def test_a_peer_is_looked_at_soon_after_a_ping_behind_which_something_waits():
    keepalive = alive(20, 20)
    assert keepalive.check(20.0, backlog=Backlog(0, 70_000, 0)) is PING
    assert keepalive.due_at == 20 + 20 / LOOKS
    assert keepalive.check(25.0, backlog=Backlog(0, 10, 70_000)) is NOTHING  # it has the ping
    assert let(keepalive, 1e6)[-1] == (40, GIVE_UP)


def test_a_ping_that_has_not_left_is_not_followed_by_another():
    stuck = Backlog(70_000)
    assert let(alive(20, None), 100, stuck) == [(20, PING)]


# A peer that takes nothing


def test_a_peer_that_takes_nothing_is_given_up_though_it_talks():
    keepalive = alive(20, 10)
    for now in (20.0, 30.0, 40.0):
        hear(keepalive, now, "a ping")
        assert keepalive.check(now, backlog=Backlog(70_000)) is NOTHING
    hear(keepalive, 49.0, "a ping")
    assert keepalive.due_at == 50
    assert keepalive.check(50.0, backlog=Backlog(70_000)) is GIVE_UP
    assert (
        keepalive.why(50.0) == "the peer took none of the 70000 bytes that wait for it within 30 s"
    )


def test_a_peer_that_talks_may_leave_with_our_system_what_that_has_room_for():
    keepalive = alive(20, 10)
    for now in range(10, 200, 10):
        hear(keepalive, float(now))
        assert keepalive.check(float(now), backlog=Backlog(0, 70_000, 5)) is NOTHING


def test_a_peer_that_takes_a_little_is_alive_and_needs_no_ping():
    keepalive = alive(20, 10)
    for now in range(10, 100, 10):
        assert keepalive.check(float(now), backlog=Backlog(70_000 - now)) is NOTHING
    assert keepalive.due_at == 110
    assert keepalive.check(110.0, backlog=Backlog(70_000 - 90)) is PING


def test_room_that_a_writer_has_filled_again_at_once_counts():
    keepalive = alive(20, 10)
    let(keepalive, 25, Backlog(70_000))
    keepalive.taken_at = 25.0
    assert let(keepalive, 1e6, Backlog(70_000))[-1] == (55, GIVE_UP)


@pytest.mark.parametrize("acked", [(None,) * 4, (100, 200, 300, 400)])
def test_nobody_is_stuck_while_more_is_still_written_without_waiting(acked):
    keepalive = alive(20, 10)
    for now, count in zip((20.0, 40.0, 60.0, 80.0), acked, strict=True):
        hear(keepalive, now)
        assert keepalive.check(now, backlog=Backlog(int(now), 0, count)) is NOTHING


def test_what_we_add_behind_what_is_stuck_moves_nothing_where_taken_bytes_are_counted():
    keepalive = alive(20, 10)
    for now in (20.0, 30.0, 40.0):
        hear(keepalive, now, "a ping")
        assert keepalive.check(now, backlog=Backlog(70_000 + int(now), 0, 5)) is NOTHING
    hear(keepalive, 50.0, "a ping")
    assert keepalive.check(50.0, backlog=Backlog(70_050, 0, 5)) is GIVE_UP


def test_nobody_is_stuck_who_has_taken_everything():
    keepalive = alive(20, 10)
    for now, unsent in ((20.0, 70_000), (40.0, 0), (60.0, 70_000), (80.0, 70_000)):
        hear(keepalive, now)
        assert keepalive.check(now, backlog=Backlog(unsent)) is NOTHING


def test_time_in_which_we_could_not_write_does_not_count():
    keepalive = alive(20, 10)
    keepalive.check(20.0, backlog=Backlog(70_000))
    hear(keepalive, 25.0)
    assert keepalive.check(500.0, backlog=Backlog(70_000)) is NOTHING


def test_without_a_timeout_a_peer_may_take_nothing_for_ever():
    keepalive = alive(20, None)
    assert all(due is PING for _, due in let(keepalive, 1e4, Backlog(1)))
    assert keepalive.due_at is not None
