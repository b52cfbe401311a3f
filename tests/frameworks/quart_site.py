"""A Quart application with a chat. Nothing in it knows of Koko."""

from __future__ import annotations

import asyncio

from quart import Quart, abort, request, websocket

app = Quart(__name__)
app.secret_key = "of a test"
present: set[asyncio.Queue[str]] = set()
ENDS: list[str] = []


@app.get("/ends")
async def ends() -> list[str]:
    return ENDS


@app.get("/say/<text>")
async def say(text: str) -> str:
    for queue in present:
        await queue.put(f"{request.method} {text}")
    return f"{len(present)}"


@app.websocket("/chat/<room>")
async def chat(room: str) -> None:
    """Receive in one task and send from another."""
    if "token" not in websocket.args:
        abort(401)
    queue: asyncio.Queue[str] = asyncio.Queue()
    present.add(queue)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(hear(room))
            while True:
                await websocket.send(await queue.get())
    finally:
        present.discard(queue)
        ENDS.append(room)


async def hear(room: str) -> None:
    while True:
        text = await websocket.receive()
        if text == "bye":
            return await websocket.close(4000, "bye")
        for queue in present:
            await queue.put(f"{room}: {text}")


@app.websocket("/json")
async def json() -> None:
    await websocket.accept(subprotocol="chat", headers={"X-Served-By": "a"})
    await websocket.send_json({"got": await websocket.receive_json()})
