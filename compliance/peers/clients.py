"""Clients in Python: ``python -m peers.clients NAME URL`` ends with 0 if all it says is echoed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from peers.said import Message, talk, talk_async

PATIENCE = 20.0  # seconds; nothing takes so long


def websockets(url: str) -> None:
    from websockets.sync.client import connect

    with connect(url, proxy=None) as client:
        talk(client.send, client.recv)


def picows(url: str) -> None:
    from picows.websockets.asyncio.client import connect

    async def main() -> None:
        async with connect(url, proxy=None) as client:
            await talk_async(client.send, client.recv)

    asyncio.run(main())


def aiohttp(url: str) -> None:
    from aiohttp import ClientSession

    async def main() -> None:
        async with ClientSession() as session, session.ws_connect(url, compress=15) as client:

            async def send(message: Message) -> None:
                if isinstance(message, str):
                    await client.send_str(message)
                else:
                    await client.send_bytes(message)

            async def recv() -> Message:
                received: Message = (await client.receive(PATIENCE)).data
                return received

            await talk_async(send, recv)

    asyncio.run(main())


def tornado(url: str) -> None:
    from tornado.websocket import websocket_connect

    async def main() -> None:
        client = await websocket_connect(url, compression_options={})

        async def send(message: Message) -> None:
            await client.write_message(message, binary=isinstance(message, bytes))

        async def recv() -> Message:
            received: Message = await client.read_message()
            return received

        await talk_async(send, recv)
        client.close()

    asyncio.run(main())


def websocket_client(url: str) -> None:
    from websocket import create_connection

    client: Any = create_connection(url, timeout=PATIENCE)

    def send(message: Message) -> None:
        client.send(message) if isinstance(message, str) else client.send_binary(message)

    talk(send, client.recv)
    client.close()


def main() -> None:
    name, url = sys.argv[1:]
    call: Callable[[str], None] = globals()[name]
    call(url)


if __name__ == "__main__":
    main()
