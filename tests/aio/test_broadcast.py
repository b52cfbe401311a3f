"""A broadcast of tasks over real sockets: how long it waits, and for whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from koko import Kind
from koko.aio import Conn, Delivery, Server, broadcast
from tests.aio.conftest import PATIENCE, Raw, handshake, raw
from tests.wire import wire

pytestmark = pytest.mark.usefixtures("loop_factory")

MIB = 1 << 20
HELLO = wire("1 000 0001  0 len", b"hello")


@asynccontextmanager
async def crowd(count: int) -> AsyncIterator[list[tuple[Conn, Raw]]]:
    """Open so many connections whose peers are seen byte by byte."""
    came: asyncio.Queue[Conn] = asyncio.Queue()

    async def stay(conn: Conn) -> None:
        came.put_nowait(conn)
        await conn.wait_closed()

    async with Server(stay, "127.0.0.1") as server, AsyncExitStack() as clients:
        pairs = []
        for _ in range(count):
            client = await clients.enter_async_context(raw(server))
            client.says(handshake())
            await client.hears_head()
            pairs.append((await came.get(), client))
        try:
            yield pairs
        finally:
            for conn, _ in pairs:
                conn.abort()


async def make_deaf(conn: Conn, client: Raw) -> None:
    """Bring a connection to where its peer does not read any more."""
    client.writer.transport.pause_reading()
    while (await broadcast([conn], bytes(MIB), timeout=0.05)).sent:
        pass


async def test_nobody_waits_for_one_who_does_not_read() -> None:
    async with crowd(4) as pairs:
        await make_deaf(*pairs[0])
        assert await broadcast([conn for conn, _ in pairs], "hello") == Delivery(3, 1, 0, 0)
        for _, client in pairs[1:]:
            await client.hears(HELLO)


async def test_no_task_is_made_for_those_who_have_room() -> None:
    async with crowd(3) as pairs:
        telling = broadcast([conn for conn, _ in pairs], "hello", timeout=5)
        with pytest.raises(StopIteration) as done:  # it ends without ever giving up its turn
            telling.send(None)
        assert done.value.value == Delivery(3, 0, 0, 0)


async def test_who_reads_on_in_time_is_sent_it_though_another_does_not() -> None:
    async with crowd(2) as pairs:
        (deaf, deaf_client), (conn, client) = pairs
        await make_deaf(deaf, deaf_client)
        await make_deaf(conn, client)
        waiting = asyncio.create_task(broadcast([deaf, conn], "hello", timeout=20))
        client.writer.transport.resume_reading()
        heard = b""
        while not heard.endswith(HELLO):
            heard = (heard + await client.reader.read(MIB))[-len(HELLO) :]
        assert not waiting.done()
        deaf.abort()
        assert await waiting == Delivery(1, 0, 0, 1)


async def test_the_deaf_one_costs_no_more_than_the_timeout() -> None:
    async with crowd(1) as pairs:
        await make_deaf(*pairs[0])
        conns = [pairs[0][0]]
        async with asyncio.timeout(PATIENCE):  # the keepalive alone would take 40 s
            closed = await broadcast(conns, "hello", slow="close", timeout=0.05)
        assert closed == Delivery(0, 0, 1, 0)
        assert await broadcast(conns, "hello", slow="close", timeout=5) == Delivery(0, 0, 0, 1)


async def test_broadcast_that_is_cancelled_leaves_the_slow_one_unharmed() -> None:
    async with crowd(1) as pairs:
        conn, client = pairs[0]
        await make_deaf(conn, client)
        waiting = asyncio.create_task(broadcast([conn], "hello", slow="close", timeout=5))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert conn.ending is None


async def test_two_broadcasts_reach_everybody_in_the_same_order() -> None:
    async with crowd(3) as pairs:
        conns = [conn for conn, _ in pairs]
        await asyncio.gather(broadcast(conns, "hello"), broadcast(reversed(conns), "again"))
        for _, client in pairs:
            await client.hears(HELLO + wire("1 000 0001  0 len", b"again"))


async def test_broadcast_does_not_wait_for_its_own_writer() -> None:
    async with crowd(1) as pairs:
        conn, _ = pairs[0]
        async with asyncio.timeout(5), conn.next_writer(Kind.TEXT) as writer:
            with pytest.raises(RuntimeError, match="close that writer first"):
                await broadcast([conn], "hello", timeout=None)
            await writer.close()
