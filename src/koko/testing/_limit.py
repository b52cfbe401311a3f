"""How long a connection of a test may last, and how it ends: no wait of a test lasts for ever."""

from __future__ import annotations

from koko.errors import only_closes

TIMEOUT = 10.0  # seconds
LEAVE = 1.0  # seconds that a client and what was cancelled have to end

BASE = "ws://localhost"


def shortest(*timeouts: float | None) -> float | None:
    """Return the shortest of some timeouts, of which None is the longest."""
    return min((timeout for timeout in timeouts if timeout is not None), default=None)


def overdue(call: str, timeout: float | None) -> str:
    """Return how a connection ended that lasted longer than it may."""
    return f"it was open for {timeout:g} s, the limit of {call}(timeout=)"


def code_after(error: BaseException) -> int:
    """Return the code that connections are closed with after a block that raised ``error``."""
    if only_closes(error):
        return 1000
    return 1011 if isinstance(error, Exception) else 1001


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
