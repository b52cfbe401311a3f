"""What a broadcast is told and what it counts."""

from __future__ import annotations

import pytest

from koko import Kind, PreparedMessage
from koko.broadcasting import Delivery, Patience, count, prepare


def test_a_message_is_prepared_as_what_it_is():
    text, binary = prepare("hi", "drop", 0), prepare(bytearray(b"hi"), "close", None)
    assert (text.kind, text.payload) == (Kind.TEXT, b"hi")
    assert (binary.kind, binary.payload) == (Kind.BINARY, b"hi")


def test_a_prepared_message_is_taken_as_it_is():
    prepared = PreparedMessage(Kind.TEXT, b"hi")
    assert prepare(prepared, "drop", 0) is prepared


@pytest.mark.parametrize(
    ("slow", "timeout", "sentence"),
    [
        ("wait", 0, "slow='wait', expected 'drop' the message or 'close' the connection"),
        ("drop", -0.1, "timeout=-0.1, expected 0 seconds or more, or None for no limit"),
    ],
)
def test_an_option_that_cannot_be_is_refused(slow, timeout, sentence):
    with pytest.raises(ValueError, match="^" + sentence):
        prepare("hi", slow, timeout)


def test_the_slow_ones_are_counted_as_what_has_become_of_them():
    assert count(5, 1, 2, "drop") == Delivery(sent=5, dropped=2, closed=0, gone=1)
    assert count(5, 1, 2, "close") == Delivery(sent=5, dropped=0, closed=2, gone=1)


def test_broadcasts_wait_for_one_connection_for_their_timeout_together() -> None:
    patience = Patience()
    assert patience.left(2, now=10) == 2
    patience.spend(0.8, now=10.8)
    patience.make_good(now=10.81)  # it had room for a moment
    assert patience.left(2, now=10.81) == pytest.approx(1.21)
    patience.spend(1.3, now=12.11)
    assert patience.left(2, now=12.2) == 0
    assert patience.left(2, now=100) == 0, "it had no room all that time"
    patience.make_good(now=101)
    assert patience.left(2, now=101) == pytest.approx(0.91)
    patience.make_good(now=110)
    assert patience.left(2, now=110) == 2
    assert patience.left(None, now=110) is None
