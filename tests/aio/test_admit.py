"""Who comes to the server: handshakes, refusals, slow and rude clients, plain HTTP."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from koko import HandshakeError, Request, Response
from koko.aio import Conn, Server, Upgrader, dial
from tests.aio.conftest import echo, handshake, raw, url
from tests.wire import wire

pytestmark = pytest.mark.usefixtures("loop_factory")

HERE = "127.0.0.1"


# The handshake


async def test_handler_sees_the_request_and_the_addresses() -> None:
    seen: asyncio.Future[Conn] = asyncio.get_running_loop().create_future()

    async def look(conn: Conn) -> None:
        seen.set_result(conn)

    async with Server(look, HERE) as server, dial(url(server, path="/a?b"), proxy=None) as client:
        conn = await seen
        assert conn.request.target == "/a?b"
        assert conn.response.status == 101
        assert conn.local_address[:2] == server.address
        assert conn.remote_address == client.local_address


async def test_frames_right_behind_the_handshake_are_kept_in_order() -> None:
    async with Server(echo, HERE) as server, raw(server) as client:
        early = wire("1 000 0001 1 len", b"early") + wire("1 000 0001 1 len", b"cut")[:5]
        client.says(handshake().encode() + early)
        assert (await client.hears_head()).startswith("HTTP/1.1 101 ")
        await client.hears(b"\x81\x05early")
        client.says(wire("1 000 0001 1 len", b"cut")[5:])
        await client.hears(b"\x81\x03cut")


async def test_many_early_messages_are_not_read_before_somebody_wants_them() -> None:
    frames = [wire("1 000 0010 1 len", bytes([number]) * 30_000) for number in range(10)]
    async with Server(echo, HERE) as server, raw(server) as client:
        client.says(handshake().encode() + b"".join(frames))
        await client.hears_head()
        for number in range(10):
            await client.hears(b"\x82\x7e\x75\x30" + bytes([number]) * 30_000)


async def test_foreign_origin_is_refused_with_403() -> None:
    async with Server(echo, HERE) as server, raw(server) as client:
        client.says(handshake("Origin: https://evil.example"))
        head = await client.hears_head()
        assert head.startswith("HTTP/1.1 403 ")
        assert b"origin 'https://evil.example' is not the host 'koko.example'" in (
            await client.hears_all()
        )


async def test_what_is_not_http_is_refused_at_once() -> None:
    async with Server(echo, HERE) as server, raw(server) as client:
        client.says("hello there\r\n")
        assert (await client.hears_all()).startswith(b"HTTP/1.1 400 ")


async def test_refused_client_that_goes_on_talking_still_gets_its_answer() -> None:
    async with Server(echo, HERE) as server, raw(server) as client:
        client.says("GET / HTTP/1.1\r\nHost: x\r\n\r\n" + "more that nobody reads" * 1000)
        assert b"426 Upgrade Required" in await client.hears_all()
        client.says("still talking")


@pytest.mark.parametrize("limit", [300, 30_000])
async def test_head_has_at_most_head_limit_bytes(limit: int) -> None:
    room = limit - len(handshake("Cookie: "))
    async with Server(echo, HERE, upgrader=Upgrader(head_limit=limit)) as server:
        async with raw(server) as client:
            client.says(handshake("Cookie: " + "x" * room))
            assert (await client.hears_head()).startswith("HTTP/1.1 101 ")
        async with raw(server) as client:
            client.says(handshake("Cookie: " + "x" * (room + 1)))
            assert (await client.hears_head()).startswith("HTTP/1.1 431 ")


async def test_slow_drip_of_a_head_is_cut_off_by_the_handshake_timeout() -> None:
    upgrader = Upgrader(handshake_timeout=0.05)
    async with Server(echo, HERE, upgrader=upgrader) as server, raw(server) as client:
        client.says("GET / HTTP/1.1\r\nHos")
        assert await client.hears_all() == b""


async def test_check_that_fails_is_answered_with_500_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def check(request: Request) -> bool:
        raise ZeroDivisionError

    upgrader = Upgrader(check_origin=check)
    async with Server(echo, HERE, upgrader=upgrader) as server, raw(server) as client:
        client.says(handshake())
        assert (await client.hears_all()).startswith(b"HTTP/1.1 500 ")
    assert "ZeroDivisionError" in caplog.text


# Other requests


def page(request: Request) -> Response | None:
    return Response(200, "hello") if request.path == "/page" else None


async def later(request: Request) -> Response | None:
    await asyncio.sleep(0)
    return page(request)


@pytest.mark.parametrize("http", [page, later])
async def test_http_callback_answers_what_is_no_websocket(http: Any) -> None:
    async with Server(echo, HERE, http=http) as server, raw(server) as client:
        client.says("GET /page HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await client.hears_head()
        assert head.startswith("HTTP/1.1 200 OK\r\n")
        assert "Connection: close\r\n" in head
        assert "Content-Length: 5\r\n" in head
        assert await client.hears_all() == b"hello"


async def test_an_answer_that_waited_for_a_blocked_loop_is_not_too_late() -> None:
    async def blocks(request: Request) -> Response:
        time.sleep(1.5)  # longer than handshake_timeout, and the whole loop with it
        for _ in range(5):
            await asyncio.sleep(0)
        return Response(200, b"hello")

    upgrader = Upgrader(handshake_timeout=0.5)
    async with Server(echo, HERE, http=blocks, upgrader=upgrader) as server:
        async with raw(server) as client:
            client.says("GET /page HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await client.hears_all()).endswith(b"hello")


async def test_answer_to_head_has_the_same_head_and_no_body() -> None:
    async with Server(echo, HERE, http=page) as server, raw(server) as client:
        client.says("HEAD /page HTTP/1.1\r\nHost: x\r\n\r\n")
        assert "Content-Length: 5\r\n" in await client.hears_head()
        assert await client.hears_all() == b""


@pytest.mark.parametrize("http", [page, later, None])
async def test_request_that_nobody_answers_is_told_to_upgrade(http: Any) -> None:
    async with Server(echo, HERE, http=http) as server, raw(server) as client:
        client.says("GET /other HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await client.hears_all()
        assert answer.startswith(b"HTTP/1.1 426 ")
        assert b"Upgrade: websocket\r\n" in answer


async def test_websockets_do_not_pass_the_http_callback() -> None:
    def fail(request: Request) -> Response:
        raise AssertionError

    async with Server(echo, HERE, http=fail) as server, dial(url(server), proxy=None) as client:
        await client.send("hi")
        assert await client.recv() == "hi"


@pytest.mark.parametrize(
    "answer", [ZeroDivisionError(), Response(200, headers={"A": "b\r\nc"}), "no response"]
)
async def test_http_callback_that_fails_is_answered_with_500_and_logged(
    answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(request: Request) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with Server(echo, HERE, http=fail) as server, raw(server) as client:
        client.says("GET /page HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.hears_all()).startswith(b"HTTP/1.1 500 ")
    assert "could not answer /page" in caplog.text


async def test_http_callback_may_refuse() -> None:
    def refuse(request: Request) -> Response:
        raise HandshakeError(404, "there is no such page")

    async with Server(echo, HERE, http=refuse) as server, raw(server) as client:
        client.says("GET /page HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await client.hears_all()
        assert answer.startswith(b"HTTP/1.1 404 ")
        assert answer.endswith(b"there is no such page")


async def test_client_that_hangs_up_cancels_the_callback_that_works_for_it() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def for_ever(request: Request) -> Response:
        begun.set()
        try:
            return await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()

    async with Server(echo, HERE, http=for_ever) as server:
        async with raw(server) as client:
            client.says("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await begun.wait()
        await cancelled.wait()
