"""A Litestar application of each kind of WebSocket. Nothing in it knows of Koko."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from litestar import Litestar, WebSocket, get, post, websocket, websocket_listener, websocket_stream
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.memory import MemoryChannelsBackend
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException, WebSocketDisconnect
from litestar.handlers import BaseRouteHandler

ENDS: list[str] = []
channels = ChannelsPlugin(MemoryChannelsBackend(), channels=["news"], create_ws_route_handlers=True)


@get("/ends", sync_to_thread=False)
def ends() -> list[str]:
    return ENDS


def logged_in(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    if connection.headers.get("Authorization") is None:
        raise NotAuthorizedException


async def greeting() -> str:
    return "hello"


@websocket_listener("/double/{times:int}", dependencies={"greeting": greeting})
async def double(data: dict[str, int], times: int, greeting: str) -> dict[str, Any]:
    """Answer each message: Litestar receives, decodes and sends."""
    return {"greeting": greeting, "value": data["value"] * times}


@websocket("/guarded", guards=[logged_in])
async def guarded(socket: WebSocket[Any, Any, Any]) -> None:
    await socket.accept(subprotocols="chat")
    try:
        while True:
            await socket.send_bytes(await socket.receive_bytes())
    except WebSocketDisconnect as end:
        ENDS.append(f"guarded: {end.code}")


@websocket_stream("/ticks")
async def ticks() -> AsyncGenerator[str, None]:
    """Send only; Litestar listens for the end."""
    try:
        while True:
            yield "tick"
            await asyncio.sleep(0.01)
    finally:
        ENDS.append("ticks")


@post("/publish")
async def publish(data: dict[str, str]) -> None:
    await channels.wait_published(data, "news")


app = Litestar([ends, double, guarded, ticks, publish], plugins=[channels])
