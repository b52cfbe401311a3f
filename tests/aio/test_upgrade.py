"""``upgrade``, for asyncio: one handler that answers HTTP or makes a connection of it."""

from __future__ import annotations

import asyncio

import pytest

from koko import CloseError, ErrBadHandshake, HandshakeError, Request, Response
from koko.aio import Server, Upgrader, dial
from tests.aio.conftest import echo, handshake, raw, url
from tests.wire import wire

pytestmark = pytest.mark.usefixtures("loop_factory")

HERE = "127.0.0.1"
FOREIGN = {"Origin": "https://elsewhere.example"}


async def site(request: Request) -> Response | None:
    """A page and two WebSockets with different options, as in Go's mux."""
    if request.path == "/":
        return Response(200, "a page")
    if request.path == "/echo":
        async with Upgrader(subprotocols=["chat"]).upgrade(request, {"X-Room": "1"}) as conn:
            await echo(conn)
    elif request.path == "/open":
        conn = await Upgrader(origins="*").upgrade(request)
        await conn.send("hello")
    return None


async def test_one_handler_answers_pages_and_makes_connections() -> None:
    async with Server(None, HERE, http=site) as server:
        async with dial(url(server, path="/echo"), subprotocols=["chat"]) as conn:
            await conn.send("hello")
            assert await conn.recv() == "hello"
            assert conn.subprotocol == "chat"
            assert conn.response.headers["X-Room"] == "1"
            assert [each.request.path for each in server.connections] == ["/echo"]
        async with raw(server) as client:
            client.says("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await client.hears_all()).endswith(b"a page")
    assert str(conn.ending) == "we closed with 1000 (normal); peer answered 1000"


async def test_each_upgrader_has_its_own_rules() -> None:
    async with Server(None, HERE, http=site) as server:
        async with dial(url(server, path="/open"), headers=FOREIGN) as conn:
            assert await conn.recv() == "hello"
        with pytest.raises(ErrBadHandshake) as refused:
            await dial(url(server, path="/echo"), headers=FOREIGN)
    assert refused.value.status == 403
    assert b"origin 'https://elsewhere.example' is not the host" in refused.value.response.body


async def test_a_callback_that_returns_closes_its_connection_with_1000() -> None:
    async with Server(None, HERE, http=site) as server:
        async with dial(url(server, path="/open")) as conn:
            assert [message async for message in conn] == ["hello"]
    assert str(conn.ending) == "peer closed with 1000 (normal); we answered 1000"


async def test_a_websocket_that_nobody_makes_is_refused_with_404() -> None:
    async with Server(None, HERE, http=site) as server:
        with pytest.raises(ErrBadHandshake) as refused:
            await dial(url(server, path="/nowhere"))
    assert refused.value.status == 404
    assert refused.value.response.body == b"there is no WebSocket at '/nowhere'"


async def test_frames_that_come_while_the_callback_thinks_are_kept_in_order() -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def http(request: Request) -> None:
        asked.set()
        await go_on.wait()
        async with Upgrader().upgrade(request) as conn:
            await echo(conn)

    async with Server(None, HERE, http=http) as server, raw(server) as client:
        client.says(handshake().encode() + wire("1 000 0001 1 len", b"one"))
        await asked.wait()
        client.says(wire("1 000 0001 1 len", b"two") + wire("1 000 0010 1 len", bytes(200_000)))
        (handshaking,) = server._clients.handshakes
        while len(handshaking._early) < 1 << 16:
            await asyncio.sleep(0)
        assert len(handshaking._early) < 1 << 19  # no more is read before it is wanted
        go_on.set()
        assert (await client.hears_head()).startswith("HTTP/1.1 101 ")
        await client.hears(b"\x81\x03one\x81\x03two\x82\x7f" + (200_000).to_bytes(8, "big"))
        await client.hears(bytes(200_000))


async def test_a_callback_that_fails_in_its_conversation_closes_with_1011(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def http(request: Request) -> None:
        await Upgrader().upgrade(request)
        raise LookupError("nothing there")

    async with Server(None, HERE, http=http) as server, dial(url(server)) as conn:
        with pytest.raises(CloseError) as closed:
            await conn.recv()
    assert closed.value.code == 1011
    assert "LookupError: nothing there" in caplog.text


async def test_closing_the_server_closes_what_a_callback_made_with_1001() -> None:
    async with Server(None, HERE, http=site) as server:
        conn = await dial(url(server, path="/echo"))
        await conn.send("hello")
        assert await conn.recv() == "hello"
        closing = asyncio.create_task(server.close())
        with pytest.raises(CloseError) as closed:
            await conn.recv()
        assert closed.value.code == 1001
        await closing


async def test_a_server_that_closes_lets_no_callback_make_a_connection() -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def http(request: Request) -> None:
        asked.set()
        await go_on.wait()
        await Upgrader().upgrade(request)

    async with Server(None, HERE, http=http) as server, raw(server) as client:
        client.says(handshake())
        await asked.wait()
        closing = asyncio.create_task(server.close())
        await asyncio.sleep(0)
        go_on.set()
        assert (await client.hears_head()).startswith("HTTP/1.1 503 ")
        client.hangs_up()
        await closing


async def test_a_client_that_is_gone_is_no_longer_upgraded() -> None:
    asked, outcome = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def http(request: Request) -> None:
        asked.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:  # and goes on all the same
            try:
                await Upgrader().upgrade(request)
            except ConnectionResetError as error:
                outcome.set_result(str(error))
            raise

    async with Server(None, HERE, http=http) as server:
        async with raw(server) as client:
            client.says(handshake())
            await asked.wait()
        assert await outcome == "the client is gone"


async def test_a_request_is_upgraded_once(caplog: pytest.LogCaptureFixture) -> None:
    async def http(request: Request) -> None:
        async with Upgrader().upgrade(request):
            await Upgrader().upgrade(request)

    async with Server(None, HERE, http=http) as server, dial(url(server)) as conn:
        with pytest.raises(CloseError):
            await conn.recv()
    assert "RuntimeError: this request has been upgraded or answered already" in caplog.text


async def test_a_callback_may_answer_a_refused_client_by_itself() -> None:
    async def http(request: Request) -> Response | None:
        try:
            await Upgrader(check_origin=lambda request: False).upgrade(request)
        except HandshakeError as error:
            return Response(error.response.status if error.response else 0, "my own words")
        return None

    async with Server(None, HERE, http=http) as server:
        with pytest.raises(ErrBadHandshake) as refused:
            await dial(url(server))
    assert refused.value.response.body == b"my own words"


def test_requests_of_other_servers_are_for_threads() -> None:
    with pytest.raises(TypeError, match="other servers' requests are for koko.sync.Upgrader"):
        Upgrader().upgrade({"wsgi.input": None})


def test_a_server_needs_a_handler_or_http() -> None:
    with pytest.raises(TypeError, match="needs a handler, or http="):
        Server(None, HERE)
