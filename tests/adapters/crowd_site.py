"""The ASGI application that a crowd visits, and what its process holds."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from collections import Counter
from typing import Any

OURS = ("Protocol", "Conversation", "Path", "Connection", "Waiter")
ENDS: Counter[str] = Counter()  # the codes that conversations ended with
NOISE = os.urandom(1 << 16)  # compression makes no less of it
PAGE = os.sysconf("SC_PAGESIZE")


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        return await tell(scope, send)
    assert (await receive()) == {"type": "websocket.connect"}
    await PATHS[scope["path"][1:]](receive, send)


async def tell(scope: Any, send: Any) -> None:
    told = dict(ENDS) if scope["path"] == "/ends" else census()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})


def census() -> dict[str, int]:
    """Count what is held; what connections are made of may not wait for the garbage collector."""
    kinds = Counter(
        type(each).__name__
        for each in gc.get_objects()
        if str(type(each).__module__).startswith("koko.")
    )
    gc.collect()  # uvicorn's own HTTP protocols wait for it
    with open("/proc/self/statm") as statm:
        resident = int(statm.read().split()[1]) * PAGE
    return {
        "tasks": len(asyncio.all_tasks()),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "objects": sum(kinds[name] for name in OURS),
        "resident": resident >> 10,
        "blocks": sys.getallocatedblocks(),
    }


async def echo(receive: Any, send: Any) -> None:
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        text, octets = event.get("text"), event.get("bytes")
        await send({"type": "websocket.send", "text": text, "bytes": octets})
    ENDS[str(event["code"])] += 1


async def flood(receive: Any, send: Any) -> None:
    """Send more than anybody takes."""
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "bytes": (await receive())["bytes"]})
    await receive()
    try:
        while True:
            await send({"type": "websocket.send", "bytes": NOISE})
    except OSError as error:
        ENDS[type(error).__name__] += 1


async def decide(receive: Any, send: Any) -> None:
    """Take as long to accept as the client waits."""
    ENDS[str((await receive())["code"])] += 1


async def refuse(receive: Any, send: Any) -> None:
    await send({"type": "websocket.close"})


async def close(receive: Any, send: Any) -> None:
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "bytes": (await receive())["bytes"]})
    await receive()
    await send({"type": "websocket.close", "code": 4000, "reason": "enough"})


async def leave(receive: Any, send: Any) -> None:
    """Return without a Close."""
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "bytes": (await receive())["bytes"]})
    await receive()


PATHS = {
    "echo": echo,
    "flood": flood,
    "decide": decide,
    "refuse": refuse,
    "close": close,
    "leave": leave,
}
