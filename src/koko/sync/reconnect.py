"""A client that keeps coming back, for threads."""

from __future__ import annotations

from collections.abc import Generator
from time import monotonic, sleep
from typing import Unpack

from koko.dialing import DialerOptions
from koko.reconnecting import Attempts, Backoff, Retry, chosen_dialer, is_transient
from koko.sync.conn import Conn
from koko.sync.dial import Dialer


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
    that is still open is closed first. ``backoff`` says how long to wait before that. Each end,
    with the wait that follows, is one line at INFO by the logger "koko.client". The body of
    the loop must catch what a connection raises there::

        for conn in reconnect("wss://example.org/"):
            try:
                for message in conn:
                    ...
            except CloseError:
                continue

    A Close with 1000 is followed by another connection like any other end: ``break`` where
    there is nothing left to do. ``retry`` (by default ``is_transient``) decides whether to try
    again after a failure or the end of a connection; if not, that error is raised. ``break``,
    ``return`` and an exception close the connection at once on CPython, which frees the
    iterator; elsewhere use ``contextlib.closing``. Between two tries this thread sleeps.

    ``options`` are those of ``Dialer``, which may be given whole instead.

    Raises:
        ValueError: the URL or an option cannot be used; at once.
    """
    dialer = chosen_dialer(Dialer, dialer, options)
    attempts = Attempts(dialer.target(url).shown, backoff, retry)
    return _connections(dialer, url, attempts)


def _connections(dialer: Dialer, url: str, attempts: Attempts) -> Generator[Conn, None, None]:
    while True:
        try:
            conn = dialer.dial(url)
        except Exception as error:
            delay = attempts.failed(error)
        else:
            opened_at = monotonic()
            try:
                yield conn
            except BaseException:
                conn.close()
                attempts.left(conn.ending)
                raise
            ending, lasted = conn.ending, monotonic() - opened_at
            conn.close()
            delay = attempts.ended(ending, lasted)
        sleep(delay)
