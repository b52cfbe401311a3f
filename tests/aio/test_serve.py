"""The server on real sockets: other people's clients, HTTP, refusals, and how it stops."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import ssl
import sys
import weakref
from contextlib import suppress

import aiohttp
import pytest
import websockets.asyncio.client
import websockets.exceptions

from koko import CloseError, Request, Response
from koko.aio import Conn, Server, Upgrader, dial, serve
from koko.aio.protocol import ConnProtocol
from tests.aio.conftest import echo, handshake, raw, url

pytestmark = pytest.mark.usefixtures("loop_factory")

HERE = "127.0.0.1"
SAID = ["", "hello", "é" * 70_000, b"", bytes(range(256)), bytes(300_000)]


# Other people's clients


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_client_of_websockets_is_echoed(compression: str | None) -> None:
    async with (
        Server(echo, HERE, upgrader=Upgrader(compression=True)) as server,
        websockets.asyncio.client.connect(
            url(server), compression=compression, max_size=None, proxy=None
        ) as client,
    ):
        for message in SAID:
            await client.send(message)
            assert await client.recv() == message
        assert await (await client.ping()) >= 0
        await client.close(4321, "enough")
        assert client.close_code == 4321


async def test_client_of_aiohttp_is_echoed() -> None:
    async with (
        Server(echo, HERE, upgrader=Upgrader(compression=True)) as server,
        aiohttp.ClientSession() as session,
        session.ws_connect(url(server), compress=15, max_msg_size=0) as client,
    ):
        for message in SAID:
            await (client.send_str if isinstance(message, str) else client.send_bytes)(message)  # type: ignore[operator]
            assert (await client.receive()).data == message
        await client.close(code=4321)
        assert client.close_code == 4321


async def test_subprotocol_is_chosen_in_the_clients_order() -> None:
    async with (
        Server(echo, HERE, upgrader=Upgrader(subprotocols=["a", "b"])) as server,
        websockets.asyncio.client.connect(
            url(server), subprotocols=["x", "b", "a"], proxy=None
        ) as client,
    ):
        assert client.subprotocol == "b"


async def test_wss_client_that_trusts_us_is_echoed(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with (
        Server(echo, HERE, ssl=server_tls) as server,
        websockets.asyncio.client.connect(url(server, "wss"), ssl=client_tls, proxy=None) as client,
    ):
        for message in ("hello", bytes(300_000)):
            await client.send(message)
            assert await client.recv() == message


# Handlers and how they end


async def test_handler_that_returns_closes_with_1000() -> None:
    async def leave(conn: Conn) -> None:
        pass

    async with Server(leave, HERE) as server, dial(url(server), proxy=None) as client:
        with pytest.raises(CloseError) as raised:
            await client.recv()
        assert raised.value.code == 1000


async def test_handler_that_raises_closes_with_1011_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(conn: Conn) -> None:
        raise ZeroDivisionError("ours")

    async with Server(fail, HERE) as server, dial(url(server), proxy=None) as client:
        with pytest.raises(CloseError) as raised:
            await client.recv()
        assert (raised.value.code, raised.value.reason) == (1011, "")
    assert "ZeroDivisionError: ours" in caplog.text
    assert {record.name for record in caplog.records} >= {"koko.server"}


async def test_close_error_that_leaves_a_handler_is_an_ordinary_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended = asyncio.Event()

    async def recv_for_ever(conn: Conn) -> None:
        try:
            while True:
                await conn.recv()
        finally:
            ended.set()

    caplog.set_level(logging.INFO, "koko.server")
    async with Server(recv_for_ever, HERE) as server:
        async with dial(url(server, path="/where"), proxy=None) as client:
            await client.close(3000, "enough")
        await ended.wait()
    (line,) = [line for line in caplog.messages if "/where: " in line]
    assert "/where: peer closed with 3000 'enough'; we answered 3000" in line
    assert "Traceback" not in caplog.text


async def test_close_error_that_leaves_a_task_group_is_one_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended = asyncio.Event()

    async def recv_in_group(conn: Conn) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(conn.recv())
        finally:
            ended.set()

    async with Server(recv_in_group, HERE) as server:
        async with dial(url(server), proxy=None) as client:
            client.abort()
        await ended.wait()
    assert "Traceback" not in caplog.text


# Stopping


async def test_server_that_closes_tells_everybody_1001() -> None:
    async with Server(echo, HERE) as server:
        clients = [await dial(url(server), proxy=None) for _ in range(3)]
        for client in clients:
            await client.send("hi")
            await client.recv()
        assert len(server.connections) == 3
        receiving = [asyncio.create_task(client.recv()) for client in clients]
        await server.close(reason="deploying")
        for task in receiving:
            with pytest.raises(CloseError) as raised:
                await task
            assert (raised.value.code, raised.value.reason) == (1001, "deploying")
        assert server.connections == set()
        await asyncio.gather(*(client.close() for client in clients))


async def test_half_open_handshake_gets_503_when_the_server_closes() -> None:
    async with Server(echo, HERE) as server, raw(server) as client, raw(server) as silent:
        client.says("GET / HTTP/1.1\r\nHos")
        while len(server._clients.handshakes) < 2:
            await asyncio.sleep(0)
        closing = asyncio.create_task(server.close())
        assert (await client.hears_all()).startswith(b"HTTP/1.1 503 ")
        assert (await silent.hears_all()).startswith(b"HTTP/1.1 503 ")
        client.writer.close()
        silent.writer.close()
        await closing


async def test_http_answer_that_is_being_made_is_finished_when_the_server_closes() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> Response:
        begun.set()
        await go_on.wait()
        return Response(200, "worth waiting for")

    async with Server(echo, HERE, http=slow) as server, raw(server) as client:
        client.says("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await begun.wait()
        closing = server._begin_closing()
        go_on.set()
        assert (await client.hears_all()).endswith(b"worth waiting for")
        client.writer.close()
        await closing


async def test_handler_that_does_not_come_out_is_cancelled_after_the_timeout() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def for_ever(conn: Conn) -> None:
        begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with Server(for_ever, HERE) as server, raw(server) as client:
        client.says(handshake())
        await begun.wait()
        await server.close(timeout=0.02)
        assert cancelled.is_set()
        assert server.connections == set()


async def test_handler_that_does_not_let_itself_be_cancelled_is_left_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.modules["koko.aio.serve"], "LEAVE", 0.02)
    begun, enough = asyncio.Event(), asyncio.Event()

    async def stubborn(conn: Conn) -> None:
        begun.set()
        while not enough.is_set():
            with suppress(asyncio.CancelledError):
                await enough.wait()

    async with Server(stubborn, HERE) as server, raw(server) as client:
        client.says(handshake())
        await begun.wait()
        await server.close(timeout=0.02)
        (left_behind,) = server._clients.handlers.values()
        enough.set()
        await asyncio.wait([left_behind])


async def test_client_that_ignores_our_close_is_dropped_after_the_timeout() -> None:
    async with Server(echo, HERE) as server, raw(server) as client:
        client.says(handshake())
        await client.hears_head()
        await server.close(timeout=0.02)
        await client.hears(b"\x88\x02\x03\xe9")
        assert await client.hears_all() == b""


async def test_handler_may_close_its_own_server() -> None:
    async def stop(conn: Conn) -> None:
        await server.close(timeout=5)

    server = Server(stop, HERE)
    await server.start()
    async with dial(url(server), proxy=None) as client:
        with pytest.raises(CloseError) as raised:
            await client.recv()
        assert raised.value.code == 1001
    await server.wait_closed()


async def test_closing_twice_waits_for_the_first() -> None:
    async with Server(echo, HERE) as server:
        await asyncio.gather(server.close(), server.close(), server.wait_closed())


async def test_serve_forever_that_is_cancelled_closes_gracefully() -> None:
    server = Server(echo, HERE)
    await server.start()
    serving = asyncio.create_task(server.serve_forever())
    async with dial(url(server), proxy=None) as client:
        serving.cancel()
        with pytest.raises(CloseError) as raised:
            await client.recv()
        assert raised.value.code == 1001
    with pytest.raises(asyncio.CancelledError):
        await serving


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_serve_ends_with_a_signal_and_tells_everybody_1001(number: int) -> None:
    started: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(echo, HERE, on_start=started.set_result, close_timeout=5))
    async with dial(url(await started), proxy=None) as client:
        await client.send("hi")
        await client.recv()
        os.kill(os.getpid(), number)
        with pytest.raises(CloseError) as raised:
            await client.recv()
        assert raised.value.code == 1001
    await serving


async def test_serve_that_is_cancelled_tells_everybody_1001() -> None:
    started: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(echo, HERE, on_start=started.set_result))
    async with dial(url(await started), proxy=None) as client:
        serving.cancel()
        with pytest.raises(CloseError) as raised:
            await client.recv()
        assert raised.value.code == 1001
    with pytest.raises(asyncio.CancelledError):
        await serving


async def test_options_and_upgrader_together_are_refused() -> None:
    with pytest.raises(TypeError, match="not both: origins"):
        await serve(echo, upgrader=Upgrader(), origins="*")


async def come_and_go(server: Server) -> None:
    async with dial(url(server), proxy=None) as client:
        await client.send("hi")
        await client.recv()
    (await dial(url(server), proxy=None)).abort()
    async with raw(server) as hanging_up:
        hanging_up.says(handshake())
        await hanging_up.hears_head()


def protocols() -> list[ConnProtocol]:
    gc.collect()
    # Not isinstance: there are proxies that do much when asked what they are.
    return [thing for thing in gc.get_objects() if type(thing) is ConnProtocol]


async def test_nothing_is_left_behind_by_clients_that_come_and_go() -> None:
    before = protocols()  # of loops that other tests ended in the middle
    async with Server(echo, HERE) as server:
        for _ in range(5):
            await come_and_go(server)
    assert server.connections == set()
    assert [left for left in protocols() if left not in before] == []


async def test_a_connection_that_has_ended_waits_for_no_garbage_collector() -> None:
    seen: list[weakref.ref[Conn]] = []

    async def remember(conn: Conn) -> None:
        seen.append(weakref.ref(conn))
        await echo(conn)

    gc.disable()
    try:
        async with Server(remember, HERE) as server, raw(server) as peer:
            peer.says(handshake())
            await peer.hears_head()
            peer.says(b"\x88\x82\0\0\0\0\x03\xe8")
            assert await peer.hears_all() == b"\x88\x02\x03\xe8"
        assert seen[0]() is None
    finally:
        gc.enable()
