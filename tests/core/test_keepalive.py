"""When a ping is due and when a peer is dead; time is a number."""

from __future__ import annotations

import pytest

from koko.core.keepalive import LATE, Due, Keepalive


def hear(keepalive, now, what="a message"):
    keepalive.heard_at, keepalive.heard_what = now, what


def test_nothing_is_due_before_the_interval_has_passed():
    keepalive = Keepalive(20, 10, 0.0)
    assert keepalive.due_at == 20
    assert keepalive.check(19.9) is Due.NOTHING
    assert keepalive.due_at == 20


def test_silence_makes_a_ping_due_and_more_silence_the_end():
    keepalive = Keepalive(20, 10, 0.0)
    assert keepalive.check(20.0) is Due.PING
    assert keepalive.due_at == 30
    assert keepalive.check(29.9) is Due.NOTHING
    assert keepalive.check(30.0) is Due.GIVE_UP
    assert keepalive.due_at is None
    assert keepalive.check(99.0) is Due.NOTHING


def test_life_puts_the_ping_off():
    keepalive = Keepalive(20, 10, 0.0)
    hear(keepalive, 15.0)
    assert keepalive.check(20.0) is Due.NOTHING
    assert keepalive.due_at == 35
    assert keepalive.check(35.0) is Due.PING


def test_life_after_a_ping_is_an_answer_whatever_it_is():
    keepalive = Keepalive(20, 10, 0.0)
    keepalive.check(20.0)
    hear(keepalive, 29.0)
    assert keepalive.check(30.0) is Due.NOTHING
    assert keepalive.due_at == 49


def test_without_an_interval_nothing_is_ever_due():
    keepalive = Keepalive(None, 10, 0.0)
    assert keepalive.due_at is None
    assert keepalive.check(1e9) is Due.NOTHING


def test_without_a_timeout_the_peer_is_pinged_for_ever():
    keepalive = Keepalive(20, None, 0.0)
    assert [keepalive.check(now) for now in (20.0, 40.0, 60.0)] == [Due.PING] * 3
    assert keepalive.due_at == 80


def test_the_error_says_what_was_heard_last_and_when():
    keepalive = Keepalive(20, 10, 0.0)
    assert keepalive.why(30.0) == "no answer to a ping within 10 s"
    assert keepalive.heard(30.0) == "last heard the opening handshake 30.0 s ago"
    hear(keepalive, 5.0, "a pong")
    assert keepalive.heard(35.0) == "last heard a pong 30.0 s ago"


def test_time_in_which_we_were_too_busy_to_listen_does_not_count():
    keepalive = Keepalive(20, 10, 0.0)
    keepalive.check(20.0)
    assert keepalive.check(37.0) is Due.NOTHING  # due at 30, 7 s ago
    assert keepalive.due_at == 37 + 10 - 10 + LATE
    assert keepalive.check(38.0) is Due.GIVE_UP
    assert keepalive.heard(38.0).endswith("; for 7.0 s of that this process did not listen")


def test_a_check_that_is_a_little_late_is_no_excuse():
    keepalive = Keepalive(20, 10, 0.0)
    keepalive.check(20.0)
    assert keepalive.check(30.0 + LATE) is Due.GIVE_UP


@pytest.mark.parametrize("timeout", [10, 0.5])
def test_time_in_which_we_had_stopped_reading_does_not_count_however_short(timeout):
    keepalive = Keepalive(20, timeout, 0.0)
    keepalive.check(20.0)
    assert keepalive.check(20.0 + timeout, listening=False) is Due.NOTHING
    assert keepalive.due_at == 20 + 2 * timeout
    assert keepalive.check(20.0 + 2 * timeout) is Due.GIVE_UP


def test_the_excuse_ends_with_the_next_sign_of_life():
    keepalive = Keepalive(20, 10, 0.0)
    assert keepalive.check(50.0) is Due.NOTHING
    assert keepalive.away == 30
    hear(keepalive, 51.0)
    keepalive.check(51.0)
    assert keepalive.check(71.0) is Due.PING
    assert keepalive.heard(81.0).endswith("last heard a message 30.0 s ago")


def test_what_was_not_heard_before_the_last_sign_of_life_is_no_excuse():
    keepalive = Keepalive(20, 10, 0.0)
    hear(keepalive, 50.0)  # read just before the check, both 30 s late
    assert keepalive.check(50.0) is Due.NOTHING
    assert keepalive.away == 0
    assert keepalive.due_at == 70


# Writing: a peer that takes nothing


def test_a_peer_that_takes_nothing_is_given_up_though_it_talks():
    keepalive = Keepalive(20, 10, 0.0)
    for now in (20.0, 30.0, 40.0):
        hear(keepalive, now, "a ping")
        assert keepalive.check(now, unsent=70_000) is Due.NOTHING
    hear(keepalive, 49.0, "a ping")
    assert keepalive.due_at == 50
    assert keepalive.check(50.0, unsent=70_000) is Due.GIVE_UP
    assert (
        keepalive.why(50.0) == "the peer took none of the 70000 bytes that wait for it within 30 s"
    )


def test_a_peer_that_takes_a_little_is_alive_and_needs_no_ping():
    keepalive = Keepalive(20, 10, 0.0)
    for now in range(10, 100, 10):
        assert keepalive.check(float(now), unsent=70_000 - now) is Due.NOTHING
    assert keepalive.due_at == 110
    assert keepalive.check(110.0, unsent=70_000 - 90) is Due.PING


def test_room_that_a_writer_has_filled_again_at_once_counts():
    keepalive = Keepalive(20, 10, 0.0)
    keepalive.check(20.0, unsent=70_000)
    keepalive.taken_at = 25.0
    assert keepalive.check(30.0, unsent=70_000) is Due.NOTHING
    assert keepalive.due_at == 35
    assert keepalive.check(35.0, unsent=70_000) is Due.GIVE_UP


def test_nobody_is_stuck_while_more_is_still_written_without_waiting():
    keepalive = Keepalive(20, 10, 0.0)
    for now in (20.0, 40.0, 60.0, 80.0):
        hear(keepalive, now)
        assert keepalive.check(now, unsent=int(now)) is Due.NOTHING


def test_nobody_is_stuck_who_has_taken_everything():
    keepalive = Keepalive(20, 10, 0.0)
    for now, unsent in ((20.0, 70_000), (40.0, 0), (60.0, 70_000), (80.0, 70_000)):
        hear(keepalive, now)
        assert keepalive.check(now, unsent=unsent) is Due.NOTHING


def test_time_in_which_we_could_not_write_does_not_count():
    keepalive = Keepalive(20, 10, 0.0)
    keepalive.check(20.0, unsent=70_000)
    hear(keepalive, 25.0)
    assert keepalive.check(500.0, unsent=70_000) is Due.NOTHING


def test_without_a_timeout_a_peer_may_take_nothing_for_ever():
    keepalive = Keepalive(20, None, 0.0)
    assert [keepalive.check(now, unsent=1) for now in (20.0, 40.0, 60.0)] == [Due.PING] * 3
