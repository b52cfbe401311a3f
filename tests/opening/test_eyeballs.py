"""The order in which the addresses of a name are tried, and what is said when none answers."""

from __future__ import annotations

import errno

import pytest

from koko.opening.eyeballs import interleaved, no_connection


def address(name):
    return 6 if ":" in name else 4, 1, 6, "", (name, 80)


@pytest.mark.parametrize(
    ("resolved", "tried"),
    [
        ("", ""),
        ("a b", "a b"),
        (":1 :2 a b", ":1 a :2 b"),
        ("a :1 :2 :3", "a :1 :2 :3"),
        (":1 a b c", ":1 a b c"),
    ],
)
def test_the_families_are_tried_by_turns_and_the_resolvers_first_choice_first(resolved, tried):
    found = interleaved(map(address, resolved.split()))
    assert [where[0] for *_, where in found] == tried.split()


def test_every_address_is_named_with_its_reason_and_the_first_gives_the_kind():
    failures = [
        (address("127.0.0.1"), OSError(errno.ECONNREFUSED, "Connect call failed")),
        (address("::1"), OSError("no route")),
    ]
    error = no_connection("a.example", 80, failures)
    assert isinstance(error, ConnectionRefusedError)
    assert "to a.example port 80: 127.0.0.1: Connection refused; ::1: no route" in str(error)


def test_without_a_number_of_the_system_it_is_a_plain_os_error():
    assert no_connection("a", 80, []).errno is None
