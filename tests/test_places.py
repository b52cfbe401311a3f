"""How many a server takes in, and what the next one is told."""

from __future__ import annotations

import pytest

from koko.opening.head import ResponseParser
from koko.places import TOLD, Place, check_limit, no_place, place


def test_without_a_limit_there_is_a_place_for_everybody():
    assert place(None, 10**9, 0) is Place.SEAT


def test_up_to_the_limit_everybody_is_served_and_then_told_so():
    assert [place(2, seated, 0) for seated in (0, 1, 2, 3)] == [
        Place.SEAT, Place.SEAT, Place.DOOR, Place.DOOR,
    ]  # fmt: skip


def test_a_crowd_at_the_door_is_hung_up_on():
    assert place(2, 2, TOLD - 1) is Place.DOOR
    assert place(2, 2, TOLD) is Place.NOWHERE


def test_the_answer_is_a_503_that_says_which_limit():
    error, octets = no_place(2)
    response = ResponseParser().feed(octets)
    assert response is not None
    assert response.status == error.status == 503
    assert response.body.decode() == error.reason
    assert "(max_connections=2), try again later" in error.reason


@pytest.mark.parametrize(
    ("limit", "error"),
    [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError), ("9", TypeError)],
)
def test_what_is_no_number_of_connections_is_refused(limit, error):
    with pytest.raises(error, match=f"^max_connections={limit!r}: a whole number above 0"):
        check_limit(limit)
