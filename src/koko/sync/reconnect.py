"""A client that keeps coming back, for threads."""

from __future__ import annotations

import logging
from collections.abc import Generator
from time import monotonic, sleep
from typing import Unpack

from koko.dialing import DialerOptions
from koko.reconnecting import Attempts, Backoff, Retry, is_transient
from koko.sync.conn import Conn
from koko.sync.dial import Dialer

logger = logging.getLogger("koko.client")


def reconnect(
    url: str,
    *,
    backoff: Backoff | None = None,
    retry: Retry = is_transient,
    dialer: Dialer | None = None,
    **options: Unpack[DialerOptions],
) -> Generator[Conn, None, None]:
    """Yield open connections to ``url``, one after the other, for ``for``.

    Each time the loop comes back, however the last connection ended, another is dialed; one
    that is still open is closed first. How long to wait before that, ``backoff`` says. Each
    failure is one line at INFO, by the logger "koko.client". What a connection raises in
    the body of the loop is the body's to catch::

        for conn in reconnect("wss://example.org/"):
            try:
                for message in conn:
                    ...
            except CloseError:
                continue

    The iteration ends when the peer closes with 1000. ``retry`` is asked whether a failure,
    or the end of a connection, is worth another try, ``is_transient`` by default; what is
    not is raised, unless it was an ordinary end. ``break``, ``return`` and an exception
    close the connection at once on CPython, which lets go of the iterator; elsewhere
    ``contextlib.closing`` does. The wait between two tries is a sleep of this thread.

    ``options`` are those of ``Dialer``, which may be given whole instead.

    Raises:
        ValueError: the URL or an option cannot be used; at once.
    """
    if dialer is not None and options:
        raise TypeError(f"give dialer= or its options, not both: {', '.join(options)}")
    dialer = dialer or Dialer(**options)
    dialer.target(url)
    return _connections(dialer, url, Attempts(backoff or Backoff(), retry))


def _connections(dialer: Dialer, url: str, attempts: Attempts) -> Generator[Conn, None, None]:
    name = dialer.target(url).url
    failure: BaseException | None
    delay: float | None
    while True:
        try:
            conn = dialer.dial(url)
        except Exception as error:
            failure, delay = error, attempts.failed(error)
        else:
            opened_at = monotonic()
            try:
                yield conn
                failure, lasted = conn.ending, monotonic() - opened_at
            finally:
                conn.close()
            delay = attempts.ended(failure, lasted)
            if delay is None:
                return
        logger.info("%s: %s; next try in %.1f s", name, failure or "asked for another", delay)
        sleep(delay)
