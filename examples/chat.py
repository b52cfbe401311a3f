"""A chat with a hub, on asyncio: what one window says, every window shows.

python examples/chat.py                 PORT=8080 in the environment; Ctrl-C stops

Each client has a queue of its own, so one that does not read holds up no other: when its
queue is full it is dropped. Pings, dead peers and limits are Koko's business.
"""

import asyncio
import os
from asyncio import Queue
from contextlib import suppress
from pathlib import Path

from koko import CloseError, Kind, PreparedMessage, Request, Response
from koko.aio import Conn, Server, serve

BEHIND = 256  # messages that a client may be behind
LONGEST = 4096  # bytes of one message
PAGE = Response(
    200,
    Path(__file__).with_suffix(".html").read_text("utf-8"),
    {"Content-Type": "text/html; charset=utf-8"},
)


class Hub:
    """Who is here; one event loop runs everything, so there is nothing to lock."""

    def __init__(self) -> None:
        self._queues: dict[Conn, Queue[PreparedMessage]] = {}

    async def visit(self, conn: Conn) -> None:
        """Let a client take part until its connection ends."""
        queue = self._queues[conn] = Queue(BEHIND)
        sending = asyncio.create_task(send_all(queue, conn))
        try:
            async for message in conn:
                if isinstance(message, bytes):
                    return await conn.close(1003, "a chat is text")
                self.tell(PreparedMessage(Kind.TEXT, message))
        finally:
            del self._queues[conn]
            sending.cancel()

    def tell(self, message: PreparedMessage) -> None:
        """Queue a message for every client, without waiting."""
        for conn, queue in self._queues.items():
            if queue.full():
                conn.abort()  # a Close would only join what it does not read
            else:
                queue.put_nowait(message)


async def send_all(queue: Queue[PreparedMessage], conn: Conn) -> None:
    with suppress(CloseError):  # the visit hears how it ended, too
        while True:
            await conn.write_prepared(await queue.get())


def page(request: Request) -> Response:
    return PAGE if request.path == "/" else Response(404, "here is only /\n")


def announce(server: Server) -> None:
    print("open http://{}:{}/ in several windows".format(*server.address), flush=True)


port = int(os.environ.get("PORT", "8080"))
asyncio.run(serve(Hub().visit, "127.0.0.1", port, http=page, read_limit=LONGEST, on_start=announce))
