"""Addresses as people read them."""

from __future__ import annotations

import pytest

from koko.opening.address import distinct, written


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (("127.0.0.1", 8765), "127.0.0.1:8765"),
        (("::1", 8765, 0, 0), "[::1]:8765"),
        (("fe80::1%eth0", 80, 0, 2), "[fe80::1%eth0]:80"),
        (("203.0.113.9", 0), "203.0.113.9"),  # a proxy told no port
        (("2001:db8::1", 0, 0, 0), "[2001:db8::1]"),
        ("/run/koko.sock", "/run/koko.sock"),
        (b"\0koko", "@koko"),
        ("", "a Unix socket"),
        (b"", "a Unix socket"),
        (None, "an unknown address"),
        ((), "an unknown address"),
    ],
)
def test_an_address_is_written_as_in_a_url(address, text):
    assert written(address) == text


@pytest.mark.parametrize(
    ("found", "listened_on"),
    [
        (["127.0.0.1", "::1", "127.0.0.1"], ["127.0.0.1", "::1"]),
        (["127.0.0.1", "0.0.0.0", "::1"], ["0.0.0.0", "::1"]),
        (["::", "127.0.0.1", "fe80::1", "0.0.0.0"], ["::", "0.0.0.0"]),
    ],
)
def test_an_address_that_a_wildcard_stands_for_is_not_listened_on_twice(found, listened_on):
    assert distinct(found) == listened_on
