"""Our own transport beside the loop's: whoever stands on one sees no difference."""

from __future__ import annotations

import asyncio
import encodings.idna  # noqa: F401 - connecting loads it, for which a test leaves no descriptor
import errno
import gc
import os
import resource
import socket
import struct
import weakref
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from koko.aio import Server, dial
from koko.errors import CloseError
from koko.message import Kind
from tests.aio.conftest import echo, url

pytestmark = pytest.mark.usefixtures("loop_factory")

MUCH = 1 << 23  # bytes, more than a pair of sockets holds

native: Any
try:
    from koko.aio import _native_transport as native
except ImportError:
    native = None

Attach = Callable[[socket.socket, asyncio.Protocol], Awaitable[Any]]


class Heard(asyncio.Protocol):
    """Writes down what its transport tells it."""

    transport: Any

    def __init__(self) -> None:
        self.octets = bytearray()
        self.told: list[str] = []
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.news = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.octets += data
        self.news.set()

    def eof_received(self) -> bool:
        self.told.append("eof")
        self.news.set()
        return True

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")
        self.news.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set_result(error)

    async def until(self, seen: Callable[[], bool]) -> None:
        while not seen():
            self.news.clear()
            await self.news.wait()


async def our_own(sock: socket.socket, protocol: asyncio.Protocol) -> None:
    native.attach(sock, protocol)


async def adopted(sock: socket.socket, protocol: asyncio.Protocol) -> None:
    sock.setblocking(False)
    transport = native.adopt(sock.detach())
    transport.set_protocol(protocol)
    protocol.connection_made(transport)


async def the_loops(sock: socket.socket, protocol: asyncio.Protocol) -> None:
    await asyncio.get_running_loop().create_connection(lambda: protocol, sock=sock)


@pytest.fixture
def ours() -> Any:
    """The native transport, whichever codec is in use."""
    if native is None:
        pytest.skip("the native transport was not built here")
    return native


@pytest.fixture(params=["ours", "ours, adopted", "the loop's"])
def attach(request: pytest.FixtureRequest) -> Attach:
    if request.param == "the loop's":
        return the_loops
    request.getfixturevalue("ours")
    return our_own if request.param == "ours" else adopted


@pytest.fixture
def pair() -> Any:
    """Two connected TCP sockets, the second one blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    far.settimeout(10)
    with near, far:
        yield near, far


async def opened(attach: Attach, sock: socket.socket) -> Heard:
    heard = Heard()
    await attach(sock, heard)
    return heard


async def taken(far: socket.socket, size: int = MUCH) -> bytes:
    """Read up to ``size`` bytes in a thread, fewer at the end of the stream."""

    def read() -> bytes:
        octets = bytearray()
        while len(octets) < size and (piece := far.recv(1 << 20)):
            octets += piece
        return bytes(octets)

    return await asyncio.to_thread(read)


async def ended(heard: Heard) -> None:
    heard.transport.abort()
    await heard.lost


async def test_what_comes_is_handed_on(attach: Attach, pair: Any) -> None:
    near, far = pair
    heard = await opened(attach, near)
    far.sendall(b"hello")
    await heard.until(lambda: heard.octets == b"hello")
    await ended(heard)


async def test_nothing_is_read_while_it_is_paused(attach: Attach, pair: Any) -> None:
    near, far = pair
    heard = await opened(attach, near)
    heard.transport.pause_reading()
    far.sendall(b"later")
    await asyncio.to_thread(far.sendall, b"!")
    for _ in range(5):
        await asyncio.sleep(0)
    assert heard.octets == b""
    heard.transport.resume_reading()
    await heard.until(lambda: heard.octets == b"later!")
    await ended(heard)


async def test_what_has_no_room_is_kept_and_the_writer_asked_to_pause(
    attach: Attach, pair: Any
) -> None:
    near, far = pair
    heard = await opened(attach, near)
    sent = bytes(range(256)) * (MUCH // 256)
    heard.transport.write(sent[: MUCH // 2])
    heard.transport.write(sent[MUCH // 2 :])
    assert heard.told == ["pause"]
    assert heard.transport.get_write_buffer_size() > 1 << 16
    assert await taken(far) == sent
    await heard.until(lambda: heard.told == ["pause", "resume"])
    assert heard.transport.get_write_buffer_size() == 0
    await ended(heard)


async def test_close_waits_until_everything_is_written(attach: Attach, pair: Any) -> None:
    near, far = pair
    heard = await opened(attach, near)
    heard.transport.write(bytes(MUCH))
    heard.transport.close()
    assert heard.transport.is_closing()
    assert not heard.lost.done()
    assert len(await taken(far, MUCH + 1)) == MUCH
    assert await heard.lost is None


async def test_abort_drops_what_is_unsent(attach: Attach, pair: Any) -> None:
    near, far = pair
    heard = await opened(attach, near)
    heard.transport.write(bytes(MUCH))
    heard.transport.abort()
    assert await heard.lost is None
    assert len(await taken(far, MUCH + 1)) < MUCH


async def test_our_half_ends_behind_what_is_unsent(attach: Attach, pair: Any) -> None:
    near, far = pair
    heard = await opened(attach, near)
    assert heard.transport.can_write_eof()
    heard.transport.write(bytes(MUCH))
    heard.transport.write_eof()
    assert len(await taken(far, MUCH + 1)) == MUCH
    far.sendall(b"still heard")
    await heard.until(lambda: heard.octets == b"still heard")
    await ended(heard)


async def test_end_of_the_peers_half_is_told_once_and_ours_goes_on(
    attach: Attach, pair: Any
) -> None:
    near, far = pair
    heard = await opened(attach, near)
    far.shutdown(socket.SHUT_WR)
    await heard.until(lambda: heard.told == ["eof"])
    heard.transport.write(b"still written")
    assert await taken(far, 13) == b"still written"
    await ended(heard)
    assert heard.told == ["eof"]


async def test_a_reset_is_told_as_what_it_is(attach: Attach, pair: Any) -> None:
    near, far = pair
    heard = await opened(attach, near)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    assert isinstance(await heard.lost, ConnectionResetError)


async def test_addresses_are_known_after_the_end_on_ours(ours: Any, pair: Any) -> None:
    near, _ = pair
    names = near.getsockname(), near.getpeername()
    heard = await opened(our_own, near)
    await ended(heard)
    known = [heard.transport.get_extra_info(name) for name in ("sockname", "peername")]
    assert (*known,) == names
    assert heard.transport.get_extra_info("socket") is None
    assert heard.transport.get_extra_info("sslcontext") is None


async def test_a_protocol_that_fails_ends_its_own_connection_only(ours: Any, pair: Any) -> None:

    class Fails(Heard):
        def data_received(self, data: bytes) -> None:
            raise LookupError("cannot")

    complaints: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, complaint: complaints.append(complaint))
    near, far = pair
    fails = Fails()
    await our_own(near, fails)
    far.sendall(b"?")
    assert isinstance(await fails.lost, LookupError)
    loop.set_exception_handler(before)
    assert [str(complaint["exception"]) for complaint in complaints] == ["cannot"]


async def test_who_is_let_go_of_without_a_close_is_told(ours: Any, pair: Any) -> None:
    near, _ = pair
    held = [await opened(our_own, near)]
    held[0].transport.pause_reading()  # nobody watches it: nothing else holds it
    with pytest.warns(ResourceWarning, match="unclosed transport"):  # noqa: PT031
        held.clear()
        gc.collect()


async def test_every_address_of_a_server_is_as_python_writes_it(ipv6: str) -> None:
    seen: list[Any] = []

    async def look(conn: Any) -> None:
        seen.append((conn.local_address, conn.remote_address))

    async with Server(look, ["127.0.0.1", ipv6]) as server:
        for sock in server.sockets:
            host, port = sock.getsockname()[:2]
            name = f"[{host}]" if ":" in host else host
            async with dial(f"ws://{name}:{port}/") as conn:
                await conn.wait_closed()
            assert seen.pop() == (conn.remote_address, conn.local_address)


async def test_a_server_on_all_interfaces_tells_the_address_of_each_connection() -> None:
    seen: list[Any] = []

    async def look(conn: Any) -> None:
        seen.append(conn.local_address)

    async with Server(look, "0.0.0.0") as server, dial(url(server)) as conn:
        await conn.wait_closed()
    assert seen == [conn.remote_address]


async def test_a_server_on_a_unix_socket_serves(tmp_path: Path) -> None:
    path = str(tmp_path / "koko")
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    async with Server(echo, sock=sock) as server:
        async with dial("ws://localhost/", unix=path) as conn:
            await conn.send("hello")
            assert await conn.recv() == "hello"
            assert conn.remote_address == path
        assert server.connections == set()


async def test_want_of_descriptors_is_told_and_survived(ours: Any) -> None:
    wants: list[OSError] = []
    accepted: list[Heard] = []
    loop = asyncio.get_running_loop()

    def accept() -> Heard:
        accepted.append(Heard())
        return accepted[-1]

    listener = ours.Listener(socket.create_server(("127.0.0.1", 0)), accept, wants.append)
    client = socket.socket()
    client.setblocking(False)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as first_free:
        limit = first_free.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        await loop.sock_connect(client, listener.sockets[0].getsockname())
        while not wants:
            await asyncio.sleep(0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert accepted == []
    listener._resume()  # what a timer does in a second
    while not accepted:
        await asyncio.sleep(0)
    assert [want.errno for want in wants] == [errno.EMFILE]
    client.close()
    listener.close()
    await ended(accepted[0])


class Blind(asyncio.SelectorEventLoop):
    """A loop that can watch no descriptors of ours, as the one of Windows."""

    def add_reader(self, *args: Any) -> None:
        raise NotImplementedError


def test_a_loop_that_watches_no_descriptors_brings_its_own_transports() -> None:
    async def talk() -> None:
        async with Server(echo, "127.0.0.1") as server, dial(url(server)) as conn:
            await conn.send("hello")
            assert await conn.recv() == "hello"

    with asyncio.Runner(loop_factory=Blind) as runner:
        runner.run(talk())


told: ContextVar[str] = ContextVar("told", default="nothing")


async def test_a_handler_runs_in_the_context_its_server_was_started_in() -> None:
    seen: list[str] = []

    async def look(conn: Any) -> None:
        conn.ping_handler = lambda payload: seen.append(told.get())
        async for _ in conn:
            seen.append(told.get())

    told.set("when it was started")
    async with Server(look, "127.0.0.1") as server:
        told.set("by whoever dials")
        async with dial(url(server)) as conn:
            await conn.write_control(Kind.PING, b"look")
            await conn.send("look")
    assert seen == ["when it was started"] * 2


def test_what_a_handler_sets_is_not_there_for_the_next_connection() -> None:
    seen: list[str] = []

    async def look(conn: Any) -> None:
        def on_ping(payload: bytes) -> None:
            seen.append(told.get())
            told.set("another's secret")

        conn.ping_handler = on_ping
        async for _ in conn:
            pass

    async def talk() -> None:
        async with Server(look, "127.0.0.1") as server:
            for _ in range(2):
                async with dial(url(server)) as conn:
                    await conn.write_control(Kind.PING, b"look")

    asyncio.run(talk())
    assert seen == ["nothing"] * 2


async def test_who_sends_on_and_on_learns_that_the_peer_is_gone() -> None:
    ended: list[BaseException] = []

    async def flood(conn: Any) -> None:
        try:
            while True:
                await conn.send(bytes(100))
        except CloseError as error:
            ended.append(error)

    async with Server(flood, "127.0.0.1") as server:
        conn = await dial(url(server))
        sock = conn.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await conn.recv()
        conn.abort()
        while server.connections:
            await asyncio.sleep(0)
    assert ended


class Ahead(asyncio.SelectorEventLoop):
    """A loop whose clock is its own."""

    def time(self) -> float:
        return super().time() + 1000.0


def test_a_loop_with_a_clock_of_its_own_is_timed_by_that() -> None:
    async def talk() -> None:
        async with Server(echo, "127.0.0.1") as server, dial(url(server)) as conn:
            assert 0 <= await conn.ping() < 100

    with asyncio.Runner(loop_factory=Ahead) as runner:
        runner.run(talk())


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
async def test_one_that_is_adopted_has_its_addresses(
    ours: Any, family: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if family == socket.AF_INET6:
        request.getfixturevalue("ipv6")
    here = {socket.AF_INET: ("127.0.0.1", 0), socket.AF_INET6: ("::1", 0, 0, 0)}
    with socket.socket(family) as listener, socket.socket(family) as far:
        listener.bind(here.get(family, str(tmp_path / "socket")))
        listener.listen()
        far.connect(listener.getsockname())
        near, _ = listener.accept()
        near.setblocking(False)
        names = (near.getsockname(), near.getpeername())
        transport = ours.adopt(near.detach())
        assert tuple(map(transport.get_extra_info, ("sockname", "peername"))) == names
        transport.abort()
        await asyncio.sleep(0)


async def test_one_that_cannot_be_adopted_is_closed(ours: Any) -> None:
    alone = socket.socket()
    fd = alone.detach()
    with pytest.raises(OSError, match="not connected"):
        ours.adopt(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_loop_that_ends_with_something_open_takes_it_along(ours: Any) -> None:
    async def forget() -> weakref.ref[asyncio.AbstractEventLoop]:
        near, far = socket.socketpair()
        ours.attach(near, Heard())
        kept.append(far)
        return weakref.ref(asyncio.get_running_loop())

    kept: list[socket.socket] = []
    with pytest.warns(ResourceWarning):  # noqa: PT031
        loop = asyncio.run(forget())
        gc.collect()
    assert loop() is None
    assert kept[0].recv(1) == b""
    kept[0].close()


async def test_a_connection_that_the_kernel_ends_is_an_ordinary_error_to_the_reader() -> None:
    async with Server(echo, "127.0.0.1") as server:
        conn = await dial(url(server))
        (theirs,) = server.connections
        sock = theirs.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.abort()
        with pytest.raises(CloseError, match="reset"):
            await conn.recv()


async def test_nothing_is_written_into_what_has_the_number_of_a_closed_socket() -> None:
    async with Server(echo, "127.0.0.1") as server:
        given = socket.create_connection(server.address)
        number = given.fileno()
        conn = await dial(url(server), sock=given)
        given.close()
        lent = conn.transport.get_extra_info("socket")
        assert lent.getpeername() == conn.remote_address
        is_ours = type(conn.transport).__module__.startswith("koko.")
        if is_ours:
            lent._sock.close()
            os.close(lent._sock.detach())
            assert lent.fileno() == number  # it is still ours
        ours, theirs = socket.socketpair()
        with ours, theirs:
            await conn.send("a secret")
            assert await conn.recv() == "a secret"
            for end in (ours, theirs):
                end.setblocking(False)
                with pytest.raises(BlockingIOError):
                    end.recv(1)
        await conn.close()
    if is_ours:
        with pytest.raises(OSError, match="Bad file descriptor"):
            lent.getpeername()


async def test_a_listener_accepts_whatever_becomes_of_the_socket_it_was_given(ours: Any) -> None:
    given = socket.create_server(("127.0.0.1", 0))
    address = given.getsockname()
    accepted: list[Heard] = []
    listener = ours.Listener(given, lambda: accepted.append(Heard()) or accepted[-1], print)
    given.close()
    near, far = socket.socketpair()  # has its number now
    with near, far:
        _, writer = await asyncio.open_connection(*address)
        writer.close()
        await writer.wait_closed()
        while not accepted:
            await asyncio.sleep(0)
        await ended(accepted[0])
        listener.close()
        near.sendall(b"whole")
        assert far.recv(9) == b"whole"
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)


async def test_a_protocol_that_cannot_be_made_costs_its_own_connection_only(ours: Any) -> None:
    made: list[Heard] = []

    def make() -> Heard:
        if not made:
            made.append(Heard())
            raise LookupError("cannot")
        made.append(Heard())
        return made[-1]

    loop = asyncio.get_running_loop()
    complaints: list[str] = []
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, complaint: complaints.append(complaint["message"]))
    listener = ours.Listener(socket.create_server(("127.0.0.1", 0)), make, print)
    address = listener.sockets[0].getsockname()
    reader, writer = await asyncio.open_connection(*address)
    assert await reader.read() == b""
    _, other = await asyncio.open_connection(*address)
    while len(made) < 2:
        await asyncio.sleep(0)
    loop.set_exception_handler(before)
    assert complaints == ["accept() failed"]
    for each in (writer, other):
        each.close()
        await each.wait_closed()
    listener.close()
    await made[1].until(lambda: made[1].told == ["eof"])
    await ended(made[1])
