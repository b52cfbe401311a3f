"""One message to many connections, for asyncio: one pass, then a wait for the slow ones."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from time import monotonic
from weakref import WeakKeyDictionary

from koko.aio.conn import Conn
from koko.aio.protocol import send_now
from koko.broadcasting import (
    SLOW_CLOSE,
    Delivery,
    Patience,
    Slow,
    audience_of,
    count,
    prepare,
)
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

    Connections that have room are sent it before anything else can run: two broadcasts
    reach them all in the same order. A connection is slow while more than 64 KiB wait for
    its peer, or while another task's message is being written. The slow ones are waited
    for, all at once, and keep nobody else waiting. All broadcasts together wait at most
    ``timeout`` seconds for each, less the time in which it has room; with None only the
    keepalive gives it up. ``slow`` says what happens to those that are still slow then, and
    to those whose ``write_deadline`` has passed: "drop" the message, or "close" the
    connection with 1013, within its ``close_timeout`` and without waiting for that.

    When cancelled, the connections that are still waited for do not get the message.
    """
    prepared = prepare(message, slow, timeout)
    audience = audience_of(conns, Conn)
    sent, gone, late = send_now(audience, prepared)
    for conn in late:
        conn._protocol.message_lock.check_own()
    _note_room(audience, late)
    if late and timeout != 0:
        awaited = await asyncio.gather(*(_send(conn, prepared, timeout) for conn in late))
        sent += awaited.count(True)
        gone += awaited.count(None)
        late = [conn for conn, outcome in zip(late, awaited, strict=True) if outcome is False]
    if slow == "close":
        for conn in late:
            with suppress(CloseError):  # another task has closed it meanwhile
                conn._write_control(Kind.CLOSE, format_close_message(*SLOW_CLOSE))
    return count(sent, gone, len(late), slow)


async def _send(conn: Conn, prepared: PreparedMessage, timeout: float | None) -> bool | None:
    """Send when we get the lock: True if sent, False if the peer is slow, None if it is over."""
    patience = _patiences.setdefault(conn, Patience())
    began = monotonic()
    left = patience.left(timeout, began)
    try:
        if left == 0:
            return False
        await conn.write_prepared(prepared, left)
    except TimeoutError:
        return False
    except Exception:
        if conn._core.state is State.OPEN:
            raise
        return None  # the connection's receiver gets the error
    finally:
        patience.spend(monotonic() - began, monotonic())
    return True


# For each connection that broadcasts have waited for, as long as the wait still counts.
_patiences: WeakKeyDictionary[Conn, Patience] = WeakKeyDictionary()


def _note_room(audience: Iterable[Conn], late: Iterable[Conn]) -> None:
    """Take off the waits of connections that had room this time."""
    if not _patiences:
        return
    for conn in set(audience).difference(late):
        if (patience := _patiences.get(conn)) is not None:
            patience.make_good(monotonic())
            if not patience.spent:
                del _patiences[conn]
