"""An echo server on asyncio: every message goes back to its sender.

python examples/echo_server.py          PORT=8765 in the environment, 0 for any; Ctrl-C stops
"""

import asyncio
import os

from koko.aio import Conn, Server, serve


async def echo(conn: Conn) -> None:
    async for message in conn:
        await conn.send(message)


def announce(server: Server) -> None:
    print("ws://{}:{}".format(*server.address), flush=True)


port = int(os.environ.get("PORT", "8765"))
asyncio.run(serve(echo, "127.0.0.1", port, on_start=announce))
