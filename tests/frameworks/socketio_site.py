"""A Socket.IO server of every kind of event, in one ASGI application with FastAPI."""

from __future__ import annotations

from typing import Any

import socketio
from fastapi import FastAPI

sio = socketio.AsyncServer(async_mode="asgi", max_http_buffer_size=1 << 20)
pages = FastAPI()
app = socketio.ASGIApp(sio, other_asgi_app=pages)
ENDS: list[str] = []


@pages.get("/ends")
async def ends() -> list[str]:
    return ENDS


@sio.event
async def disconnect(sid: str, reason: str) -> None:
    ENDS.append(reason)


@sio.event
async def how(sid: str) -> str:
    return str(sio.transport(sid))


@sio.event
async def echo(sid: str, *values: Any) -> tuple[Any, ...]:
    return values


@sio.event
async def asked(sid: str) -> Any:
    """Ask the client back, within the answer to its own question."""
    return await sio.call("question", "your name?", to=sid, timeout=10)


@sio.on("shout", namespace="/public")
async def shout(sid: str, text: str) -> None:
    await sio.emit("heard", text.upper(), namespace="/public", skip_sid=sid)


@sio.event
async def leave(sid: str) -> None:
    await sio.disconnect(sid)
