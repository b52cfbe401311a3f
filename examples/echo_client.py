"""An asyncio client that sends and receives at once: python examples/echo_client.py [URL]."""

import asyncio
import sys

from koko.aio import Conn, dial


async def main(url: str) -> None:
    async with dial(url) as conn, asyncio.TaskGroup() as both:
        both.create_task(say(conn))
        both.create_task(hear(conn))


async def say(conn: Conn) -> None:
    for number in range(10):
        await conn.send(f"message {number}")


async def hear(conn: Conn) -> None:
    for _ in range(10):
        print(await conn.recv(timeout=5))


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "ws://localhost:8765"))
