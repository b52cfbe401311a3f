"""What ``koko serve`` runs on asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from koko.aio import Conn, broadcast, serve
from koko.cli.failure import Failure

PATIENCE = 5.0  # seconds until a broadcast closes a connection that does not read


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
    """The connections that get every message."""

    def __init__(self) -> None:
        self.members: set[Conn] = set()

    async def broadcast(self, conn: Conn) -> None:
        """Send every message of ``conn`` to all connections, encoded once."""
        self.members.add(conn)
        try:
            async for message in conn:
                await self.tell(message)
        finally:
            self.members.discard(conn)

    async def tell(self, message: str | bytes) -> None:
        """Send a message to all; a slow reader delays it once and is then closed."""
        await broadcast(self.members, message, slow="close", timeout=PATIENCE)
