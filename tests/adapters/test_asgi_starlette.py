"""``upgrade`` inside endpoints of Starlette and FastAPI: states, errors, refusals."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from koko import CloseError, HandshakeError
from koko.adapters.asgi import upgrade, websocket
from koko.aio import Conn, Upgrader
from tests.adapters.asgi_script import PATIENCE, Script, scene
from tests.adapters.test_asgi import EVIL, SAID
from tests.logged import of_clients

pytestmark = pytest.mark.integration("starlette", "fastapi")

Endpoint = Callable[[Any], Awaitable[None]]


def starlette(endpoint: Endpoint) -> Any:
    from starlette.applications import Starlette
    from starlette.routing import WebSocketRoute

    return Starlette(routes=[WebSocketRoute("/{any}", endpoint)])


def fastapi(endpoint: Endpoint) -> Any:
    from fastapi import FastAPI, WebSocket

    app = FastAPI()
    endpoint.__annotations__["socket"] = WebSocket
    app.websocket("/{any}")(endpoint)
    return app


@pytest.fixture(params=[starlette, fastapi])
def framework(request: pytest.FixtureRequest) -> Callable[[Endpoint], Any]:
    return request.param  # type: ignore[no-any-return]


def states(socket: Any) -> tuple[str, str]:
    return socket.client_state.name, socket.application_state.name


@pytest.mark.parametrize("accepted", [False, True])
@scene
async def test_the_states_are_right_at_every_moment(framework: Any, accepted: bool) -> None:
    seen: list[tuple[str, str]] = []

    async def endpoint(socket: Any) -> None:
        if accepted:
            await socket.accept()
        async with upgrade(socket) as conn:
            seen.append(states(socket))
            assert await conn.recv() == "hello"
        seen.append(states(socket))

    server = Script(framework(endpoint))
    await server.hears("accept")
    server.text("hello")
    assert (await server.hears("close"))["code"] == 1000
    server.leaves()
    await server.ends()
    assert seen == [("CONNECTED", "CONNECTED"), ("DISCONNECTED", "DISCONNECTED")]


@scene
async def test_a_client_that_leaves_ends_the_block_quietly(framework: Any) -> None:
    behind: list[tuple[str, str]] = []

    async def endpoint(socket: Any) -> None:
        async with upgrade(socket) as conn:
            async for message in conn:
                await conn.send(message)
        behind.append(states(socket))

    server = Script(framework(endpoint))
    server.text("hello")
    assert (await server.hears("send"))["text"] == "hello"
    server.leaves(1006)  # which iteration raises
    await server.ends()
    assert behind == [("DISCONNECTED", "DISCONNECTED")]


@pytest.mark.parametrize("accepted", [False, True])
@scene
async def test_a_websocket_exception_closes_with_its_code(framework: Any, accepted: bool) -> None:
    from starlette.exceptions import WebSocketException

    conns: list[Conn] = []

    async def endpoint(socket: Any) -> None:
        if accepted:
            await socket.accept()
        async with upgrade(socket) as conn:
            conns.append(conn)
            await conn.send("before")
            raise WebSocketException(4003, "no")

    server = Script(framework(endpoint))
    assert (await server.hears("send"))["text"] == "before"
    close = await server.hears("close")
    assert (close["code"], close["reason"]) == (4003, "no")
    await server.ends()
    assert "the framework closes it" in str(conns[0].ending)


@scene
async def test_another_error_closes_with_1011_and_goes_on(framework: Any) -> None:
    async def endpoint(socket: Any) -> None:
        async with upgrade(socket):
            raise LookupError("mine")

    server = Script(framework(endpoint))
    assert (await server.hears("close"))["code"] == 1011
    server.leaves(1011)
    with pytest.raises(LookupError, match="mine"):
        await server.ends()


@pytest.mark.parametrize("denies", [True, False])
@scene
async def test_a_refusal_is_answered_by_the_framework(
    framework: Any, denies: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def endpoint(socket: Any) -> None:
        async with upgrade(socket):
            raise AssertionError("it was let in")

    server = Script(framework(endpoint), headers=EVIL, **({} if denies else {"extensions": {}}))
    await server.ends()
    if denies:
        assert server.sent[0]["type"] == "websocket.http.response.start"
        assert server.sent[0]["status"] == 403
        assert b"origin 'https://evil.example' is not the host" in server.sent[1]["body"]
    else:
        assert [event["type"] for event in server.sent] == ["websocket.close"]
    (line,) = of_clients(caplog)
    assert line.startswith(f"koko.server WARNING 203.0.113.7:51312 /chat%20room: {SAID}")


@scene
async def test_a_refusal_after_accept_closes_with_1008(framework: Any) -> None:
    async def endpoint(socket: Any) -> None:
        await socket.accept()
        async with upgrade(socket):
            raise AssertionError("it was let in")

    server = Script(framework(endpoint), headers=EVIL)
    close = await server.hears("close")
    assert close["code"] == 1008
    assert close["reason"].startswith("origin 'https://evil.example' is not the host")
    await server.ends()


@scene
async def test_an_endpoint_may_catch_a_refusal(framework: Any) -> None:
    refused: list[HandshakeError] = []

    async def endpoint(socket: Any) -> None:
        try:
            async with upgrade(socket):
                raise AssertionError("it was let in")
        except HandshakeError as error:
            refused.append(error)
            await socket.close()

    server = Script(framework(endpoint), headers=EVIL)
    await server.ends()
    assert refused[0].status == 403
    assert refused[0].response is not None
    assert server.sent[0]["type"] == "websocket.close"


@scene
async def test_a_response_to_refused_clients_keeps_its_status_and_headers(framework: Any) -> None:
    from koko import Response

    upgrader = Upgrader(error=lambda request, error: Response(451, "not here", {"X-Why": "law"}))

    async def endpoint(socket: Any) -> None:
        async with upgrade(socket, upgrader):
            raise AssertionError("it was let in")

    server = Script(framework(endpoint), headers=EVIL)
    await server.ends()
    start, body = server.sent
    assert start["status"] == 451
    assert (b"x-why", b"law") in start["headers"]
    assert b"not here" in body["body"]


@scene
async def test_what_can_no_longer_be_said_is_an_error(framework: Any) -> None:
    said: list[str] = []

    async def endpoint(socket: Any) -> None:
        await socket.accept(subprotocol="chat")
        for late in (
            upgrade(socket, headers={"X-Extra": "yes"}),
            upgrade(socket, Upgrader(subprotocols=["chat"])),
        ):
            with pytest.raises(ValueError, match="accepted already") as error:
                async with late:
                    pass
            said.append(str(error.value))
        async with upgrade(socket, subprotocol="chat") as conn:
            assert conn.subprotocol == "chat"
        with pytest.raises(RuntimeError, match="closed already: it is DISCONNECTED"):
            upgrade(socket)

    server = Script(framework(endpoint))
    await server.hears("close")
    server.leaves()
    await server.ends()
    assert len(said) == 2


@scene
async def test_a_server_that_takes_no_code_is_closed_with_1000(framework: Any) -> None:
    async def endpoint(socket: Any) -> None:
        async with upgrade(socket) as conn:
            await conn.close(1001)

    app = framework(endpoint)

    async def picky(scope: Any, receive: Any, send: Any) -> None:
        async def checked(event: Any) -> None:
            if event.get("code", 1000) == 1001:
                raise Exception("invalid close code 1001")
            await send(event)

        await app(scope, receive, checked)

    server = Script(picky)
    assert (await server.hears("close"))["code"] == 1000
    server.leaves()
    await server.ends()


@scene
async def test_an_application_of_a_handler_is_a_route(caplog: pytest.LogCaptureFixture) -> None:
    from starlette.applications import Starlette
    from starlette.routing import Mount, WebSocketRoute

    @websocket()
    async def echo(conn: Conn) -> None:
        async for message in conn:
            await conn.send(message)

    caplog.set_level(logging.INFO)
    for route in (WebSocketRoute("/chat room", echo), Mount("/", echo)):
        server = Script(Starlette(routes=[route]))
        server.text("hello")
        assert (await server.hears("send"))["text"] == "hello"
        server.leaves()
        await server.ends()


@scene
async def test_a_cancel_scope_of_anyio_ends_a_block() -> None:
    import anyio

    ends: list[BaseException | None] = []

    async def endpoint(socket: Any) -> None:
        with anyio.move_on_after(0.01):
            async with upgrade(socket) as conn:
                try:
                    await conn.recv()
                finally:
                    ends.append(conn.ending)
        with pytest.raises(CloseError):
            await conn.recv(PATIENCE)

    server = Script(starlette(endpoint))
    await server.ends()
    assert ends == [None]
    await asyncio.sleep(0)
    assert [event["code"] for event in server.sent if event["type"] == "websocket.close"] == [1001]
