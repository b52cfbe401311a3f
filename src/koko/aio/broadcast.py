"""One message to many connections, for asyncio: one pass, and no waiting that nobody asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from koko.aio.conn import Conn
from koko.aio.reflex import offer
from koko.broadcasting import TOO_SLOW, Delivery, Slow, count, prepare
from koko.core.lifecycle import State
from koko.errors import CloseError
from koko.message import Data, Kind, PreparedMessage, format_close_message


async def broadcast(
    conns: Iterable[Conn],
    message: Data | PreparedMessage,
    *,
    slow: Slow = "drop",
    timeout: float | None = 0.0,
) -> Delivery:
    """Send one message to many connections, encoded once; return what became of it, in numbers.

    Who has room is sent it before anything else can run: two broadcasts reach them all in
    the same order. A connection is slow while more than 64 KiB wait for its peer, or while
    another task's message is being written. The slow ones are waited for at most
    ``timeout`` seconds, all at once and behind nobody else; None leaves the giving up to
    the keepalive. To those who are still slow then, and to those whose ``write_deadline``
    has passed, happens what ``slow`` says: "drop" the message, or "close" the connection
    with 1013, within its ``close_timeout`` and without waiting for that.

    When cancelled, those who are still waited for do not get the message.
    """
    prepared = prepare(message, slow, timeout)
    sent, gone, late = offer(dict.fromkeys(conns), prepared)
    for conn in late:
        conn._protocol.message_lock.check_own()
    if late and timeout != 0:
        awaited = await asyncio.gather(*(_send(conn, prepared, timeout) for conn in late))
        sent += awaited.count(True)
        gone += awaited.count(None)
        late = [conn for conn, outcome in zip(late, awaited, strict=True) if outcome is False]
    if slow == "close":
        for conn in late:
            with suppress(CloseError):  # somebody else has closed it meanwhile
                conn._write_control(Kind.CLOSE, format_close_message(*TOO_SLOW))
    return count(sent, gone, len(late), slow)


async def _send(conn: Conn, prepared: PreparedMessage, timeout: float | None) -> bool | None:
    """Send in its turn: True when sent, False when it is slow, None when it is over."""
    try:
        await conn.write_prepared(prepared, timeout)
    except TimeoutError:
        return False
    except Exception:
        if conn._core.state is State.OPEN:
            raise
        return None  # how it ended is told to its own reader
    return True
