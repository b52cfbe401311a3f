"""The servers that are measured: Koko and its peers, each written as its own manual shows.

    python bench/servers.py PEER echo|twice|broadcast|fastapi PORT
        [--deflate] [--tls CERT KEY] [--read-limit N] [--loop uvloop|asyncio]

One function for each peer, with nothing tuned but this: asyncio servers run on uvloop unless
asyncio's own loop is asked for, and messages are compressed only if that is asked for. Each
imports its own library and no other.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Job:
    """What a server is to do, whichever it is."""

    work: str
    port: int
    deflate: bool
    tls: ssl.SSLContext | None
    read_limit: int
    loop: str

    @property
    def koko(self) -> dict[str, Any]:
        """The options of Koko's ``serve``, which are the same on both faces."""
        return {
            "port": self.port,
            "ssl": self.tls,
            "compression": self.deflate,
            "read_limit": self.read_limit,
        }


def koko_aio(job: Job) -> None:
    from koko.aio import Conn, serve
    from koko.cli.with_aio import Audience

    async def echo(conn: Conn) -> None:
        async for message in conn:
            await conn.send(message)

    async def twice(conn: Conn) -> None:
        async for message in conn:
            await conn.send(message)
            await conn.send(message)

    handler = {"echo": echo, "twice": twice, "broadcast": Audience().broadcast}[job.work]
    _run(job, serve(handler, HOST, **job.koko))


def koko_sync(job: Job) -> None:
    from koko.cli.with_sync import Audience
    from koko.sync import Conn, serve

    def echo(conn: Conn) -> None:
        for message in conn:
            conn.send(message)

    def twice(conn: Conn) -> None:
        for message in conn:
            conn.send(message)
            conn.send(message)

    handler = {"echo": echo, "twice": twice, "broadcast": Audience().broadcast}[job.work]
    serve(handler, HOST, **job.koko)


def picows_core(job: Job) -> None:
    from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server

    transports: set[WSTransport] = set()

    class Echo(WSListener):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            if frame.msg_type == WSMsgType.CLOSE:
                transport.send_close(frame.get_close_code(), frame.get_close_message())
                transport.disconnect()
            else:
                transport.send(frame.msg_type, frame.get_payload_as_memoryview())

    class Twice(Echo):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            if frame.msg_type != WSMsgType.CLOSE:
                super().on_ws_frame(transport, frame)
            super().on_ws_frame(transport, frame)

    class Broadcast(WSListener):
        def on_ws_connected(self, transport: WSTransport) -> None:
            transports.add(transport)

        def on_ws_disconnected(self, transport: WSTransport) -> None:
            transports.discard(transport)

        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            payload = frame.get_payload_as_bytes()
            for member in transports:
                member.send(frame.msg_type, payload)

    async def serve() -> None:
        listener = {"echo": Echo, "twice": Twice, "broadcast": Broadcast}[job.work]
        server = await ws_create_server(lambda _: listener(), HOST, job.port, ssl=job.tls)
        await server.serve_forever()

    _run(job, serve())


def picows_websockets(job: Job) -> None:
    from picows.websockets import broadcast, serve

    _websockets_asyncio(job, serve, broadcast)


def websockets_asyncio(job: Job) -> None:
    from websockets.asyncio.server import broadcast, serve

    _websockets_asyncio(job, serve, broadcast)


def websockets_pure(job: Job) -> None:
    sys.modules["websockets.speedups"] = None  # type: ignore[assignment]  # as if not built
    websockets_asyncio(job)


def _websockets_asyncio(job: Job, serve: Any, broadcast: Callable[..., None]) -> None:
    """The API that websockets and picows.websockets share."""
    members: set[Any] = set()

    async def echo(conn: Any) -> None:
        async for message in conn:
            await conn.send(message)

    async def twice(conn: Any) -> None:
        async for message in conn:
            await conn.send(message)
            await conn.send(message)

    async def tell(conn: Any) -> None:
        members.add(conn)
        try:
            async for message in conn:
                broadcast(members, message)
        finally:
            members.discard(conn)

    async def main() -> None:
        handler = {"echo": echo, "twice": twice, "broadcast": tell}[job.work]
        compression = "deflate" if job.deflate else None
        async with serve(handler, HOST, job.port, ssl=job.tls, compression=compression) as server:
            await server.serve_forever()

    _run(job, main())


def websockets_sync(job: Job) -> None:
    from websockets.sync.server import ServerConnection, serve

    def echo(conn: ServerConnection) -> None:
        for message in conn:
            conn.send(message)

    def twice(conn: ServerConnection) -> None:
        for message in conn:
            conn.send(message)
            conn.send(message)

    handler = {"echo": echo, "twice": twice}[job.work]
    compression = "deflate" if job.deflate else None
    with serve(handler, HOST, job.port, ssl=job.tls, compression=compression) as server:
        server.serve_forever()


def aiohttp_server(job: Job) -> None:
    from aiohttp import WSMsgType, web

    members: set[web.WebSocketResponse] = set()

    async def send(ws: web.WebSocketResponse, message: Any) -> None:
        if message.type is WSMsgType.TEXT:
            await ws.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await ws.send_bytes(message.data)

    async def handle(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(compress=job.deflate)
        await ws.prepare(request)
        members.add(ws)
        async for message in ws:
            for member in {"echo": [ws], "twice": [ws, ws], "broadcast": members}[job.work]:
                await send(member, message)
        members.discard(ws)
        return ws

    async def main() -> None:
        app = web.Application()
        app.add_routes([web.get("/", handle)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, HOST, job.port, ssl_context=job.tls, backlog=1024).start()
        await asyncio.Event().wait()

    _run(job, main())


def socketify_server(job: Job) -> None:
    import socketify as uws  # type: ignore[import-untyped]

    def echo(ws: Any, message: str | bytes, opcode: Any) -> None:
        ws.send(message, opcode)

    def tell(ws: Any, message: str | bytes, opcode: Any) -> None:
        app.publish("all", message, opcode)

    app = uws.App()
    app.ws(
        "/*",
        {
            "compression": uws.CompressOptions.SHARED_COMPRESSOR if job.deflate else 0,
            "max_payload_length": 16 << 20,
            "open": lambda ws: ws.subscribe("all"),
            "message": {"echo": echo, "broadcast": tell}[job.work],
        },
    )
    app.listen(uws.AppListenOptions(port=job.port, host=HOST))
    app.run()


async def asgi_echo(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        text, octets = event.get("text"), event.get("bytes")
        await send({"type": "websocket.send", "text": text, "bytes": octets})


def fastapi_echo() -> Any:
    from fastapi import FastAPI, WebSocket, WebSocketDisconnect

    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        try:
            while True:
                await socket.send_bytes(await socket.receive_bytes())
        except WebSocketDisconnect:
            pass

    app = FastAPI()
    echo.__annotations__["socket"] = WebSocket  # FastAPI finds no name that is local here
    app.add_api_websocket_route("/", echo)
    return app


def uvicorn_with(job: Job, ws: str) -> None:
    """Run an ASGI application in uvicorn with one of its WebSocket classes."""
    import uvicorn

    uvicorn.run(
        fastapi_echo() if job.work == "fastapi" else asgi_echo,
        host=HOST,
        port=job.port,
        ws=ws,
        loop=job.loop,
        lifespan="off",
        log_level="warning",
        ws_per_message_deflate=job.deflate,
    )


PEERS: dict[str, Callable[[Job], None]] = {
    "koko.aio": koko_aio,
    "koko.sync": koko_sync,
    "picows": picows_core,
    "picows.websockets": picows_websockets,
    "websockets": websockets_asyncio,
    "websockets-pure": websockets_pure,
    "websockets.sync": websockets_sync,
    "aiohttp": aiohttp_server,
    "socketify": socketify_server,
    "uvicorn+koko": partial(uvicorn_with, ws="koko.uvicorn:Protocol"),
    "uvicorn+websockets": partial(uvicorn_with, ws="websockets-sansio"),
    "uvicorn+wsproto": partial(uvicorn_with, ws="wsproto"),
}


def _run(job: Job, main: Coroutine[Any, Any, None]) -> None:
    import uvloop

    uvloop.run(main) if job.loop == "uvloop" else asyncio.run(main)


def _context(cert: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


def main() -> None:
    parser = argparse.ArgumentParser(description="Run one server that is measured.")
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("work", choices=["echo", "twice", "broadcast", "fastapi"])
    parser.add_argument("port", type=int)
    parser.add_argument("--deflate", action="store_true")
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"))
    parser.add_argument("--read-limit", type=int, default=1 << 20, help="of Koko's servers")
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop")
    args = parser.parse_args()
    tls = _context(*args.tls) if args.tls else None
    PEERS[args.peer](Job(args.work, args.port, args.deflate, tls, args.read_limit, args.loop))


if __name__ == "__main__":
    main()
