"""Pings that wait for their pongs."""

from __future__ import annotations

from koko.core.pings import MAX_PINGS, Ping, Pings


def on_their_way(*sent):
    """Return pings with these payloads, each sent a second after the one before."""
    pings, waiting = Pings(), [Ping(payload, float(at)) for at, payload in enumerate(sent)]
    for ping in waiting:
        pings.add(ping)
    return pings, waiting


def test_a_pong_answers_the_ping_it_repeats_and_all_before_it():
    pings, (first, second, third) = on_their_way(b"1", b"2", b"3")
    pings.answer(b"2", 10.0)
    assert (first.round_trip, second.round_trip, third.round_trip) == (10, 9, None)
    assert pings.latency == 9
    assert b"2" not in pings
    assert b"3" in pings


def test_a_pong_to_nothing_of_ours_is_let_pass():
    pings, (ping,) = on_their_way(b"1")
    pings.answer(b"2", 10.0)
    assert ping.round_trip is None
    assert pings.latency is None


def test_a_late_pong_to_a_ping_answered_by_a_later_one_is_let_pass():
    pings, _ = on_their_way(b"1", b"2")
    pings.answer(b"2", 10.0)
    pings.answer(b"1", 20.0)
    assert pings.latency == 9


def test_whoever_waits_for_a_pong_is_called_when_it_comes():
    pings, (first, second) = on_their_way(b"1", b"2")
    called = []
    first.on_pong = lambda: called.append(first.round_trip)
    pings.answer(b"2", 10.0)
    assert called == [10]
    assert second.round_trip == 9


def test_a_peer_that_never_answers_costs_no_more_than_the_newest_pings():
    pings, _ = on_their_way(*(b"%d" % number for number in range(MAX_PINGS + 1)))
    assert len(pings) == MAX_PINGS
    assert b"0" not in pings
    assert b"1" in pings


def test_nothing_is_remembered_once_the_stream_has_ended():
    pings, (ping,) = on_their_way(b"1")
    pings.clear()
    pings.answer(b"1", 10.0)
    assert ping.round_trip is None
