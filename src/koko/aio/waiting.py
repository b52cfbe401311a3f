"""A timeout whose error says in a sentence what did not happen."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from koko.misuse import check_seconds

T = TypeVar("T")

TOO_SLOW = "the peer reads too slowly; nothing was sent"


async def within(timeout: float | None, complaint: str, work: Coroutine[Any, Any, T]) -> T:
    """Await ``work``; the TimeoutError says what did not happen in time."""
    if timeout is None:
        return await work
    try:
        check_seconds("timeout", timeout)
    except (TypeError, ValueError):
        work.close()
        raise
    try:
        async with asyncio.timeout(timeout) as limit:
            return await work
    except TimeoutError:
        if limit.expired():
            raise TimeoutError(f"{complaint} within {timeout:g} s") from None
        raise
