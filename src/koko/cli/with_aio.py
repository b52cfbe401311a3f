"""What ``koko serve`` runs on asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from koko import CloseError, PreparedMessage
from koko.aio import Conn, serve
from koko.cli import Failure
from koko.message import kind_of

PATIENCE = 5.0  # seconds a broadcast waits for one who does not read, then drops him


def run(what: str, loop: str, **serving: Any) -> None:
    """Run the server called ``what`` until it is stopped, on the event loop called ``loop``."""
    handler = {"echo": echo, "broadcast": Audience().broadcast}[what]
    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        runner.run(serve(handler, **serving))


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes the event loop: uvloop where it is wanted or, for auto, installed."""
    if name == "asyncio":
        return asyncio.new_event_loop
    try:
        import uvloop
    except ImportError:
        if name == "auto":
            return asyncio.new_event_loop
        raise Failure("--loop uvloop needs uvloop: pip install 'koko[speed]'") from None
    return uvloop.new_event_loop


async def echo(conn: Conn) -> None:
    """Send every message back."""
    async for message in conn:
        await conn.send(message)


class Audience:
    """Everybody who is to hear a message."""

    def __init__(self) -> None:
        self.members: set[Conn] = set()

    async def broadcast(self, conn: Conn) -> None:
        """Send every message of ``conn`` to everybody, encoded once."""
        self.members.add(conn)
        try:
            async for message in conn:
                await self.tell(PreparedMessage(kind_of(message), message))
        finally:
            self.members.discard(conn)

    async def tell(self, message: PreparedMessage) -> None:
        """Send a message to everybody; who reads too slowly delays it once, and is dropped."""
        slow = []
        for conn in tuple(self.members):
            # Only who has not yet taken what came before may have to be waited for. A task
            # for everybody would cost nearly as much again: 34 us a delivery against 19.
            if conn.transport.get_write_buffer_size():
                slow.append(_deliver(conn, message, PATIENCE))
            else:
                await _deliver(conn, message)
        await asyncio.gather(*slow)


async def _deliver(conn: Conn, message: PreparedMessage, timeout: float | None = None) -> None:
    try:
        await conn.write_prepared(message, timeout)
    except TimeoutError:
        conn.abort()
    except CloseError:
        pass  # gone meanwhile; its own handler hears of it
