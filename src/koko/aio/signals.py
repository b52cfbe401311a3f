"""The signals that stop a server: borrowed from the process, and given back as they were."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LOOK = 1.0  # seconds after which a signal is seen at the latest


@contextmanager
def stopped_by_signals(stop: Callable[[], object]) -> Iterator[None]:
    """Have the loop that runs call ``stop`` for each SIGINT and SIGTERM; in the main thread only.

    This does not ask the loop to handle them: a handler that was there, of the process or of
    the loop itself, could not be put back, since no loop tells what it had.
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
