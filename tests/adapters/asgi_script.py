"""A server of ASGI in memory: a test says what it receives, and sees what is sent to it."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

PATIENCE = 10.0  # seconds after which a test has failed; nothing waits so long
CONNECT = {"type": "websocket.connect"}
DENIES = {"websocket.http.response": {}}
LOOPS = [asyncio.SelectorEventLoop, uvloop.new_event_loop]
Event = dict[str, Any]


def scene(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a coroutine test on both loops; what a loop complains of, or still runs, fails it."""

    @pytest.mark.parametrize(
        "loop_factory",
        [asyncio.SelectorEventLoop, uvloop.new_event_loop],
        ids=["asyncio", "uvloop"],
    )
    @functools.wraps(test)
    def run(loop_factory: Callable[[], asyncio.AbstractEventLoop], **given: Any) -> None:
        complaints: list[dict[str, Any]] = []
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.get_loop().set_exception_handler(lambda _, said: complaints.append(said))
            runner.run(_whole(test(**given)))
        assert complaints == []

    wanted = inspect.signature(test)
    loop = inspect.Parameter("loop_factory", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = wanted.replace(parameters=[loop, *wanted.parameters.values()])  # type: ignore[attr-defined]
    return run


async def _whole(test: Coroutine[Any, Any, None]) -> None:
    async with asyncio.timeout(PATIENCE):
        await test
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"the application left {left}"


def scope(**changes: Any) -> dict[str, Any]:
    """Return the scope of a handshake; an ``origin`` or other headers are named as such."""
    headers = [
        (b"host", b"app.example"),
        (b"upgrade", b"websocket"),
        (b"connection", b"Upgrade"),
        (b"sec-websocket-version", b"13"),
        (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    ]
    headers += changes.pop("headers", [])
    return {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/chat room",
        "raw_path": b"/chat%20room",
        "query_string": b"token=secret",
        "root_path": "",
        "headers": headers,
        "client": ["203.0.113.7", 51312],
        "server": ("127.0.0.1", 80),
        "subprotocols": [],
        "extensions": DENIES,
        **changes,
    }


class Script:
    """The server's side of one WebSocket.

    Attributes:
        sent: the events that the application has sent, oldest first.
        room: cleared while the server has no room for what is sent.
        broken: what ``send`` raises from now on.
    """

    def __init__(self, app: Any, **changes: Any) -> None:
        self.sent: list[Event] = []
        self.room = asyncio.Event()
        self.room.set()
        self.broken: Exception | None = None
        self.scope = scope(**changes)
        self.calls = 0  # of receive
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._news = asyncio.Event()
        self.says(CONNECT)
        self.app = asyncio.get_running_loop().create_task(app(self.scope, self.receive, self.send))

    async def receive(self) -> Event:
        self.calls += 1
        return await self._events.get()

    async def send(self, event: Event) -> None:
        await self.room.wait()
        if self.broken is not None:
            raise self.broken
        self.sent.append(event)
        self._news.set()

    def says(self, *events: Event) -> None:
        """Have the application receive these."""
        for event in events:
            self._events.put_nowait(event)

    def text(self, *messages: str) -> None:
        """Have it receive messages."""
        self.says(*({"type": "websocket.receive", "text": message} for message in messages))

    def leaves(self, code: int = 1000, reason: str = "") -> None:
        """Have it receive the disconnect."""
        self.says({"type": "websocket.disconnect", "code": code, "reason": reason})

    async def hears(self, name: str) -> Event:
        """Wait for an event of this name and return it, the first that nobody waited for."""
        while not (found := [event for event in self.sent if event["type"] == f"websocket.{name}"]):
            waits = asyncio.ensure_future(self._news.wait())
            await asyncio.wait([waits, self.app], return_when=asyncio.FIRST_COMPLETED)
            if not waits.done():
                waits.cancel()
                self.app.result()
                assert [e for e in self.sent if e["type"] == f"websocket.{name}"], self.sent
            self._news.clear()
        self.sent.remove(found[0])
        return found[0]

    async def ends(self) -> None:
        """Wait for the application to return."""
        await asyncio.wait([self.app])
        self.app.result()
