"""How long a connection of a test may last: so that no wait of a test lasts for ever."""

from __future__ import annotations

TIMEOUT = 10.0  # seconds
LEAVE = 1.0  # seconds that a client and what was cancelled have to end

BASE = "ws://localhost"


def overdue(call: str, timeout: float | None) -> str:
    """Return how a connection ended that lasted longer than it may."""
    return f"it was open for {timeout:g} s, the limit of {call}(timeout=)"


def url_of(target: str) -> str:
    """Return the URL of a path, or the one that was given.

    Raises:
        ValueError: it would need TLS, and there is none in memory.
    """
    if target.startswith("/"):
        return BASE + target
    if target.startswith("wss:"):
        raise ValueError(f"{target.partition('?')[0]!r}: nothing here speaks TLS; use ws://")
    return target
