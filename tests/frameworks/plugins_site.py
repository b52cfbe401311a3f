"""A FastAPI application whose endpoints leave tasks behind, as endpoints do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, WebSocket

told: list[str] = []


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, int]]:
    told.append("up")
    yield {"seats": 3}
    told.append("down")


app = FastAPI(lifespan=lifespan)
left: set[asyncio.Task[None]] = set()


@app.websocket("/echo")
async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    left.add(asyncio.create_task(asyncio.sleep(3600)))
    async for message in websocket.iter_text():
        await websocket.send_text(message)
