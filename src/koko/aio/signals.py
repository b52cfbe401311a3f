"""SIGINT and SIGTERM stop ``serve``: it takes them from the process, and gives them back."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LOOK = 1.0  # seconds within which a signal is noticed


@contextmanager
def stopped_by_signals(stop: Callable[[], object]) -> Iterator[None]:
    """Have the running loop call ``stop`` for each SIGINT and SIGTERM; in the main thread only.

    The loop is not asked to handle them: it does not say which handler it replaces, so that one
    could not be put back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()

    def caught(number: int, frame: object) -> None:
        loop.call_soon_threadsafe(stop)

    # A handler that was not set in Python could not be set again: it stays.
    before = {number: signal.getsignal(number) for number in SIGNALS}
    taken = [number for number in SIGNALS if before[number] is not None]
    looking = loop.create_task(_look(), name="koko-signals")
    try:
        for number in taken:
            signal.signal(number, caught)
        yield
    finally:
        looking.cancel()
        for number in taken:
            if signal.getsignal(number) is caught:  # nobody else has taken it meanwhile
                signal.signal(number, before[number])


async def _look() -> None:
    """Have the loop wake now and then: a signal just before it waits does not end that wait."""
    while True:
        await asyncio.sleep(LOOK)
