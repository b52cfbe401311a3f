"""Mistakes of the programmer are told where they are made, on both faces and in every verb."""

from __future__ import annotations

import asyncio
import inspect
import logging
import socket
import ssl
import types
from functools import partial
from typing import Any
from unittest.mock import AsyncMock

import pytest
from multidict import CIMultiDict

from koko import Request, aio, sync
from koko.adapters import asgi, http_server, wsgi
from koko.misuse import is_async, name_of
from koko.testing.aio import pair as aio_pair
from koko.testing.sync import pair as sync_pair
from koko.upgrading import UpgradableRequest

NAN, INF = float("nan"), float("inf")
HERE = "127.0.0.1"


async def waits(*args: Any) -> None:
    """Be a coroutine function."""


def plain(*args: Any) -> None:
    """Be none."""


def yields(*args: Any) -> Any:
    yield


async def yields_later(*args: Any) -> Any:
    yield


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
        (lambda: sync.Server(staticmethod(waits)), r"coroutine function waits\(\)"),
        (lambda: sync.Server(AsyncMock()), r"coroutine function AsyncMock\(\)"),
        (lambda: sync.Dialer(net_dial=waits), r"coroutine function waits\(\) as net_dial="),
        (lambda: sync.serve(plain, HERE, upgrader=aio.Upgrader()), r"^serve\(\) got upgrader=koko"),
        (lambda: sync.serve(waits, HERE), r"^serve\(\) got the coroutine"),
        (lambda: wsgi.websocket(plain), r"websocket\(\) got upgrader=builtins\.function"),
        (lambda: wsgi.websocket(plain), r"sync\.Upgrader; write @websocket\(Upgrader\(\)\)$"),
        (lambda: asgi.websocket(waits), r"aio\.Upgrader; write @websocket\(Upgrader\(\)\)$"),
        (lambda: wsgi.websocket(None), r"websocket\(\) got None as upgrader"),
        (lambda: wsgi.websocket(sync.Upgrader())(5), r"websocket\(\) got 5 as handler"),
        (lambda: wsgi.websocket(sync.Upgrader(), max_connections="9"), "max_connections='9'"),
    ],
)
def test_what_can_be_known_is_told_at_once(mistake: Any, sentence: str) -> None:
    with pytest.raises(TypeError, match=sentence):
        mistake()


@pytest.mark.parametrize("face", [sync, aio], ids=["sync", "aio"])
@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        (lambda face: face.Server(yields), r"Server\(\) got yields\(\) as handler, which nothing"),
        (lambda face: face.Server(partial(yields_later)), r"yields_later\(\) as handler, which no"),
        (lambda face: face.Server(None, http=5), r"Server\(\) got http=5, expected a function"),
        (lambda face: face.Server(plain, 8765), "host=8765, .*; the port comes second"),
        (lambda face: face.Server(plain, []), r"host=\[\], expected a name"),
        (lambda face: face.Server(plain, HERE, "80"), "port='80', expected a whole number"),
        (lambda face: face.Server(plain, HERE, 70000), "port=70000, expected a number from 0"),
        (lambda face: face.Server(plain, sock=5), "sock=5, expected a bound socket.socket"),
        (lambda face: face.Server(plain, ssl="a.pem"), "ssl='a.pem', expected an ssl.SSLContext"),
        (
            lambda face: face.Server(plain, ssl=ssl.create_default_context()),
            "ssl= is a client's: make it with Purpose.CLIENT_AUTH",
        ),
        (lambda face: face.Server(plain, proxy_protocol="v2"), "proxy_protocol='v2', expected Tr"),
        (lambda face: face.Server(plain, logger="x"), "logger='x', expected a logging.Logger"),
        (lambda face: face.Upgrader(origins=5), "origins=5, expected a list"),
        (lambda face: face.Upgrader(trusted_proxies=5), "trusted_proxies=5, expected a list"),
        (lambda face: face.reconnect("ws://x", retry=waits), "as retry=; it must be a plain"),
        (
            lambda face: face.reconnect("ws://x", retry=5),
            r"reconnect\(\) got retry=5, expected",
        ),
        (
            lambda face: face.reconnect("ws://x", backoff=5),
            r"reconnect\(\) got backoff=5, exp",
        ),
        (
            lambda face: face.reconnect("ws://x", sock=5),
            r"reconnect\(\) has no option 'sock'; net_dial= opens each connection",
        ),
        (lambda face: done(face.serve(plain, HERE, on_start=5)), r"serve\(\) got on_start=5, expe"),
        (lambda face: done(face.serve(None, HERE)), r"serve\(\) needs a handler"),
        (lambda face: done(face.dial(b"ws://x")), "URL is a bytes, expected a str"),
        (lambda face: done(face.dial("ws://x", sock=5)), r"dial\(\) got sock=5, expected a connec"),
        (lambda face: done(face.broadcast(["x"], "")), r"broadcast\(\) got 'x' among its connec"),
        (lambda face: done(face.broadcast([], "", timeout="x")), "timeout='x', expected a number"),
    ],
)
def test_what_can_be_known_is_told_on_both_faces(face: Any, mistake: Any, sentence: str) -> None:
    with pytest.raises((TypeError, ValueError), match=sentence):
        mistake(face)


def done(result: Any) -> Any:
    """Wait for what is awaitable."""

    async def wait() -> Any:
        return await result

    return asyncio.run(wait()) if inspect.isawaitable(result) else result


@pytest.mark.parametrize("name", ["check_origin", "select_subprotocol", "error"])
def test_a_plain_function_that_returns_a_coroutine_lets_nobody_in(name: str) -> None:
    upgrader = sync.Upgrader(**{name: lambda *args: waits()})
    version = "13" if name != "error" else "8"
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": version}
    headers |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Origin": "http://x", "Host": "x"}
    with pytest.raises(TypeError, match=rf"^{name}= .*returned a coroutine; on both faces it must"):
        upgrader.decide(Request("GET", "/", CIMultiDict(headers)))


@pytest.mark.parametrize("face", [sync, aio], ids=["sync", "aio"])
def test_a_coroutine_says_nothing_of_whether_to_dial_again(face: Any) -> None:
    def first() -> Any:
        conns = face.reconnect(f"ws://{HERE}:9/", retry=lambda error: waits(), proxy=None)
        return next(conns) if face is sync else done(anext(conns))

    with pytest.raises(TypeError, match="retry= .*returned a coroutine; on both faces it must"):
        first()


@pytest.mark.parametrize("face", [sync, aio], ids=["sync", "aio"])
def test_what_on_start_returns_is_not_forgotten_if_it_has_to_be_awaited(face: Any) -> None:
    with pytest.raises(TypeError, match="on_start= .*returned a coroutine; on both faces it must"):
        done(face.serve(plain, HERE, on_start=lambda server: waits()))


@pytest.mark.parametrize("handler", [yields, yields_later], ids=["generator", "async generator"])
@pytest.mark.parametrize("face", [sync, aio], ids=["sync", "aio"])
def test_a_handler_with_a_yield_is_1011_and_one_line(
    face: Any, handler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def through(conn: Any) -> Any:
        return handler(conn)

    async def talk() -> Any:
        async with aio.Server(through, HERE) as server:
            conn = await aio.dial(f"ws://{HERE}:{server.address[1]}", proxy=None)
            await conn.wait_closed(10)
            return conn.ending

    caplog.set_level(logging.ERROR, "koko.server")
    if face is aio:
        ending = asyncio.run(talk())
    else:
        with sync.Server(through, HERE) as server:
            ending = ended(sync.dial(f"ws://{HERE}:{server.address[1]}", proxy=None))
    assert ending.code == 1011
    (line,) = caplog.messages
    assert line.endswith("which nothing runs; it must not yield")


@pytest.mark.parametrize(
    ("face", "other", "handshake"),
    [(sync, "aio", aio.admit.OpeningHandshake), (aio, "sync", sync.admit.OpeningHandshake)],
    ids=["sync", "aio"],
)
def test_a_request_to_the_server_of_the_other_face_is_told(
    face: Any, other: str, handshake: Any
) -> None:
    foreign = handshake.__new__(handshake)
    request = UpgradableRequest("GET", "/", CIMultiDict(), handshake=foreign)
    sentence = f"got a request to koko.{other}'s server; use koko.{other}.Upgrader"
    with pytest.raises(TypeError, match=sentence):
        face.Upgrader().upgrade(request)


@pytest.mark.parametrize("face", [sync, aio], ids=["sync", "aio"])
def test_a_socket_that_is_not_connected_is_told(face: Any) -> None:
    with pytest.raises(OSError, match="the socket that was given is not connected"):
        done(face.dial("ws://x", sock=socket.socket()))


@pytest.mark.parametrize("face", [sync, aio], ids=["sync", "aio"])
def test_a_server_that_was_not_started_does_not_serve_for_ever(face: Any) -> None:
    with pytest.raises(RuntimeError, match="was not started"):
        done(face.Server(plain, HERE).serve_forever())


def test_a_coroutine_of_the_old_kind_is_a_handler() -> None:
    @types.coroutine
    def old(conn: aio.Conn) -> Any:
        yield

    assert aio.Server(old).handler is old  # type: ignore[arg-type]


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
    conn.wait_closed(10)
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
            await conn.wait_closed(10)
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
                return await conn.recv(timeout=10)

    assert asyncio.run(talk()) == "hello"


@pytest.mark.parametrize("face", [sync, aio], ids=["sync", "aio"])
@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        (lambda conn: conn.recv("5"), "timeout='5', expected a number of seconds, or None"),
        (lambda conn: conn.send("", "5"), "timeout='5', expected a number of seconds, or None"),
        (lambda conn: conn.ping(timeout="5"), "timeout='5', expected a number of seconds"),
        (lambda conn: conn.wait_closed("5"), "timeout='5', expected a number of seconds, or None"),
        (lambda conn: conn.close(timeout="5"), "timeout='5', expected a number of seconds, or No"),
        (lambda conn: setattr(conn, "read_deadline", "5"), "read_deadline='5', expected a number"),
        (lambda conn: setattr(conn, "write_deadline", "5"), "write_deadline='5', expected a numb"),
        (lambda conn: setattr(conn, "read_limit", "5"), "read_limit=5: a number of bytes above 0"),
        (lambda conn: setattr(conn, "read_limit", True), "read_limit=True: a number of bytes"),
        (lambda conn: conn.recv(NAN), "timeout=nan, expected a number of seconds"),
        (lambda conn: conn.send("", NAN), "timeout=nan, expected a number of seconds"),
        (lambda conn: conn.ping(timeout=NAN), "timeout=nan, expected a number of seconds"),
        (lambda conn: conn.wait_closed(NAN), "timeout=nan, expected a number of seconds"),
        (lambda conn: conn.close(timeout=NAN), "timeout=nan, expected a number of seconds"),
        (lambda conn: setattr(conn, "read_deadline", NAN), "read_deadline=nan, expected a number"),
        (lambda conn: conn.recv(INF), "timeout=inf, expected a number of seconds"),
        (lambda conn: conn.ping(timeout=INF), "timeout=inf, expected a number of seconds"),
        (lambda conn: conn.close(timeout=-INF), "timeout=-inf, expected a number of seconds"),
        (lambda conn: conn.close(timeout=1e300), r"timeout=1e\+300, expected a number of seconds"),
        (lambda conn: conn.write_message(1, "", "5"), "timeout='5', expected a number of seconds"),
        (lambda conn: conn.write_json("", NAN), "timeout=nan, expected a number of seconds"),
        (lambda conn: conn.next_writer(1, "5"), "timeout='5', expected a number of seconds"),
        (lambda conn: conn.next_reader("5"), "timeout='5', expected a number of seconds"),
        (lambda conn: conn.write_control(9, b"", "5"), "deadline='5', expected a number of sec"),
        (lambda conn: conn.write_control(9, b"", NAN), "deadline=nan, expected a number of sec"),
        (lambda conn: conn.close([]), r"a close code is an int such as 1000, not \[\]"),
        (lambda conn: conn.close(42), "close code 42 may not be sent"),
        (lambda conn: conn.close(1000, 5), "a close reason is str, not int: 5"),
        (lambda conn: conn.close(1000, "x" * 124), "a close reason has at most 123 bytes"),
        (lambda conn: conn.ping("x"), "a control frame carries bytes, not str"),
        (lambda conn: conn.pong(5), "a control frame carries bytes, not int"),
        (lambda conn: conn.write_control(9, "x"), "a control frame carries bytes, not str"),
        (
            lambda conn: conn.write_prepared("x"),
            r"write_prepared\(\) takes a Prepared",
        ),
    ],
)
def test_a_mistake_in_a_verb_is_a_sentence_and_harms_nothing(
    face: Any, mistake: Any, sentence: str
) -> None:
    async def talk(url: str) -> str | bytes:
        async with aio.dial(url, proxy=None) as conn:
            with pytest.raises((TypeError, ValueError), match=f"^{sentence}"):
                if (result := mistake(conn)) is not None:
                    await result
            assert conn._core.bytes_out == 0
            await conn.send("unharmed")
            return await conn.recv(timeout=10)

    def echo(conn: sync.Conn) -> None:
        for message in conn:
            conn.send(message)

    with sync.Server(echo, HERE) as server:
        url = f"ws://{HERE}:{server.address[1]}"
        if face is aio:
            assert asyncio.run(talk(url)) == "unharmed"
            return
        with sync.dial(url, proxy=None) as conn:
            with pytest.raises((TypeError, ValueError), match=f"^{sentence}"):
                mistake(conn)
            assert conn._core.bytes_out == 0
            conn.send("unharmed")
            assert conn.recv(timeout=10) == "unharmed"


@pytest.mark.parametrize("timeout", ["5", NAN, INF])
def test_a_mistake_in_a_part_leaves_the_message_whole(timeout: Any) -> None:
    with sync_pair() as (client, server):
        with client.next_writer(1) as writer:
            with pytest.raises((TypeError, ValueError), match="^timeout="):
                writer.write("lost", timeout=timeout)
            writer.write("whole")
        assert server.recv(timeout=5) == "whole"

    async def talk() -> str | bytes:
        async with aio_pair() as (client, server):
            async with client.next_writer(1) as writer:
                with pytest.raises((TypeError, ValueError), match="^timeout="):
                    await writer.write("lost", timeout=timeout)
                await writer.write("whole")
            return await server.recv(timeout=5)

    assert asyncio.run(talk()) == "whole"


CLOSINGS: list[tuple[Any, ...]] = [
    (42,), ("1000",), ([],), (1006,), (1000, 5), (1000, "x" * 124),
    (1000, "", "5"), (1000, "", NAN), (1000, "", INF),
]  # fmt: skip


@pytest.mark.parametrize("wrong", CLOSINGS, ids=str)
@pytest.mark.parametrize("face", [sync, aio], ids=["sync", "aio"])
def test_a_server_that_is_closed_by_mistake_goes_on(face: Any, wrong: tuple[Any, ...]) -> None:
    def echo(conn: sync.Conn) -> None:
        for message in conn:
            conn.send(message)

    async def echoes(conn: aio.Conn) -> None:
        async for message in conn:
            await conn.send(message)

    async def served() -> None:
        async with aio.Server(echoes, HERE) as server:
            url = f"ws://{HERE}:{server.address[1]}"
            async with aio.dial(url, proxy=None) as before:
                with pytest.raises((TypeError, ValueError)):
                    await server.close(*wrong)
                async with aio.dial(url, proxy=None) as after:
                    for conn in (before, after):
                        await conn.send("unharmed")
                        assert await conn.recv(timeout=5) == "unharmed"
        with pytest.raises((TypeError, ValueError)):
            await server.close(*wrong)

    if face is aio:
        return asyncio.run(served())
    with sync.Server(echo, HERE) as server:
        url = f"ws://{HERE}:{server.address[1]}"
        with sync.dial(url, proxy=None) as before:
            with pytest.raises((TypeError, ValueError)):
                server.close(*wrong)
            with sync.dial(url, proxy=None) as after:
                for conn in (before, after):
                    conn.send("unharmed")
                    assert conn.recv(timeout=5) == "unharmed"
    with pytest.raises((TypeError, ValueError)):
        server.close(*wrong)


@pytest.mark.parametrize(
    "wrong", [{"timeout": "5"}, {"timeout": NAN}, {"timeout": -1.0}, {"slow": "no"}]
)
def test_a_broadcast_with_a_mistake_reaches_nobody(wrong: dict[str, Any]) -> None:
    with sync_pair() as (client, server):
        with pytest.raises((TypeError, ValueError)):
            sync.broadcast([server], "lost", **wrong)
        server.send("first")
        assert client.recv(timeout=5) == "first"

    async def talk() -> str | bytes:
        async with aio_pair() as (client, server):
            with pytest.raises((TypeError, ValueError)):
                await aio.broadcast([server], "lost", **wrong)
            await server.send("first")
            return await client.recv(timeout=5)

    assert asyncio.run(talk()) == "first"


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
