"""Two connected ``Conn`` in memory, on both faces."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest

import koko.aio
import koko.sync
from koko import CloseError, ErrBadHandshake, Kind
from koko.testing import aio, sync
from tests.testing.frozen import run_in_no_time


def test_both_ends_talk() -> None:
    async def main() -> None:
        async with aio.pair() as (client, server):
            await client.send("there")
            assert await server.recv() == "there"
            await server.send(b"back")
            assert await client.recv() == b"back"
            await server.send("x" * 1_000_000)
            assert len(await client.recv()) == 1_000_000
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    with sync.pair() as (client, server):
        client.send("there")
        assert server.recv() == "there"
        server.send(b"back")
        assert client.recv() == b"back"
    assert "koko-pair" not in {thread.name for thread in threading.enumerate()}


def test_the_ends_are_what_dial_and_a_handler_get() -> None:
    offered: Any = {"subprotocols": ["soap", "chat"], "compression": True}

    async def main() -> None:
        upgrader = koko.aio.Upgrader(subprotocols=["chat"], compression=True)
        dialer = koko.aio.Dialer(**offered)
        headers = {"Cookie": "a=b"}
        async with aio.pair(upgrader, dialer, url="/room?x=1", headers=headers) as both:
            check(*both)

    def check(client: Any, server: Any) -> None:
        assert client.subprotocol == server.subprotocol == "chat"
        assert server.request.path == "/room"
        assert server.request.query == "x=1"
        assert server.request.headers["Cookie"] == "a=b"
        assert client.response.status == 101
        assert client.compression_level is not None

    asyncio.run(main())
    upgrader = koko.sync.Upgrader(subprotocols=["chat"], compression=True)
    with sync.pair(
        upgrader, koko.sync.Dialer(**offered), url="/room?x=1", headers={"Cookie": "a=b"}
    ) as both:
        check(*both)


def test_both_ends_are_closed_at_the_end_whatever_waits_unread() -> None:
    ending = "we closed with 1000 (normal); peer answered 1000"

    async def main() -> None:
        async with aio.pair() as (client, server):
            for _ in range(100):
                await client.send(bytes(1000))
                await server.send(bytes(1000))
        assert str(client.ending) == str(server.ending) == ending

    asyncio.run(main())
    with sync.pair() as (client, server):
        for _ in range(30):  # more would wait, since nobody reads
            client.send(bytes(1000))
            server.send(bytes(1000))
    assert str(client.ending) == str(server.ending) == ending


def test_a_request_may_be_refused() -> None:
    async def main() -> None:
        with pytest.raises(ErrBadHandshake, match="403"):
            async with aio.pair(dialer=koko.aio.Dialer(origin="https://evil.example")):
                pass
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    with (
        pytest.raises(ErrBadHandshake, match="403"),
        sync.pair(dialer=koko.sync.Dialer(origin="https://evil.example")),
    ):
        pass
    gc.collect()  # a socket that was left open would warn


def test_no_wait_lasts_for_ever() -> None:
    limit = "it was open for 0.1 s, the limit of pair"

    async def main() -> None:
        async with aio.pair(timeout=0.1) as (client, server):
            with pytest.raises(CloseError, match=limit):
                await client.recv()
            with pytest.raises(CloseError, match=limit):
                await server.ping()
            with pytest.raises(CloseError, match=limit):
                async for _ in server:
                    pass

    asyncio.run(main())
    with sync.pair(timeout=0.1) as (client, server):
        with pytest.raises(CloseError, match=limit):
            client.recv()
        with pytest.raises(CloseError, match=limit):
            for _ in server:
                pass
    with sync.pair(timeout=None) as (client, server):
        client.send("")
        assert server.recv() == ""


def test_an_error_of_the_block_is_raised_and_closes_with_1011() -> None:
    async def main() -> None:
        with pytest.raises(LookupError):
            async with aio.pair() as both:
                raise LookupError
        assert "1011" in str(both.server.ending)

    asyncio.run(main())
    with pytest.raises(LookupError), sync.pair() as both:
        raise LookupError
    assert "1011" in str(both.server.ending)


def test_a_block_that_failed_ends_at_once_whatever_waits_unread() -> None:
    # Both ends close: neither waits until the other has read what came before the Close.
    ending = "we closed with 1011 (internal server error); peer answered 1011"

    async def main() -> None:
        with pytest.raises(LookupError):
            async with aio.pair() as both:
                for conn in both:
                    await conn.send("nobody reads this")
                raise LookupError
        assert [str(conn.ending) for conn in both] == [ending, ending]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_in_no_time(main())
    with pytest.raises(LookupError), sync.pair() as both:
        for conn in both:
            conn.send("nobody reads this")
        raise LookupError
    assert [str(conn.ending) for conn in both] == [ending, ending]


def test_a_block_that_failed_ends_while_other_threads_wait() -> None:
    raised: list[BaseException] = []

    def wait(verb: Any) -> None:
        with pytest.raises(CloseError) as closed:
            while True:
                verb()
        raised.append(closed.value)

    with pytest.raises(LookupError), sync.pair() as (client, server):
        threads = [
            threading.Thread(target=wait, args=[lambda: client.send(bytes(10_000))]),
            threading.Thread(target=wait, args=[client.recv]),
        ]
        for thread in threads:
            thread.start()
        server.recv()
        raise LookupError
    for thread in threads:
        thread.join(10)
    assert len(raised) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, CloseError(1000, "")])
def test_a_block_that_was_interrupted_is_no_failure(error: Any) -> None:
    code = 1000 if isinstance(error, CloseError) else 1001

    async def main() -> None:
        try:
            async with aio.pair() as both:
                raise error
        except (KeyboardInterrupt, SystemExit, CloseError):
            assert str(code) in str(both.server.ending)

    asyncio.run(main())
    with pytest.raises((KeyboardInterrupt, SystemExit, CloseError)), sync.pair() as both:
        raise error
    assert str(code) in str(both.server.ending)


@pytest.mark.parametrize("option", ["check_origin", "select_subprotocol", "error"])
def test_a_function_of_the_upgrader_that_does_not_return_is_named(option: str) -> None:
    released = threading.Event()

    def hang(*_: object) -> Any:
        released.wait()

    options: dict[str, Any] = {option: hang}
    origin = "https://evil.example" if option == "error" else None
    dialer = koko.sync.Dialer(subprotocols=["chat"], origin=origin, handshake_timeout=None)
    named = r"hang\(\) did not return within 2 s: it is at .*/test_pair.py:[0-9]+, in hang\(\): "
    with pytest.raises(TimeoutError, match=named):
        with sync.pair(koko.sync.Upgrader(**options), dialer, timeout=2.0):
            pass
    released.set()


def test_a_handler_of_pings_that_does_not_return_ends_with_the_limit() -> None:
    released = threading.Event()
    with pytest.raises(TimeoutError, match="the server's end did not close within 2 s"):
        with sync.pair(timeout=2.0) as (client, server):

            def hang(payload: bytes) -> None:
                released.wait()

            server.ping_handler = hang
            client.write_control(Kind.PING)
    released.set()


def test_pairs_stand_in_each_other() -> None:
    async def main() -> None:
        async with aio.pair() as outer, aio.pair() as inner:
            await outer.client.send("outer")
            await inner.client.send("inner")
            assert await inner.server.recv() == "inner"
            assert await outer.server.recv() == "outer"

    asyncio.run(main())
    with sync.pair() as outer, sync.pair() as inner:
        outer.client.send("outer")
        inner.client.send("inner")
        assert inner.server.recv() == "inner"
        assert outer.server.recv() == "outer"


def test_what_needs_tls_or_the_other_face_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="nothing here speaks TLS"), sync.pair(url="wss://a/?key"):
        pass
    other: Any = koko.aio.Upgrader()
    with pytest.raises(TypeError, match=r"pair\(\) got upgrader=koko.aio"), sync.pair(other):
        pass

    async def main() -> None:
        other: Any = koko.sync.Dialer()
        with pytest.raises(TypeError, match=r"pair\(\) got dialer=koko.sync"):
            async with aio.pair(dialer=other):
                pass

    asyncio.run(main())
