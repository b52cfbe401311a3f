"""Coroutine tests of this folder run on asyncio's loop and on uvloop, and leave nothing behind."""

from __future__ import annotations

import asyncio
import inspect
import os
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trustme
import uvloop

from koko.aio import Conn, Server
from koko.aio.protocol import ConnProtocol
from koko.core.connection import Connection
from koko.core.options import ConnectionOptions
from koko.core.wire import Role
from koko.http import Request, Response
from koko.opening.handshake import make_key
from tests.conversation.peer import Peer
from tests.conversation.talk_aio import MemoryTransport

# nest_asyncio ends with Python 3.13: in its loops asyncio.timeout() is inside of no task.
collect_ignore = ["test_nested.py"] if sys.version_info >= (3, 14) else []

PATIENCE = 10.0  # seconds after which a test has failed; nothing waits so long
LIFETIME = 5 * PATIENCE  # of a whole test: many waits, and the work between them

# Addresses of this process alone: a port that is free here stays free.
OWN, OWN_TOO = (f"127.{os.getpid() >> 8 & 255}.{os.getpid() & 255}.{last}" for last in (101, 102))

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


@pytest.fixture(
    params=[asyncio.SelectorEventLoop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def loop_factory(request: pytest.FixtureRequest) -> LoopFactory:
    """Each event loop in turn; coroutine tests ask for it by ``usefixtures``."""
    return request.param  # type: ignore[no-any-return]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    test = pyfuncitem.obj
    if not inspect.iscoroutinefunction(test):
        return None
    wanted = inspect.signature(test).parameters
    given = {name: value for name, value in pyfuncitem.funcargs.items() if name in wanted}
    run(pyfuncitem.funcargs["loop_factory"], test(**given))
    return True


def run(loop_factory: LoopFactory, test: Coroutine[Any, Any, None]) -> None:
    """Run a test; whatever the loop complains of, or what still runs at the end, fails it."""
    complaints: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.get_loop().set_exception_handler(lambda _, complaint: complaints.append(complaint))
        runner.run(_whole(test))
    assert complaints == []


async def _whole(test: Coroutine[Any, Any, None]) -> None:
    async with asyncio.timeout(LIFETIME):
        await test
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)


async def echo(conn: Conn) -> None:
    async for message in conn:
        await conn.send(message)


def made_eager(loop: Any, work: Any, **named: Any) -> Any:
    """Make a task that begins at once, as asyncio.eager_task_factory's do (3.12)."""
    # uvloop gives that one an argument which it does not know everywhere.
    return asyncio.Task(work, loop=loop, **(named | {"eager_start": True}))


FACTORIES = [None] + ([made_eager] if sys.version_info >= (3, 12) else [])


class Memory:
    """A connection of the loop that runs, to a peer in memory."""

    def __init__(self, role: Role = Role.CLIENT, **options: Any) -> None:
        loop = asyncio.get_running_loop()
        self.line = MemoryTransport(loop)
        core = Connection(role, ConnectionOptions(**options), None, loop.time())
        self.protocol = ConnProtocol(core, self.line, loop)
        self.line.set_protocol(self.protocol)
        request = Request("GET", "/", {})  # type: ignore[arg-type]
        self.conn = Conn(self.protocol, request, Response(101), None)
        self.peer = Peer(role.peer, self.line, lambda: None)

    def says(self, text: str) -> None:
        """Have a message arrive now, inside whatever calls this."""
        self.protocol.data_received(self.peer.frame("1 000 0001", text.encode()))


class Raw:
    """A bare TCP client, so that every byte is seen."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def says(self, octets: str | bytes) -> None:
        self.writer.write(octets.encode() if isinstance(octets, str) else octets)

    async def hears(self, expected: bytes) -> None:
        assert await self.reader.readexactly(len(expected)) == expected

    async def hears_head(self) -> str:
        return (await self.reader.readuntil(b"\r\n\r\n")).decode()

    async def hears_all(self) -> bytes:
        return await self.reader.read()

    def hangs_up(self) -> None:
        self.writer.close()


@asynccontextmanager
async def raw(server: Server) -> AsyncIterator[Raw]:
    """Connect to a server without a word."""
    reader, writer = await asyncio.open_connection(*server.address)
    try:
        yield Raw(reader, writer)
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


def handshake(*lines: str, target: str = "/") -> str:
    """Return an opening handshake with some more header lines."""
    head = [
        f"GET {target} HTTP/1.1",
        "Host: koko.example",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {make_key()}",
        *lines,
    ]
    return "\r\n".join(head) + "\r\n\r\n"


def url(server: Server, scheme: str = "ws", path: str = "/") -> str:
    host, port = server.address
    return f"{scheme}://{host}:{port}{path}"


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="session")
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context
