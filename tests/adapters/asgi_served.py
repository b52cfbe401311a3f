"""The application that servers of ASGI run in the tests: handlers of ``koko.aio.Conn`` in FastAPI.

Each path does one thing. The handlers are what ``koko.aio.serve`` would run as well.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, WebSocket
from starlette.exceptions import WebSocketException
from starlette.routing import WebSocketRoute

from koko.adapters.asgi import upgrade, websocket
from koko.aio import Conn, broadcast

logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s")

ENDS: list[str] = []  # how conversations ended, as the application was told
MOST = 32 << 20  # bytes after which a client that reads nothing is not found to be slow


async def echo(conn: Conn) -> None:
    try:
        async for message in conn:
            await conn.send(message)
    finally:
        ENDS.append(str(conn.ending))


async def close(conn: Conn) -> None:
    await conn.recv()
    await conn.close(4001, "bye")
    ENDS.append(str(conn.ending))


async def fail(conn: Conn) -> None:
    await conn.recv()
    raise LookupError("on purpose")


async def parts(conn: Conn) -> None:
    """Answer a message, read in parts, by one that is written in parts."""
    kind, reader = await conn.next_reader()
    async with conn.next_writer(kind) as writer:
        while octets := await reader.read(1000):
            await writer.write(octets.upper())


async def flood(conn: Conn) -> None:
    """Broadcast until the client is slow, for as many seconds as it says."""
    patience = float(await conn.recv())
    sent, block = 0, bytes(1 << 18)
    while sent < MOST and (await broadcast([conn], block, timeout=patience)).sent:
        sent += len(block)
    ENDS.append("slow" if sent < MOST else "never slow")
    conn.abort()


async def told(conn: Conn) -> None:
    """Say what is known of the client."""
    await conn.write_json(
        {
            "path": conn.request.path,
            "query": conn.request.query,
            "remote": conn.remote_address,
            "local": conn.local_address,
            "native": type(conn) is Conn,
        }
    )
    await conn.wait_closed()


HANDLERS = (echo, close, fail, parts, flood, told)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    yield {"lived": True}


app = FastAPI(
    lifespan=lifespan,
    routes=[WebSocketRoute(f"/{each.__name__}", websocket()(each)) for each in HANDLERS],  # type: ignore[arg-type]
)
alone = websocket()(echo)


@app.get("/state")
async def state() -> dict[str, Any]:
    """Tell what this process holds."""
    return {"ends": ENDS, "tasks": len(asyncio.all_tasks())}


async def greeting(websocket: WebSocket) -> str:
    lived = getattr(websocket.state, "lived", False)  # daphne has no lifespan
    return f"in {websocket.path_params['room']}, {lived}"


@app.websocket("/rooms/{room}")
async def room(
    websocket: WebSocket,
    room: str,
    greeting: Annotated[str, Depends(greeting)],
    accept: bool = False,
) -> None:
    """Be an endpoint; the first message says how it ends."""
    if accept:
        await websocket.accept(subprotocol="chat")
    extra = None if accept else {"X-Extra": "cafe"}
    async with upgrade(websocket, subprotocol="chat", headers=extra) as conn:
        await conn.send(f"{greeting}: {conn.subprotocol}")
        match await conn.recv():
            case "websocket exception":
                raise WebSocketException(4003, "no")
            case "error":
                raise LookupError("on purpose")
            case "close":
                await conn.close(4004, "enough")
    ENDS.append(f"{websocket.client_state.name}, {websocket.application_state.name}")
