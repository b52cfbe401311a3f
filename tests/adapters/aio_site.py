"""A handler of koko.aio for gunicorn's workers."""

from __future__ import annotations

import os
import time

from koko import Request, Response
from koko.adapters.gunicorn import Worker
from koko.aio import Conn


async def handler(conn: Conn) -> None:
    await conn.send(f"{os.getpid()}")
    async for message in conn:
        await conn.send(message)


def site(request: Request) -> Response:
    return Response(200, f"{os.getpid()}")


class WithPages(Worker):
    options = {"http": site, "compression": True}  # noqa: RUF012 - as on the page


async def hang(conn: Conn) -> None:
    """Block the loop when told to."""
    await conn.send(f"{os.getpid()}")
    async for _ in conn:
        time.sleep(30)
