"""ASGI applications as their authors would write them, in plain ASGI."""

from __future__ import annotations

import asyncio
import sys
import threading
from contextlib import suppress
from typing import Any

Event = dict[str, Any]


class Site:
    """One application; ``told`` is what it was told, in order."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.released = threading.Event()

    async def __call__(self, scope: Event, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await self.live(scope, receive, send)
        self.told.append(await receive())
        await getattr(self, scope["path"].strip("/"))(scope, receive, send)

    async def live(self, scope: Event, receive: Any, send: Any) -> None:
        scope["state"]["seats"] = 3
        while True:
            event = await receive()
            self.told.append(event["type"])
            await send({"type": event["type"] + ".complete"})
            if event["type"] == "lifespan.shutdown":
                return

    async def echo(self, scope: Event, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept", "subprotocol": (*scope["subprotocols"], None)[0]})
        while (event := await receive())["type"] == "websocket.receive":
            await send({**event, "type": "websocket.send"})
        self.told.append(event)

    async def scope(self, scope: Event, receive: Any, send: Any) -> None:
        self.told.append(scope)
        headers = [(b"x-served-by", b"a"), (b"set-cookie", b"b=c")]
        await send({"type": "websocket.accept", "headers": headers})
        await send({"type": "websocket.close", "code": 4000, "reason": "bye"})

    async def reject(self, scope: Event, receive: Any, send: Any) -> None:
        await send({"type": "websocket.close"})

    async def deny(self, scope: Event, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/html")]
        await send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b"who are you?"})

    async def fail(self, scope: Event, receive: Any, send: Any) -> None:
        raise LookupError("on purpose")

    async def fail_later(self, scope: Event, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        raise LookupError("on purpose")

    async def cancel(self, scope: Event, receive: Any, send: Any) -> None:
        raise asyncio.CancelledError

    async def fail_at_the_end(self, scope: Event, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await receive()
        raise LookupError("on purpose")

    async def leave(self, scope: Event, receive: Any, send: Any) -> None:
        pass

    async def ponder(self, scope: Event, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    async def silent(self, scope: Event, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        self.told.append(await receive())

    async def deaf(self, scope: Event, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await asyncio.Event().wait()

    async def answer_late(self, scope: Event, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await receive()
        while (await receive())["type"] == "websocket.receive":
            pass

    async def block(self, scope: Event, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await receive()
        self.released.wait()

    async def block_early(self, scope: Event, receive: Any, send: Any) -> None:
        self.released.wait()

    async def feed(self, scope: Event, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        while True:
            await send({"type": "websocket.send", "text": "news"})
            await asyncio.sleep(0)


class Failing:
    """An application whose lifespan goes wrong in one of many ways."""

    def __init__(self, way: str) -> None:
        self.way = way
        self.released = asyncio.Event()

    async def __call__(self, scope: Event, receive: Any, send: Any) -> Any:
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            return await send({"type": "websocket.close"})
        name = (await receive())["type"] if self.way != "none" else ""
        if self.way in ("none", "raises"):
            raise LookupError("no such scope")
        if self.way == "exits":
            sys.exit("no configuration")
        if self.way == "hangs":
            await asyncio.Event().wait()
        if self.way == "holds on":
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            return await self.released.wait()
        if self.way in ("dies", "raises later"):
            await send({"type": name + ".complete"})
            if self.way == "raises later":
                await receive()
            raise LookupError("no database any more")
        if self.way == "hangs later":
            await send({"type": name + ".complete"})
            await receive()
            await asyncio.Event().wait()
        await send({"type": name + ".failed", "message": "no database"})
        if self.way == "fails and raises":
            raise LookupError("no database")
