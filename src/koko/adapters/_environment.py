"""Options that are read from environment variables; one that cannot be read is an error at once."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from difflib import get_close_matches
from typing import NoReturn, TypeVar

from koko.core.deflate import Compression
from koko.upgrading import Upgrader

STARTUP_FAILURE = 3  # uvicorn and gunicorn stop at this code; of others they start a new worker
INF = float("inf")
_read_here: set[str] = set()
T = TypeVar("T")
_LOGGER = logging.getLogger("uvicorn.error")


class SettingError(ValueError):
    """A variable cannot be read."""


def give_up(error: SettingError) -> NoReturn:
    """End uvicorn: by the error, or by a code that its manager of processes knows."""
    if multiprocessing.parent_process() is None and "gunicorn.arbiter" not in sys.modules:
        raise error
    _LOGGER.error("cannot start: %s", error)
    raise SystemExit(STARTUP_FAILURE) from None


def tell_of_mistaken(elsewhere: dict[str, str]) -> None:
    """Warn of variables that are not read here and look as if they were meant to be.

    Of ``KOKO_ORIGIN`` nothing else is seen: pages of every site go on being let in.
    ``elsewhere`` has those of another server, and what has their meaning here.
    """
    for name in sorted(os.environ):
        if name.startswith("KOKO_") and name not in _read_here:
            near = elsewhere.get(name) or _near(name)
            if near:
                _LOGGER.warning("%s is not read here; did you mean %s?", name, near)


def _near(name: str) -> str:
    return "".join(get_close_matches(name, _read_here, n=1, cutoff=0.75))


def seconds(name: str, default: float) -> float:
    """Return a number of seconds, 0 or more."""
    return _read(name, default, float, "a number of seconds")


def number(name: str, default: int, least: int = 0, most: float = INF) -> int:
    """Return a whole number, 0 or more."""
    return _read(name, default, int, "a whole number", least, most)


def origins(default: list[str]) -> list[str]:
    """Return the pages that may connect, parted by spaces or commas."""
    _read_here.add("KOKO_ORIGINS")
    given = os.environ.get("KOKO_ORIGINS", "")
    named = given.replace(",", " ").split() or default
    try:
        Upgrader(origins=named)
    except ValueError as error:
        raise SettingError(f"KOKO_ORIGINS={given!r}: {error}") from None
    return named


def compression() -> Compression:
    """Return how messages are compressed where the peer agrees."""
    usual = Compression()
    bits = number("KOKO_WINDOW_BITS", usual.server_max_window_bits, 8, 15)
    keeps = bool(number("KOKO_CONTEXT_TAKEOVER", 0))
    return Compression(
        level=number("KOKO_COMPRESSION_LEVEL", usual.level, 0, 9),
        threshold=number("KOKO_COMPRESSION_THRESHOLD", usual.threshold),
        server_no_context_takeover=not keeps,
        client_no_context_takeover=not keeps,
        server_max_window_bits=bits,
        client_max_window_bits=bits,
    )


def _read(name: str, default: T, kind: type[T], what: str, least: int = 0, most: float = INF) -> T:
    _read_here.add(name)
    given = os.environ.get(name)
    if not given:
        return default
    try:
        value = kind(given)  # type: ignore[call-arg]
        if least <= value <= most and value != INF:  # type: ignore[operator]
            return value
    except ValueError:
        pass
    bounds = f"{least} or more" if most == INF else f"{least} to {most}"
    raise SettingError(f"{name}={given!r}: {what}, {bounds}")
