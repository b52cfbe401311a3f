"""SIGINT and SIGTERM stop ``serve``: it sets their handlers, and restores the former ones."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """Waits for signals, or until another thread calls ``tell``.

    A lock would lose a signal that comes just before a thread waits for the lock, since the
    Python handler only runs after the wait. A byte that the system writes into a socket stays.
    """

    def __init__(self, before: int) -> None:
        self._before = before  # the wakeup descriptor of the application, -1 for none
        self._heard, self.woken = socket.socketpair()
        self.woken.setblocking(False)

    def wait(self) -> bool:
        """Wait; return True for a signal to stop, False after ``tell``."""
        while True:
            number = self._heard.recv(1)[0]
            if number in (0, *SIGNALS):
                return number != 0
            if self._before >= 0:  # a signal that the application watches
                with suppress(OSError):
                    os.write(self._before, bytes([number]))

    def tell(self) -> None:
        """End the waiting."""
        with suppress(OSError):  # full, or closed already
            self.woken.send(b"\0")

    def close(self) -> None:
        self._heard.close()
        self.woken.close()


@contextmanager
def stop_signals() -> Iterator[Signals]:
    """Yield what waits for SIGINT and SIGTERM; they come in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        with closing(Signals(-1)) as waiter:
            yield waiter
        return
    wakeup = signal.set_wakeup_fd(-1)  # the present one is only returned when it is replaced
    signals: Signals | None = None
    # A handler that is None was set in C and cannot be restored: it stays.
    handlers = {number: was for number in SIGNALS if (was := signal.getsignal(number)) is not None}
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
