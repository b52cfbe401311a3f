"""SIGINT and SIGTERM stop ``serve``: it sets their handlers, and restores the former ones."""

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
    """Let the running loop call ``stop`` for each SIGINT and SIGTERM; in the main thread only.

    Not by ``loop.add_signal_handler``: it does not tell which handler it replaces, so that one
    could not be restored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()

    def caught(number: int, frame: object) -> None:
        loop.call_soon_threadsafe(stop)

    # A handler that was set in C cannot be restored: it stays.
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
            if signal.getsignal(number) is caught:  # the application has not replaced it
                signal.signal(number, before[number])


async def _look() -> None:
    """Wake the loop now and then: a signal that comes just before it waits does not wake it."""
    while True:
        await asyncio.sleep(LOOK)
