"""A client that keeps coming back, for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Unpack

from koko.aio.conn import Conn
from koko.aio.dial import Dialer
from koko.aio.tasks import clock_of
from koko.dialing import DialerOptions
from koko.reconnecting import Attempts, Backoff, Retry, chosen_dialer, is_transient


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
    that is still open is closed first. ``backoff`` says how long to wait before that. Each end,
    with the wait that follows, is one line at INFO by the logger "koko.client". The body of
    the loop must catch what a connection raises there::

        async for conn in reconnect("wss://example.org/"):
            try:
                async for message in conn:
                    ...
            except CloseError:
                continue

    A Close with 1000 is followed by another connection like any other end: ``break`` where
    there is nothing left to do. ``retry`` (by default ``is_transient``) decides whether to try
    again after a failure or the end of a connection; if not, that error is raised. ``break``,
    ``return`` and an exception close the connection soon after; with
    ``contextlib.aclosing`` it is closed before the block is left.

    ``options`` are those of ``Dialer``, which may be given whole instead.

    Raises:
        ValueError: the URL or an option cannot be used; at once.
    """
    dialer = chosen_dialer(Dialer, dialer, options)
    attempts = Attempts(dialer.target(url).shown, backoff, retry)
    return _connections(dialer, url, attempts)


async def _connections(dialer: Dialer, url: str, attempts: Attempts) -> AsyncGenerator[Conn, None]:
    now = clock_of(asyncio.get_running_loop())
    while True:
        try:
            conn = await dialer.dial(url)
        except Exception as error:
            delay = attempts.failed(error)
        else:
            opened_at = now()
            try:
                yield conn
            except BaseException:
                await conn.close()
                attempts.left(conn.ending)
                raise
            ending, lasted = conn.ending, now() - opened_at
            await conn.close()
            delay = attempts.ended(ending, lasted)
        await asyncio.sleep(delay)
