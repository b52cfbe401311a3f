"""Servers in Python that echo: ``python -m peers.servers NAME PORT``; compression is on."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

HERE = "127.0.0.1"
LIMIT = 1 << 20  # bytes of a message; some servers need an option, for others it is the default


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Echo as an application for ASGI servers."""
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        kinds = [kind for kind in ("text", "bytes") if event.get(kind) is not None]
        await send({"type": "websocket.send", kinds[0]: event[kinds[0]]})


def websockets(port: int) -> None:
    from websockets.asyncio.server import ServerConnection, serve

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async def main() -> None:
        async with serve(echo, HERE, port) as server:
            await server.serve_forever()

    asyncio.run(main())


def picows(port: int) -> None:
    from picows.websockets.asyncio.server import serve

    async def echo(connection: Any) -> None:
        async for message in connection:
            await connection.send(message)

    async def main() -> None:
        async with serve(echo, HERE, port):
            await asyncio.Event().wait()

    asyncio.run(main())


def aiohttp(port: int) -> None:
    from aiohttp import WSMsgType, web

    async def echo(request: web.Request) -> web.WebSocketResponse:
        response = web.WebSocketResponse()
        await response.prepare(request)
        async for message in response:
            if message.type is WSMsgType.TEXT:
                await response.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await response.send_bytes(message.data)
        return response

    app = web.Application()
    app.router.add_get("/", echo)
    web.run_app(app, host=HERE, port=port, print=None)


def tornado(port: int) -> None:
    from tornado.web import Application
    from tornado.websocket import WebSocketHandler

    class Echo(WebSocketHandler):  # type: ignore[misc]
        def get_compression_options(self) -> dict[str, Any]:
            return {}

        async def on_message(self, message: str | bytes) -> None:
            await self.write_message(message, binary=isinstance(message, bytes))

    async def main() -> None:
        Application([("/", Echo)]).listen(port, HERE)
        await asyncio.Event().wait()

    asyncio.run(main())


def _uvicorn(port: int, ws: str) -> None:
    import uvicorn

    uvicorn.run(asgi, host=HERE, port=port, ws=ws, log_level="critical", ws_max_size=LIMIT)


def uvicorn_websockets(port: int) -> None:
    _uvicorn(port, "websockets-sansio")


def uvicorn_wsproto(port: int) -> None:
    _uvicorn(port, "wsproto")


def hypercorn(port: int) -> None:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"{HERE}:{port}"]
    asyncio.run(serve(asgi, config))


def daphne(port: int) -> None:
    from daphne.server import Server

    Server(application=asgi, endpoints=[f"tcp:port={port}:interface={HERE}"]).run()


def _uwebsockets(port: int, compression: int) -> None:
    from socketify import App

    behavior = {
        "compression": compression,
        "max_payload_length": LIMIT,
        "max_backpressure": LIMIT,  # beyond it a message is dropped
        "message": lambda ws, message, opcode: ws.send(message, opcode, True),
    }
    app = App()
    app.ws("/*", behavior)
    app.listen({"port": port, "host": HERE}, lambda config: None)
    app.run()


def uwebsockets_shared(port: int) -> None:
    from socketify import CompressOptions as Options

    _uwebsockets(port, Options.SHARED_COMPRESSOR | Options.SHARED_DECOMPRESSOR)


def uwebsockets_dedicated(port: int) -> None:
    from socketify import CompressOptions as Options

    _uwebsockets(port, Options.DEDICATED_COMPRESSOR_16KB | Options.DEDICATED_DECOMPRESSOR_4KB)


def main() -> None:
    name, port = sys.argv[1:]
    serve: Callable[[int], None] = globals()[name]
    serve(int(port))


if __name__ == "__main__":
    main()
