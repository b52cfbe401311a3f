"""Taking a lock back, come what may."""

from __future__ import annotations

from collections.abc import Callable


def retake(acquire: Callable[[], object]) -> BaseException | None:
    """Take a lock that was let go of for a while; return what interrupted that, if anything.

    Ctrl-C may come at any moment in the main thread, also while it waits for the lock: whoever
    would then go on without it leaves the connection in pieces. Raise what is returned once
    everything is in its place.
    """
    interrupt = None
    while True:
        try:
            acquire()
        except BaseException as error:
            interrupt = error
        else:
            return interrupt
