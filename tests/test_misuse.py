"""Mistakes of the programmer are told where they are made, on both faces and in every verb."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

import pytest

from koko import aio, sync
from koko.adapters import http_server, wsgi
from koko.misuse import is_async, name_of

HERE = "127.0.0.1"


async def waits(*args: Any) -> None:
    """Be a coroutine function."""


def plain(*args: Any) -> None:
    """Be none."""


class Waiting:
    async def __call__(self, *args: Any) -> None:
        """Be called like a coroutine function."""


@pytest.mark.parametrize("function", [waits, partial(waits, 1), partial(partial(waits)), Waiting()])
def test_a_coroutine_function_is_known_through_partials_and_objects(function: Any) -> None:
    assert is_async(function)
    assert not is_async(plain)
    assert not is_async(Waiting)


def test_a_function_is_named_as_the_programmer_named_it() -> None:
    def inner() -> None: ...

    assert name_of(partial(partial(plain))) == "plain"
    assert name_of(inner) == "inner"
    assert name_of(Waiting()) == "Waiting"


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        (lambda: sync.Server(waits), r"Server\(\) got the coroutine function waits\(\)"),
        (lambda: sync.Server(partial(waits)), r"coroutine function waits\(\)"),
        (lambda: sync.Server(Waiting()), r"coroutine function Waiting\(\)"),
        (lambda: sync.Server(None, http=waits), "as http=; it must be a plain function"),
        (lambda: sync.serve(waits, HERE), r"coroutine function waits\(\)"),
        (lambda: sync.serve(plain, HERE, on_start=waits), r"serve\(\) got .* as on_start="),
        (lambda: sync.Server(plain, upgrader=aio.Upgrader()), r"expected a koko\.sync\.Upgrader"),
        (lambda: aio.Server(waits, upgrader=sync.Upgrader()), r"expected a koko\.aio\.Upgrader"),
        (lambda: sync.reconnect("ws://x", dialer=aio.Dialer()), r"expected a koko\.sync\.Dialer"),
        (lambda: aio.reconnect("ws://x", dialer=sync.Dialer()), r"expected a koko\.aio\.Dialer"),
        (lambda: wsgi.websocket(sync.Upgrader())(waits), r"websocket\(\) got the coroutine"),
        (lambda: wsgi.websocket(aio.Upgrader())(plain), r"expected a koko\.sync\.Upgrader"),
        (lambda: http_server.websocket(sync.Upgrader())(waits), r"websocket\(\) got the corout"),
        (lambda: sync.Upgrader(check_origin=waits), "check_origin=waits must be a plain function"),
        (
            lambda: aio.Upgrader(select_subprotocol=waits),
            "subprotocol=waits must be a plain",
        ),
        (lambda: aio.Upgrader(error=waits), "error=waits must be a plain function on both faces"),
        (lambda: aio.Dialer(proxy=waits), "proxy=waits must be a plain function on both faces"),
        (lambda: sync.Server("chat"), "got 'chat' as handler, expected a function"),
        (
            lambda: sync.dial("ws://x", max_size=3),
            r"dial\(\) has no option 'max_size'; read_limit=",
        ),
        (lambda: aio.dial("ws://x", timeout=3), r"dial\(\) has no option 'timeout'; handshake_tim"),
        (lambda: aio.reconnect("ws://x", heartbeat=3), r"reconnect\(\) has no .*; ping_interval="),
        (lambda: sync.Server(plain, max_size=3), r"Server\(\) has no option 'max_size'; read_lim"),
        (lambda: sync.serve(plain, process_request=plain), r"serve\(\) has no option .*; http="),
        (lambda: sync.Server(plain, upgrader=sync.Upgrader(), read_limit=3), "not both: read_lim"),
    ],
)
def test_what_can_be_known_is_told_at_once(mistake: Any, sentence: str) -> None:
    with pytest.raises(TypeError, match=sentence):
        mistake()


def test_a_server_takes_the_options_of_its_upgrader() -> None:
    assert sync.Server(plain, read_limit=3).upgrader.read_limit == 3
    assert aio.Server(waits, read_limit=3).upgrader.read_limit == 3


def test_a_handler_of_control_frames_is_a_plain_function_under_threads() -> None:
    with (
        sync.Server(lambda conn: conn.wait_closed(), HERE) as server,
        sync.dial(f"ws://{HERE}:{server.address[1]}", proxy=None) as conn,
    ):
        for name in ("ping_handler", "pong_handler", "close_handler"):
            with pytest.raises(TypeError, match=f"waits.* as {name}"):
                setattr(conn, name, waits)


def ended(conn: sync.Conn) -> Any:
    conn.wait_closed(5)
    return conn.ending


def test_under_threads_a_handler_that_returns_a_coroutine_is_1011_and_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR, "koko.server")
    with sync.Server(lambda conn: waits(conn), HERE) as server:
        ending = ended(sync.dial(f"ws://{HERE}:{server.address[1]}", proxy=None))
    assert ending.code == 1011
    (line,) = caplog.messages
    assert line.endswith("returned a coroutine; under koko.sync it must be def")


def test_under_asyncio_a_handler_that_returns_nothing_to_await_is_1011_and_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def talk() -> Any:
        async with aio.Server(plain, HERE) as server:  # type: ignore[arg-type]
            conn = await aio.dial(f"ws://{HERE}:{server.address[1]}", proxy=None)
            await conn.wait_closed(5)
            return conn.ending

    caplog.set_level(logging.ERROR, "koko.server")
    assert asyncio.run(talk()).code == 1011
    assert caplog.messages == ["handler plain() returned None; under koko.aio it must be async def"]


def test_under_asyncio_a_plain_function_may_return_an_awaitable() -> None:
    async def hello(conn: aio.Conn) -> None:
        await conn.send("hello")

    async def talk() -> str | bytes:
        async with aio.Server(lambda conn: hello(conn), HERE) as server:
            async with aio.dial(f"ws://{HERE}:{server.address[1]}", proxy=None) as conn:
                return await conn.recv(timeout=5)

    assert asyncio.run(talk()) == "hello"


def test_a_server_serves_once() -> None:
    server = sync.Server(plain, HERE)
    with server, pytest.raises(RuntimeError, match="make another Server"):
        server.start()
    with pytest.raises(RuntimeError, match="make another Server"):
        server.start()


def test_a_server_of_asyncio_serves_once() -> None:
    async def twice() -> None:
        server = aio.Server(waits, HERE)
        async with server:
            with pytest.raises(RuntimeError, match="make another Server"):
                await server.start()
        with pytest.raises(RuntimeError, match="make another Server"):
            await server.start()

    asyncio.run(twice())
