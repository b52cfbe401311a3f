"""The ASGI application that uvicorn runs in the tests: each path does one thing."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import time
from contextlib import suppress
from typing import Any

from koko.aio.transport import descriptor_of
from koko.hung_up import was_reset
from koko.uvicorn import Protocol

ENDS: list[str] = []  # how conversations ended, as the application was told


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    if scope["type"] == "http":
        return await answer(send)
    assert (await receive()) == {"type": "websocket.connect"}
    await PATHS[scope["path"].rpartition("/")[2]](scope, receive, send)


async def lifespan(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def answer(send: Any) -> None:
    """Tell by HTTP what this process holds."""
    told = {
        "ends": ENDS,
        "pid": os.getpid(),
        "tasks": len(asyncio.all_tasks()),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }
    length = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})


async def echo(scope: Any, receive: Any, send: Any) -> None:
    chosen = "chat" if "chat" in scope["subprotocols"] else None
    await send({"type": "websocket.accept", "subprotocol": chosen})
    while (event := await receive())["type"] == "websocket.receive":
        text, octets = event.get("text"), event.get("bytes")
        await send({"type": "websocket.send", "text": text, "bytes": octets})
    ENDS.append(f"{event['code']} {event.get('reason', '')}".strip())


async def tell_scope(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.accept", "headers": [(b"X-Extra", b"caf\xe9")]})
    told = {key: value for key, value in scope.items() if key not in ("extensions", "state")}
    told["extensions"] = sorted(scope["extensions"])
    await send({"type": "websocket.send", "text": json.dumps(told, default=repr)})
    await receive()


async def refuse(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.close"})
    ENDS.append(str((await receive())["code"]))


async def deny(scope: Any, receive: Any, send: Any) -> None:
    headers = [(b"content-type", b"text/html")]
    await send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": b"who ", "more_body": True})
    await send({"type": "websocket.http.response.body", "body": b"are you?"})
    ENDS.append(str((await receive())["code"]))


async def fail(scope: Any, receive: Any, send: Any) -> None:
    raise LookupError("on purpose")


async def cancelled(scope: Any, receive: Any, send: Any) -> None:
    """Fail on the cancellation of another task."""
    other = asyncio.create_task(asyncio.sleep(60))
    other.cancel()
    await other


async def close(scope: Any, receive: Any, send: Any) -> None:
    """Close from one task while another one receives."""
    await send({"type": "websocket.accept"})
    waiting = asyncio.create_task(receive())
    await asyncio.sleep(0)
    await send({"type": "websocket.send", "text": "last"})
    await send({"type": "websocket.close", "code": 4000, "reason": "bye"})
    event = await asyncio.wait_for(waiting, 10)
    ENDS.append(f"{event['code']} {event['reason']}")


async def feed(scope: Any, receive: Any, send: Any) -> None:
    """Send and never receive, until that fails."""
    await send({"type": "websocket.accept"})
    try:
        while True:
            await send({"type": "websocket.send", "text": "news"})
            await asyncio.sleep(0.01)
    except OSError as error:
        ENDS.append(type(error).__name__)
        raise


async def flood(scope: Any, receive: Any, send: Any) -> None:
    """Send more than anybody takes."""
    await send({"type": "websocket.accept"})
    sent = 0
    try:
        while True:
            await send({"type": "websocket.send", "bytes": bytes(1 << 16)})
            sent += 1
    except OSError:
        ENDS.append("bounded" if sent < 1000 else f"{sent} were sent")


async def burst(scope: Any, receive: Any, send: Any) -> None:
    """Send to a client that has reset, before the loop can see it."""
    conn = scope["extensions"]["koko"]["upgrade"]()
    await send({"type": "websocket.send", "text": "go"})
    give_up_at = time.monotonic() + 10
    while not was_reset(descriptor_of(conn.transport)):
        assert time.monotonic() < give_up_at
    for _ in range(20):
        with suppress(OSError):
            await send({"type": "websocket.send", "text": "news"})
    ENDS.append("sent")


async def sleep(scope: Any, receive: Any, send: Any) -> None:
    """Neither accept nor refuse."""
    event = await receive()
    ENDS.append(str(event["code"]))


async def block(scope: Any, receive: Any, send: Any) -> None:
    """Block the whole loop for longer than anybody may take to accept, and accept."""
    time.sleep(Hurried.handshake_timeout + 1.5)
    for _ in range(5):
        await asyncio.sleep(0)
    await echo(scope, receive, send)


async def misuse(scope: Any, receive: Any, send: Any) -> None:
    wrong: list[dict[str, Any]] = [
        {"type": "websocket.send", "text": "early"},
        {"type": "websocket.http.response.body", "body": b""},
        {"type": "websocket.accept"},
        {"type": "websocket.accept"},
        {"type": "websocket.send"},
        {"type": "websocket.close"},
        {"type": "websocket.send", "text": "late"},
    ]
    for event in wrong:
        try:
            await send(event)
        except RuntimeError as error:
            ENDS.append(str(error))


async def native(scope: Any, receive: Any, send: Any) -> None:
    conn = scope["extensions"]["koko"]["upgrade"](None, [(b"x-native", b"yes")])
    async for message in conn:
        await conn.send(message)
    await conn.close()
    ENDS.append(str(conn.ending))


async def hasty(scope: Any, receive: Any, send: Any) -> None:
    """Tell whether TCP keeps small writes back."""
    conn = scope["extensions"]["koko"]["upgrade"]()
    sock = conn.transport.get_extra_info("socket")
    await conn.send(str(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))
    await conn.close()


PATHS = {
    "echo": echo,
    "scope": tell_scope,
    "refuse": refuse,
    "deny": deny,
    "fail": fail,
    "cancelled": cancelled,
    "close": close,
    "feed": feed,
    "flood": flood,
    "burst": burst,
    "sleep": sleep,
    "block": block,
    "misuse": misuse,
    "native": native,
    "hasty": hasty,
}


def fail(record: logging.LogRecord) -> bool:
    """Be a log handler that fails, of what is said of clients."""
    said = record.getMessage()
    if '"WebSocket' in said or "did not accept" in said:
        raise OSError("the disk is full")
    return True


if "FAILING_LOG" in os.environ:
    logging.getLogger("uvicorn.error").addFilter(fail)


class Hurried(Protocol):
    """What a user writes for options of their own."""

    handshake_timeout = 3  # who accepts is to be in time, on a busy machine too
    close_timeout = 0.3
    origins = ("https://app.example",)


def __getattr__(name: str) -> Any:
    """Make gunicorn's worker where it is asked for: it needs gunicorn."""
    if name != "Worker":
        raise AttributeError(name)
    from uvicorn_worker import UvicornWorker

    class Worker(UvicornWorker):
        CONFIG_KWARGS = {**UvicornWorker.CONFIG_KWARGS, "ws": "koko.uvicorn:Protocol"}  # noqa: RUF012

    return Worker
