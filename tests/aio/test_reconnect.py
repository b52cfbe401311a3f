"""A client that keeps coming back to real servers, with next to no time between."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing

import pytest

from compliance.ports import free_port
from koko import CloseError, ErrBadHandshake, HandshakeError, Request, Response
from koko.aio import Backoff, Conn, Dialer, Server, Upgrader, reconnect
from tests.aio.conftest import echo, url

pytestmark = pytest.mark.usefixtures("loop_factory")

HERE = "127.0.0.1"
SOON = Backoff(base=0.001, cap=0.01)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "koko.client"]


async def test_connection_that_is_lost_is_followed_by_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def drop(conn: Conn) -> None:
        await conn.recv()
        conn.abort()

    caplog.set_level(logging.INFO, "koko.client")
    said = []
    async with Server(drop, HERE) as server:
        address = url(server)
        async for conn in reconnect(address, backoff=SOON, proxy=None):
            if len(said) == 3:
                break
            try:
                await conn.send("hi")
                await conn.recv()
            except CloseError as error:
                said.append(error.code)
                continue
    assert said == [1006] * 3
    assert lines(caplog)[0].startswith(f"{address}: connection lost; ")
    assert lines(caplog)[0].endswith("; next try in 0.0 s")
    assert "Traceback" not in caplog.text


async def test_server_that_is_not_there_yet_is_dialed_until_it_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "koko.client")
    port = free_port()

    async def first() -> str | bytes:
        async for conn in reconnect(f"ws://{HERE}:{port}/", backoff=SOON, proxy=None):
            await conn.send("at last")
            return await conn.recv()
        raise AssertionError("it ends only by return")

    client = asyncio.create_task(first())
    while len(lines(caplog)) < 3:
        await asyncio.sleep(0.001)
    async with Server(echo, HERE, port):
        assert await client == "at last"


async def test_refusal_for_now_is_tried_again_and_one_for_good_is_raised() -> None:
    answers = [503, 429, 502, 401]

    def refuse(request: Request, error: HandshakeError) -> Response:
        return Response(answers.pop(0), b"not you, not now")  # and no Retry-After

    upgrader = Upgrader(check_origin=lambda request: False, error=refuse)
    async with Server(echo, HERE, upgrader=upgrader) as server:
        with pytest.raises(ErrBadHandshake, match="401"):
            async for _ in reconnect(url(server), backoff=SOON, proxy=None):
                pass
    assert answers == []


async def test_retry_after_is_waited_for() -> None:
    def busy(request: Request, error: HandshakeError) -> Response:
        return Response(503, b"", {"Retry-After": "3600"})

    waits, waited = [], asyncio.Event()

    def note(error: Exception) -> bool:
        waits.append(error)
        waited.set()
        return True

    upgrader = Upgrader(check_origin=lambda request: False, error=busy)
    async with Server(echo, HERE, upgrader=upgrader) as server:
        conns = reconnect(url(server), backoff=SOON, retry=note, proxy=None)
        dialing = asyncio.create_task(anext(conns))  # type: ignore[arg-type]
        await waited.wait()
        assert not (await asyncio.wait([dialing], timeout=0.1))[0]
        dialing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialing
    assert len(waits) == 1


async def test_close_with_1000_is_followed_by_another_connection() -> None:
    async def once(conn: Conn) -> None:
        await conn.send("that is all")

    heard = []
    async with Server(once, HERE) as server:
        async for conn in reconnect(url(server), backoff=SOON, proxy=None):
            heard += [message async for message in conn]
            if len(heard) == 3:
                break
    assert heard == ["that is all"] * 3


async def test_break_closes_the_connection() -> None:
    ended: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    async def note(conn: Conn) -> None:
        await conn.wait_closed()
        ended.set_result(conn.ending)

    async with Server(note, HERE) as server:
        async for _ in reconnect(url(server), proxy=None):
            break
        assert str(await ended) == "peer closed with 1000 (normal); we answered 1000"


async def test_aclosing_has_closed_it_when_the_block_is_left() -> None:
    async with Server(echo, HERE) as server:
        async with aclosing(reconnect(url(server), proxy=None)) as conns:
            conn = await anext(conns)
            assert conn.ending is None
        assert conn.ending is not None


async def test_exception_in_the_body_leaves_the_loop_and_nothing_open() -> None:
    conns: list[Conn] = []
    async with Server(echo, HERE) as server:
        with pytest.raises(ZeroDivisionError):
            async for conn in reconnect(url(server), proxy=None):
                conns.append(conn)
                raise ZeroDivisionError
        await conns[0].wait_closed(5)


async def test_open_connection_is_closed_before_the_next_is_dialed() -> None:
    conns: list[Conn] = []
    async with Server(echo, HERE) as server:
        async for conn in reconnect(url(server), backoff=SOON, proxy=None):
            assert all(earlier.ending for earlier in conns)
            conns.append(conn)
            if len(conns) == 3:
                break


async def test_what_cannot_be_used_is_told_at_once() -> None:
    with pytest.raises(ValueError, match="scheme 'http'"):
        reconnect("http://example.org/")
    with pytest.raises(TypeError, match="not both: origin"):
        reconnect("ws://example.org/", dialer=Dialer(), origin="https://example.org")
    with pytest.raises(ValueError, match="read_limit"):
        reconnect("ws://example.org/", read_limit=-1)


async def test_password_of_the_url_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "koko.client")
    port = free_port()
    conns = reconnect(f"ws://me:secret@{HERE}:{port}/", backoff=Backoff(base=9), proxy=None)
    waiting = asyncio.create_task(anext(conns))  # type: ignore[arg-type]
    while not lines(caplog):
        await asyncio.sleep(0.001)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert "secret" not in caplog.text
