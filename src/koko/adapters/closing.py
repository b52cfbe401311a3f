"""Says goodbye to all clients of a process whose server is told to stop.

The servers of others know nothing of a connection once it was taken from them.
``koko.adapters.gunicorn`` calls this by itself.
"""

from __future__ import annotations

import logging
from threading import current_thread
from time import monotonic

from koko import serving
from koko.adapters._view import running
from koko.core.control import check_closing
from koko.sync.driver import served
from koko.sync.logs import tell
from koko.sync.transport import peer_name

_LOGGER = logging.getLogger("koko.server")
_LEAVE = 1.0  # seconds that handlers get to end after their sockets were dropped


def close_all(code: int = 1001, reason: str = "", timeout: float = 10.0) -> None:
    """Close every connection that this process has to a client, on threads; wait for the end.

    All get the Close at once. Whatever is not over after ``timeout`` seconds is dropped. Then
    the handlers that run in threads of their own, by ``thread=True``, are waited for: up to
    the timeout, and one second at least. May be called from any thread, and again for those
    that have come meanwhile.

    Raises:
        ValueError: the code or the reason may not be sent, or the timeout is none; nothing was.
    """
    check_closing(code, reason, timeout)
    deadline = monotonic() + timeout
    drivers = served()
    if drivers:
        names = serving.addresses([peer_name(driver.stream.socket) for driver in drivers])
        tell(_LOGGER, logging.INFO, serving.CLOSING, timeout, len(drivers), names)
    for driver in drivers:
        driver.start_close(code, reason)
    for driver in drivers:
        driver.finish(max(0.0, deadline - monotonic()))
    _wait_for_handlers(max(deadline, monotonic() + _LEAVE))


def _wait_for_handlers(deadline: float) -> None:
    waited = {thread: peer for thread, peer in tuple(running.items()) if thread != current_thread()}
    for thread in waited:
        thread.join(max(0.0, deadline - monotonic()))
    if late := [peer for thread, peer in waited.items() if thread.is_alive()]:
        names = serving.addresses(late)
        tell(_LOGGER, logging.WARNING, serving.LATE, len(late), names)
