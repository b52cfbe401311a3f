"""Options that are read from environment variables; one that cannot be read is an error at once."""

from __future__ import annotations

import os
from typing import TypeVar

from koko.core.deflate import Compression

T = TypeVar("T")


def seconds(name: str, default: float) -> float:
    """Return a number of seconds, 0 or more."""
    return _read(name, default, float, "a number of seconds")


def number(name: str, default: int) -> int:
    """Return a whole number, 0 or more."""
    return _read(name, default, int, "a whole number")


def words(name: str, default: list[str]) -> list[str]:
    """Return what spaces or commas part."""
    return os.environ.get(name, "").replace(",", " ").split() or default


def compression() -> Compression:
    """Return how messages are compressed where the peer agrees."""
    usual = Compression()
    bits = number("KOKO_WINDOW_BITS", usual.server_max_window_bits)
    keeps = bool(number("KOKO_CONTEXT_TAKEOVER", 0))
    return Compression(
        level=number("KOKO_COMPRESSION_LEVEL", usual.level),
        threshold=number("KOKO_COMPRESSION_THRESHOLD", usual.threshold),
        server_no_context_takeover=not keeps,
        client_no_context_takeover=not keeps,
        server_max_window_bits=bits,
        client_max_window_bits=bits,
    )


def _read(name: str, default: T, kind: type[T], what: str) -> T:
    given = os.environ.get(name)
    if not given:
        return default
    try:
        value = kind(given)  # type: ignore[call-arg]
        if 0 <= value < float("inf"):  # type: ignore[operator]
            return value
    except ValueError:
        pass
    raise ValueError(f"{name}={given!r}: {what}, 0 or more")
