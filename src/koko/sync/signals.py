"""SIGINT and SIGTERM for ``serve``: what it borrows from the process it gives back as it was."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from types import FrameType

STOP = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """Waits for signals, or for being told by another thread that there is nothing to wait for.

    A lock would lose a signal that comes just before a thread waits for it, since its handler
    only runs after that. What the system writes into a socket is not lost.
    """

    def __init__(self, before: int) -> None:
        self._before = before  # where others wait for the same bytes, -1 for nowhere
        self._heard, self.woken = socket.socketpair()
        self.woken.setblocking(False)

    def wait(self) -> bool:
        """Wait; True when it was a signal to stop, False when somebody ``tell``s."""
        while True:
            number = self._heard.recv(1)[0]
            if number in (0, *STOP):
                return number != 0
            if self._before >= 0:  # a signal that the application watches
                with suppress(OSError):
                    os.write(self._before, bytes([number]))

    def tell(self) -> None:
        """End the waiting."""
        with suppress(OSError):  # full, or nobody waits any more
            self.woken.send(b"\0")

    def close(self) -> None:
        self._heard.close()
        self.woken.close()


@contextmanager
def stop_signals() -> Iterator[Signals]:
    """Yield what waits for SIGINT and SIGTERM; only in the main thread do they come."""
    if threading.current_thread() is not threading.main_thread():
        with closing(Signals(-1)) as told:
            yield told
        return
    wakeup = signal.set_wakeup_fd(-1)  # which it is, is told only to who sets another
    signals: Signals | None = None
    # A handler that is None was set in C and could not be given back: it stays.
    handlers = {number: was for number in STOP if (was := signal.getsignal(number)) is not None}
    try:
        signals = Signals(wakeup)
        signal.set_wakeup_fd(signals.woken.fileno(), warn_on_full_buffer=False)
        for number in handlers:
            signal.signal(number, _ignore)
        yield signals
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if signals is not None:
            signals.close()


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing: the number has been written into the socket."""
