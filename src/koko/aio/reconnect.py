"""A client that keeps coming back, for asyncio."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Unpack

from koko.aio.conn import Conn
from koko.aio.dial import Dialer
from koko.aio.tasks import clock_of
from koko.dialing import DialerOptions
from koko.reconnecting import Attempts, Backoff, Retry, is_transient

logger = logging.getLogger("koko.client")


def reconnect(
    url: str,
    *,
    backoff: Backoff | None = None,
    retry: Retry = is_transient,
    dialer: Dialer | None = None,
    **options: Unpack[DialerOptions],
) -> AsyncGenerator[Conn, None]:
    """Yield open connections to ``url``, one after the other, for ``async for``.

    Each time the loop comes back, however the last connection ended, another is dialed; one
    that is still open is closed first. How long to wait before that, ``backoff`` says. Each
    failure is one line at INFO, by the logger "koko.client". What a connection raises in
    the body of the loop is the body's to catch::

        async for conn in reconnect("wss://example.org/"):
            try:
                async for message in conn:
                    ...
            except CloseError:
                continue

    The iteration ends when the peer closes with 1000. ``retry`` is asked whether a failure,
    or the end of a connection, is worth another try, ``is_transient`` by default; what is
    not is raised, unless it was an ordinary end. ``break``, ``return`` and an exception
    close the connection, soon after; with ``contextlib.aclosing`` before the block is left.

    ``options`` are those of ``Dialer``, which may be given whole instead.

    Raises:
        ValueError: the URL or an option cannot be used; at once.
    """
    if dialer is not None and options:
        raise TypeError(f"give dialer= or its options, not both: {', '.join(options)}")
    dialer = dialer or Dialer(**options)
    dialer.target(url)
    return _connections(dialer, url, Attempts(backoff or Backoff(), retry))


async def _connections(dialer: Dialer, url: str, attempts: Attempts) -> AsyncGenerator[Conn, None]:
    now, name = clock_of(asyncio.get_running_loop()), dialer.target(url).url
    failure: BaseException | None
    delay: float | None
    while True:
        try:
            conn = await dialer.dial(url)
        except Exception as error:
            failure, delay = error, attempts.failed(error)
        else:
            opened_at = now()
            try:
                yield conn
                failure, lasted = conn.ending, now() - opened_at
            finally:
                await conn.close()
            delay = attempts.ended(failure, lasted)
            if delay is None:
                return
        logger.info("%s: %s; next try in %.1f s", name, failure or "asked for another", delay)
        await asyncio.sleep(delay)
