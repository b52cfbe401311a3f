"""Readers and writers over TCP: cancellation, tasks that would wait for themselves, memory."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from koko.aio import Conn, Server, Upgrader, dial, join_messages
from koko.errors import CloseError
from koko.message import Kind
from tests.aio.conftest import url

pytestmark = pytest.mark.usefixtures("loop_factory")

MIB = 1 << 20


@asynccontextmanager
async def ends(**options: Any) -> AsyncIterator[tuple[Conn, Conn]]:
    """Give both ends of a connection: the client's and the server's."""
    accepted: asyncio.Queue[Conn] = asyncio.Queue()

    async def handler(conn: Conn) -> None:
        accepted.put_nowait(conn)
        await conn.wait_closed()

    upgrader = Upgrader(**options)
    async with Server(handler, "127.0.0.1", 0, upgrader=upgrader) as server:
        async with dial(url(server), **options) as ours:
            yield ours, await accepted.get()


async def test_message_goes_from_end_to_end_in_parts() -> None:
    async with ends(write_buffer_size=100) as (ours, theirs):
        async with ours.next_writer(Kind.TEXT) as writer:
            for number in range(1000):
                await writer.write(f"{number}\n")
        kind, reader = await theirs.next_reader()
        assert kind is Kind.TEXT
        assert [int(line) async for line in reader] == list(range(1000))
        assert reader.closed is False


async def test_writer_can_be_awaited_and_closed_by_hand() -> None:
    async with ends() as (ours, theirs):
        writer = await ours.next_writer(Kind.TEXT)
        assert await writer.write('{"a": 1}') == 8
        await writer.close()
        assert writer.closed
        _, reader = await theirs.next_reader()
        assert json.loads(await reader.read()) == {"a": 1}


async def test_block_that_fails_after_its_writer_was_closed_harms_nothing() -> None:
    async with ends(write_buffer_size=2) as (ours, theirs):
        with suppress(KeyError):
            async with ours.next_writer(Kind.TEXT) as writer:
                await writer.write("abc")
                await writer.close()
                raise KeyError
        assert await theirs.recv() == "abc"
        assert ours.ending is None


async def test_cancelled_read_loses_nothing() -> None:
    async with ends(write_buffer_size=1) as (ours, theirs):
        writer = await ours.next_writer(Kind.TEXT)
        await writer.write("abc")
        _, reader = await theirs.next_reader()
        for read in (reader.read, reader.readline):
            reading = asyncio.create_task(read())
            await asyncio.sleep(0)
            await writer.write("d")
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading
        await writer.close()
        assert await reader.read() == b"abcdd"


async def test_cancelled_write_cuts_its_message_off() -> None:
    async with ends(read_limit=None) as (ours, theirs):

        async def send() -> None:
            async with ours.next_writer(Kind.BINARY) as writer:
                await writer.write(bytes(24 * MIB))

        sending = asyncio.create_task(send())
        _, reader = await theirs.next_reader()
        await reader.read(1)
        sending.cancel()
        with suppress(asyncio.CancelledError):
            await sending
        with pytest.raises(CloseError, match="1011.*a message was cut off in the middle"):
            while await reader.read(MIB):
                pass


async def test_cancelled_opening_leaves_the_turn_to_others() -> None:
    async with ends() as (ours, theirs):
        async with ours.next_writer(Kind.TEXT):

            async def open_another() -> None:
                await ours.next_writer(Kind.TEXT)

            opening = asyncio.create_task(open_another())
            await asyncio.sleep(0)
            opening.cancel()
            with suppress(asyncio.CancelledError):
                await opening
        await ours.send("next")
        assert [await theirs.recv(), await theirs.recv()] == ["", "next"]


async def test_who_would_wait_for_himself_is_told_so() -> None:
    async with ends() as (ours, theirs):
        async with ours.next_writer(Kind.TEXT):
            for send in (
                lambda: ours.send("late"),
                lambda: ours.write_json(1),
                lambda: ours.next_writer(Kind.TEXT).__aenter__(),
            ):
                with pytest.raises(RuntimeError, match="this task is writing a message"):
                    await send()
        await ours.send("in time")
        assert [await theirs.recv(), await theirs.recv()] == ["", "in time"]


async def test_read_deadline_can_be_brought_forward_while_a_read_waits() -> None:
    async with ends() as (ours, _):
        receiving = asyncio.create_task(ours.recv())
        await asyncio.sleep(0)
        ours.read_deadline = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError, match="before read_deadline"):
            await receiving


async def test_messages_are_joined() -> None:
    async with ends() as (ours, theirs):
        for text in ("one", "two"):
            await ours.send(text)
        joined = join_messages(theirs, "\n")
        assert [await joined.readline(), await joined.read(2)] == [b"one\n", b"tw"]
        joined.close()
        with pytest.raises(ValueError, match="closed reader"):
            await joined.read()


async def test_writer_that_becomes_garbage_in_another_thread_cuts_its_message_off() -> None:
    async with ends(write_buffer_size=2) as (ours, theirs):
        dropped = [await ours.next_writer(Kind.TEXT)]
        await dropped[0].write("abc")
        with pytest.warns(ResourceWarning, match="was never closed"):
            await asyncio.to_thread(dropped.clear)
        with pytest.raises(CloseError, match="a message was cut off in the middle"):
            await theirs.recv()


@pytest.mark.parametrize("compression", [False, True], ids=["plain", "compressed"])
async def test_large_message_passes_through_bounded_memory(compression: bool) -> None:
    size, chunk, received = 32 * MIB, bytes(MIB), 0
    async with ends(read_limit=None, compression=compression) as (ours, theirs):

        async def send() -> None:
            async with ours.next_writer(Kind.BINARY) as writer:
                for _ in range(size // len(chunk)):
                    await writer.write(chunk)

        tracemalloc.start()
        try:
            sending = asyncio.create_task(send())
            _, reader = await theirs.next_reader()
            while octets := await reader.read(MIB):
                received += len(octets)
            await sending
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert received == size
    assert peak < 8 * MIB
