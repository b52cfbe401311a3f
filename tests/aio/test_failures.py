"""Whatever application code raises, the connection ends and somebody is told; we go on."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from koko import CloseError, HandshakeError, Request, Response
from koko.aio import Conn, Server, Upgrader, dial, serve
from koko.core.wire import Role
from tests.aio.conftest import FACTORIES, LoopFactory, Memory, echo, handshake, raw, run, url

pytestmark = pytest.mark.usefixtures("loop_factory")

HERE = "127.0.0.1"
CLOSE_1011 = b"\x88\x02\x03\xf3"


class Stop(BaseException):
    """As pytest.fail's is, and other people's."""


# Made anew for each test: what was raised holds the frames that it went through.


@pytest.fixture(params=["class", "group"])
def error(request: pytest.FixtureRequest) -> BaseException:
    """What is no Exception and is kept by a task."""
    stop = Stop("ours")
    return stop if request.param == "class" else BaseExceptionGroup("ours", [stop])


@pytest.fixture(params=[SystemExit, KeyboardInterrupt])
def fatal(request: pytest.FixtureRequest) -> BaseException:
    """What ends the loop when it leaves a task."""
    ending: BaseException = request.param("ours")
    return ending


async def cancels_its_own(*args: object) -> None:
    """Fail on a task that it has cancelled itself."""
    task = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    task.cancel()
    await task


def raises(error: BaseException) -> Callable[..., Awaitable[None]]:
    async def handler(*args: object) -> None:
        raise error

    return handler


async def ended_with_1011(server: Server) -> None:
    async with raw(server) as client:
        client.says(handshake())
        await client.hears_head()
        assert await client.reader.readexactly(4) == CLOSE_1011
        client.says(b"\x88\x82\0\0\0\0\x03\xf3")
        assert await client.hears_all() == b""
    assert server.connections == set()


# Handlers


async def test_handler_may_raise_what_is_no_exception(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    async with Server(raises(error), HERE, max_connections=1) as server:
        for _ in range(2):  # it leaves no place taken
            await ended_with_1011(server)
    assert "failed" in caplog.text
    assert "ours" in caplog.text


async def test_handler_that_fails_on_a_task_it_cancelled_itself_has_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Server(cancels_its_own, HERE) as server:
        await ended_with_1011(server)
    assert "CancelledError" in caplog.text


async def test_handler_that_somebody_cancels_is_no_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Server(echo, HERE) as server, raw(server) as client:
        client.says(handshake())
        await client.hears_head()
        (task,) = server._clients.handlers.values()
        assert task is not None
        task.cancel()
        assert await client.hears_all() == b""
    assert caplog.text == ""


async def test_http_may_raise_what_is_no_exception(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def at_once(request: Request) -> Response:
        raise error

    for http in (at_once, raises(error), cancels_its_own):
        async with Server(echo, HERE, http=http) as server, raw(server) as client:
            client.says("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await client.hears_all()).startswith(b"HTTP/1.1 500 ")
    assert caplog.text.count("could not answer /") == 3


async def test_http_that_upgrades_is_a_handler(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    for fail in (raises(error), cancels_its_own):

        async def http(request: Request, fail: Any = fail) -> None:
            await Upgrader().upgrade(request)
            await fail()

        async with Server(None, HERE, http=http) as server:
            await ended_with_1011(server)
    assert caplog.text.count("failed") >= 2


async def test_upgrader_that_is_asked_may_raise_what_is_no_exception(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def check(request: Request) -> bool:
        if "Origin" in request.headers:
            raise error
        return True

    async with Server(echo, HERE, upgrader=Upgrader(check_origin=check)) as server:
        async with raw(server) as client:
            client.says(handshake("Origin: http://other.example"))
            assert (await client.hears_all()).startswith(b"HTTP/1.1 500 ")
        async with dial(url(server), proxy=None) as another:
            await another.send("still there")
            assert await another.recv() == "still there"


# Control handlers


@pytest.mark.parametrize("kind", ["ping", "pong"])
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "coroutine"])
async def test_what_a_control_handler_raises_ends_the_connection_and_is_raised_to_the_receiver(
    error: BaseException, kind: str, plain: bool
) -> None:
    def at_once(payload: bytes) -> None:
        raise error

    memory = Memory()
    setattr(memory.conn, f"{kind}_handler", at_once if plain else raises(error))
    receiving = asyncio.create_task(memory.conn.recv())
    await asyncio.sleep(0)
    memory.peer.says("1 000 1001" if kind == "ping" else "1 000 1010", b"payload")
    with pytest.raises(type(error), match="ours"):
        await receiving
    assert memory.conn.ending is error
    memory.conn.abort()


async def test_what_a_close_handler_raises_is_the_end(error: BaseException) -> None:
    def at_once(code: int, reason: str) -> None:
        raise error

    memory = Memory(Role.SERVER)
    memory.conn.close_handler = at_once
    memory.peer.closes(1000)
    with pytest.raises(type(error), match="ours"):
        await memory.conn.recv()
    assert memory.line.written == CLOSE_1011


async def test_control_handler_that_fails_on_a_cancellation_cancels_no_receiver() -> None:
    def at_once(payload: bytes) -> None:
        cancelled = asyncio.get_running_loop().create_future()
        cancelled.cancel()
        cancelled.result()

    for handler in (at_once, cancels_its_own):
        memory = Memory()
        memory.conn.ping_handler = handler
        receiving = asyncio.create_task(memory.conn.recv())
        await asyncio.sleep(0)
        memory.peer.says("1 000 1001")
        with pytest.raises(RuntimeError, match="but its task was not cancelled") as raised:
            await receiving
        assert isinstance(raised.value.__cause__, asyncio.CancelledError)
        memory.conn.abort()


async def test_control_handler_whose_task_somebody_cancels_is_no_failure() -> None:
    memory = Memory()
    begun = asyncio.Event()

    async def for_ever(payload: bytes) -> None:
        begun.set()
        await asyncio.get_running_loop().create_future()

    memory.conn.ping_handler = for_ever
    memory.peer.says("1 000 1001")
    await begun.wait()
    assert memory.protocol._handler_tasks is not None
    (task,) = memory.protocol._handler_tasks.running
    task.cancel()
    await asyncio.wait([task])
    assert memory.conn.ending is None
    memory.conn.abort()


# What ends the loop


def test_what_ends_the_loop_leaves_the_peer_with_1011(
    fatal: BaseException, loop_factory: LoopFactory, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[bytes] = []

    async def served() -> None:
        async with Server(raises(fatal), HERE) as server, raw(server) as client:
            client.says(handshake())
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                await client.hears_head()
                heard.append(await client.reader.readexactly(4))
                client.says(b"\x88\x82\0\0\0\0\x03\xf3")

    with pytest.raises(type(fatal), match="ours"):
        run(loop_factory, served())
    assert heard == [CLOSE_1011]
    assert "handler of" in caplog.text


def test_what_ends_the_loop_ends_it_out_of_a_receiver(
    fatal: BaseException, loop_factory: LoopFactory
) -> None:
    ended: list[BaseException | None] = []

    async def received() -> None:
        memory = Memory(Role.SERVER)

        async def receive() -> None:
            await memory.conn.recv()
            await memory.conn.send("owed")
            raise fatal

        waiting = asyncio.create_task(memory.conn.wait_closed())
        receiving = asyncio.create_task(receive())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(memory.says, "message")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            assert memory.line.written == b"\x81\x04owed"
            memory.conn.abort()
            await asyncio.wait([waiting, receiving])
            ended.append(memory.conn.ending)

    with pytest.raises(type(fatal), match="ours"):
        run(loop_factory, received())
    assert isinstance(ended[0], CloseError)


async def test_sys_exit_in_a_control_handler_is_raised_to_the_receiver() -> None:
    memory = Memory()
    memory.conn.ping_handler = lambda payload: sys.exit("ours")
    memory.peer.says("1 000 1001")
    await asyncio.sleep(0)
    with pytest.raises(SystemExit, match="ours"):
        await memory.conn.recv()
    memory.conn.abort()


# What is called beside


async def test_what_on_start_raises_stops_the_server() -> None:
    servers: list[Server] = []

    def on_start(server: Server) -> None:
        servers.append(server)
        raise Stop

    with pytest.raises(Stop):
        await serve(echo, HERE, on_start=on_start)
    assert [sock for sock in servers[0].sockets if sock.fileno() >= 0] == []


async def test_codecs_of_the_application_harm_nothing(error: BaseException) -> None:
    def fail(value: Any) -> str:
        raise error

    async with Server(echo, HERE) as server, dial(url(server), proxy=None) as conn:
        with pytest.raises(type(error)):
            await conn.write_json({}, encoder=fail)
        await conn.send("{}")
        with pytest.raises(type(error)):
            await conn.read_json(decoder=fail)
        await conn.send("after")
        assert await conn.recv() == "after"


class Failing(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise Stop(record.getMessage())


@pytest.fixture
def failing_log() -> Any:
    logger = logging.Logger("failing", logging.INFO)
    logger.addHandler(Failing())
    return logger


def test_log_handler_that_fails_harms_no_connection(
    failing_log: logging.Logger, loop_factory: LoopFactory
) -> None:
    complaints: list[BaseException] = []

    async def served() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, said: complaints.append(said["exception"]))
        server = Server(raises(ValueError()), HERE, logger=failing_log, max_connections=1)
        async with server:
            await ended_with_1011(server)
            async with raw(server) as client, raw(server) as at_the_door:
                client.says("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await client.hears_all()).startswith(b"HTTP/1.1 426 ")
                at_the_door.says(handshake())
                assert (await at_the_door.hears_all()).startswith(b"HTTP/1.1 503 ")

    run(loop_factory, served())
    assert complaints
    assert {type(error) for error in complaints} == {Stop}


# Tasks that begin where they are made


each_factory = pytest.mark.parametrize("factory", FACTORIES)


@each_factory
async def test_http_task_that_upgrades_is_counted_and_closed(factory: Any) -> None:
    async def http(request: Request) -> None:
        async with Upgrader().upgrade(request) as conn:
            await echo(conn)

    asyncio.get_running_loop().set_task_factory(factory)
    async with Server(None, HERE, http=http, max_connections=1) as server:
        async with dial(url(server), proxy=None) as conn:
            assert len(server.connections) == 1
            await conn.send("x")
            assert await conn.recv() == "x"
            with pytest.raises(HandshakeError, match="503"):
                await dial(url(server), proxy=None)
            assert len(asyncio.all_tasks()) == 2  # this one, and the one that it asks
            await server.close(timeout=5)
            with pytest.raises(CloseError) as raised:
                await conn.recv()
            assert raised.value.code == 1001
        assert server.connections == set()


@each_factory
async def test_handlers_are_counted_and_closed_from_their_first_step(factory: Any) -> None:
    counted: list[int] = []

    async def stay(conn: Conn) -> None:
        counted.append(len(server.connections))
        await conn.send("hello")
        await echo(conn)

    async def leave(conn: Conn) -> None:
        counted.append(len(server.connections))

    async def close(conn: Conn) -> None:
        counted.append(len(server.connections))
        await server.close(timeout=5)

    asyncio.get_running_loop().set_task_factory(factory)
    async with Server(stay, HERE) as server, dial(url(server), proxy=None) as conn:
        assert await conn.recv() == "hello"
        await server.close(timeout=5)
        with pytest.raises(CloseError) as raised:
            await conn.recv()
        assert raised.value.code == 1001
    for handler, code in ((leave, 1000), (close, 1001)):
        async with Server(handler, HERE) as server, dial(url(server), proxy=None) as conn:
            with pytest.raises(CloseError) as raised:
                await conn.recv()
            assert raised.value.code == code
        while server.connections:  # one that closes its own server is not waited for
            await asyncio.sleep(0)
    assert counted == [1, 1, 1]


@each_factory
async def test_failing_tasks_are_seen_off_whenever_they_begin(
    factory: Any, error: BaseException
) -> None:
    asyncio.get_running_loop().set_task_factory(factory)
    async with Server(raises(error), HERE) as server:
        await ended_with_1011(server)
    async with Server(None, HERE, http=raises(error)) as server, raw(server) as client:
        client.says("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.hears_all()).startswith(b"HTTP/1.1 500 ")
