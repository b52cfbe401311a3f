"""How long a connection of a test may last, and how it ends: no wait of a test lasts for ever."""

from __future__ import annotations

from asyncio import CancelledError
from dataclasses import replace
from typing import Any, TypeVar

from koko.dialing import Dialer
from koko.errors import only_closes
from koko.misuse import check_seconds

TIMEOUT = 10.0  # seconds
LEAVE = 1.0  # seconds that a client and what was cancelled have to end
GRACE = 2.0  # seconds more than it may take, until a thread no longer waits for an event loop

# What ends the task or the program that runs a test: no error of an application replaces it.
ENDS = (CancelledError, KeyboardInterrupt, SystemExit)

BASE = "ws://localhost"


def ends(error: BaseException | None) -> bool:
    """Tell whether an error, or one in a group, ends a task or the program."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(ENDS) is not None
    return isinstance(error, ENDS)


D = TypeVar("D", bound=Dialer)


def check_timeout(timeout: Any) -> None:
    """Raise unless ``timeout`` can be a limit, or is None."""
    check_seconds("timeout", timeout)
    if timeout is not None and timeout <= 0:
        raise ValueError(f"timeout={timeout!r}, expected seconds above 0, or None for no limit")


def bounded(dialer: D, timeout: float | None) -> D:
    """Return the dialer with an opening handshake that takes no longer than ``timeout``."""
    return replace(dialer, handshake_timeout=shortest(dialer.handshake_timeout, timeout))


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
        ValueError: it would need TLS, and there is none in memory, or it is neither.
    """
    if target.startswith("/"):
        return BASE + target
    if "://" not in target:
        raise ValueError(f"{target.partition('?')[0]!r}: a path begins with '/', as in '/chat'")
    if target.startswith("wss:"):
        raise ValueError(f"{target.partition('?')[0]!r}: nothing here speaks TLS; use ws://")
    return target
