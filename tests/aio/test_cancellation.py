"""Whatever waits can be cancelled, and whoever cancels it knows its own cancellation again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest

from koko import Kind, PreparedMessage
from koko.aio import Server, Upgrader, broadcast, dial, join_messages, reconnect
from tests.aio.conftest import Memory, raw, url
from tests.aio.conftest import handshake as a_handshake

pytestmark = pytest.mark.usefixtures("loop_factory")

Verb = Callable[[], Awaitable[object]]
HERE = "127.0.0.1"


async def each(items: Any) -> None:
    async for _ in items:
        pass


RECEIVING: dict[str, Callable[[Any], Awaitable[object]]] = {
    "recv": lambda conn: conn.recv(),
    "recv(timeout)": lambda conn: conn.recv(timeout=60),
    "read_message": lambda conn: conn.read_message(),
    "read_message(timeout)": lambda conn: conn.read_message(timeout=60),
    "read_json": lambda conn: conn.read_json(),
    "iteration": each,
    "next_reader": lambda conn: conn.next_reader(),
    "next_reader(timeout)": lambda conn: conn.next_reader(timeout=60),
    "join_messages": lambda conn: join_messages(conn).read(),
    "ping": lambda conn: conn.ping(),
    "ping(timeout)": lambda conn: conn.ping(timeout=60),
    "wait_closed": lambda conn: conn.wait_closed(),
    "wait_closed(timeout)": lambda conn: conn.wait_closed(timeout=60),
    "close": lambda conn: conn.close(),
    "async with": lambda conn: conn.__aexit__(None, None, None),
}

READING: dict[str, Callable[[Any], Awaitable[object]]] = {
    "read": lambda reader: reader.read(),
    "read(size)": lambda reader: reader.read(10),
    "read(timeout)": lambda reader: reader.read(timeout=60),
    "readinto": lambda reader: reader.readinto(bytearray(10)),
    "readline": lambda reader: reader.readline(),
    "lines": each,
}

WRITING: dict[str, Callable[[Any], Awaitable[object]]] = {
    "send": lambda conn: conn.send("text"),
    "send(timeout)": lambda conn: conn.send("text", timeout=60),
    "write_message": lambda conn: conn.write_message(Kind.TEXT, "text"),
    "write_json": lambda conn: conn.write_json({}),
    "write_prepared": lambda conn: conn.write_prepared(PreparedMessage(Kind.TEXT, "text")),
    "write_control": lambda conn: conn.write_control(
        Kind.PING, deadline=asyncio.get_running_loop().time() + 60
    ),
    "next_writer": lambda conn: conn.next_writer(Kind.TEXT).__aenter__(),
    "broadcast": lambda conn: broadcast([conn], "text", slow="close", timeout=None),
    "broadcast(timeout)": lambda conn: broadcast([conn], "text", timeout=60),
}


@asynccontextmanager
async def receiving(verb: Callable[[Any], Awaitable[object]]) -> AsyncIterator[Verb]:
    memory = Memory()
    yield lambda: verb(memory.conn)
    memory.conn.abort()


@asynccontextmanager
async def reading(verb: Callable[[Any], Awaitable[object]]) -> AsyncIterator[Verb]:
    memory = Memory()
    memory.peer.says("0 000 0001", b"begun")
    _, reader = await memory.conn.next_reader()
    assert await reader.read(5) == b"begun"
    yield lambda: verb(reader)
    memory.conn.abort()


@asynccontextmanager
async def writing(verb: Callable[[Any], Awaitable[object]]) -> AsyncIterator[Verb]:
    memory = Memory()
    memory.peer.stops_reading()
    await memory.conn.send(bytes(100_000))
    yield lambda: verb(memory.conn)
    memory.conn.abort()


@asynccontextmanager
async def while_another_writes(verb: Callable[[Any], Awaitable[object]]) -> AsyncIterator[Verb]:
    memory = Memory()
    writer = await asyncio.create_task(_begun(memory))
    yield lambda: verb(memory.conn)
    await writer.close()
    memory.conn.abort()


async def _begun(memory: Memory) -> Any:
    return await memory.conn.next_writer(Kind.BINARY)


@asynccontextmanager
async def in_parts(part: str) -> AsyncIterator[Verb]:
    memory = Memory()
    writer = await memory.conn.next_writer(Kind.BINARY)
    memory.peer.stops_reading()
    await writer.write(bytes(100_000))
    yield lambda: writer.write(b"more") if part == "write" else writer.close()
    memory.conn.abort()


@asynccontextmanager
async def silent() -> AsyncIterator[str]:
    """Yield the URL of a server that never answers."""
    lines: list[asyncio.StreamWriter] = []
    async with await asyncio.start_server(lambda _, line: lines.append(line), HERE) as server:
        host, port = server.sockets[0].getsockname()
        yield f"ws://{host}:{port}"
        for line in lines:
            line.close()


@asynccontextmanager
async def dialing() -> AsyncIterator[Verb]:
    async with silent() as there:
        yield lambda: dial(there, proxy=None).__aenter__()


@asynccontextmanager
async def reconnecting() -> AsyncIterator[Verb]:
    async with silent() as there:
        yield lambda: each(reconnect(there, proxy=None))


@asynccontextmanager
async def closing_a_server() -> AsyncIterator[Verb]:
    over = asyncio.Event()

    async def stubborn(conn: Any) -> None:
        while not over.is_set():
            with suppress(asyncio.CancelledError):
                await over.wait()

    server = Server(stubborn, HERE)
    await server.start()
    conn = await dial(url(server), proxy=None)
    yield server.close
    over.set()
    conn.abort()
    await server.close()


@asynccontextmanager
async def awaiting_a_server() -> AsyncIterator[Verb]:
    async with Server(each, HERE) as server:
        yield server.wait_closed


def _of(group: Any, verbs: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    return {
        f"{group.__name__}: {name}": lambda verb=verb: group(verb) for name, verb in verbs.items()
    }


WAITING: dict[str, Callable[[], Any]] = {
    **_of(receiving, RECEIVING),
    **_of(reading, READING),
    **_of(writing, WRITING),
    **_of(while_another_writes, {k: v for k, v in WRITING.items() if k != "write_control"}),
    **_of(in_parts, {"write": "write", "close": "close"}),
    "dial": dialing,
    "reconnect": reconnecting,
    "Server.close": closing_a_server,
    "Server.wait_closed": awaiting_a_server,
}

each_verb = pytest.mark.parametrize("waiting", WAITING.values(), ids=WAITING)


async def begun(verb: Verb) -> asyncio.Task[object]:
    """Begin a verb; return its task once it waits."""

    async def work() -> object:
        return await verb()

    task = asyncio.create_task(work())
    for _ in range(20):  # a dial is a few turns under way
        await asyncio.sleep(0)
    assert not task.done()
    return task


@each_verb
async def test_whoever_cancels_it_finds_the_message_of_the_cancellation(waiting: Any) -> None:
    async with waiting() as verb:
        task = await begun(verb)
        task.cancel("why")
        with pytest.raises(asyncio.CancelledError) as raised:
            await task
        assert raised.value.args == ("why",)


@each_verb
async def test_a_scope_of_anyio_catches_its_own_cancellation(waiting: Any) -> None:
    async with waiting() as verb, anyio.create_task_group() as group:

        async def work() -> None:
            with anyio.CancelScope() as outer, anyio.CancelScope() as scope:
                asyncio.get_running_loop().call_soon(scope.cancel)
                await verb()
            assert scope.cancelled_caught
            assert not outer.cancelled_caught

        group.start_soon(work)
    assert not group.cancel_scope.cancelled_caught


@each_verb
async def test_a_timeout_of_asyncio_catches_its_own_cancellation(waiting: Any) -> None:
    async with waiting() as verb:
        task: Any = asyncio.current_task()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await verb()
        assert task.cancelling() == 0


async def test_a_scope_of_anyio_catches_its_own_cancellation_in_a_handler() -> None:
    caught: list[bool] = []

    async def http(request: Any) -> None:
        async with Upgrader().upgrade(request) as conn:
            with anyio.move_on_after(0) as scope:
                await conn.recv()
            caught.append(scope.cancelled_caught)

    async def handler(conn: Any) -> None:
        with anyio.move_on_after(0) as scope:
            await conn.recv()
        caught.append(scope.cancelled_caught)

    for server in (Server(handler, HERE), Server(None, HERE, http=http)):
        async with server, raw(server) as client:
            client.says(a_handshake())
            await client.hears_head()
            assert await client.reader.read(4) == b"\x88\x02\x03\xe8"
    assert caught == [True, True]
