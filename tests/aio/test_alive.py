"""Who is alive, over real TCP and every TLS there is: ours, the loops', aiofastnet's.

Keepalive looks at our own system's queues here, so the seconds are real; all kinds of
connection go through them side by side.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from typing import Any

import pytest

import koko.aio.transport as transports
from koko import CloseError
from koko.aio import Conn, Server, Upgrader, broadcast, dial, reconnect
from koko.hung_up import was_reset
from koko.reconnecting import Backoff
from tests.aio.conftest import PATIENCE
from tests.relay import Relay, relay

pytestmark = pytest.mark.usefixtures("loop_factory")

Keepalive = dict[str, float | None]

KEPT: Keepalive = {"ping_interval": 0.4, "ping_timeout": 0.4}
DEAD = 0.8  # both together
# For a peer that must live, though it or the relay may get no turn of a busy machine for long.
SLOWLY: Keepalive = {"ping_interval": 1.0, "ping_timeout": 2.0}
SLOWLY_DEAD = 3.0
NEVER: Keepalive = {"ping_interval": None}
BIG, RATE = bytes(6_000_000), 900_000  # more than a system takes at once; 6.7 s

Tls = tuple[ssl.SSLContext, ssl.SSLContext]
Ends = tuple[Conn, Conn, Relay]
Scene = Callable[[Conn, Conn, Relay], Awaitable[None]]

KINDS = [
    ("client", "plain"),
    ("client", "TLS"),
    ("client", "TLS in TLS"),
    ("server", "plain"),
    ("server", "TLS"),
    ("server", "TLS of the loop"),  # not aiofastnet's
]


@pytest.fixture
def tls(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> Tls:
    return server_tls, client_tls


@asynccontextmanager
async def ends(
    who: str,
    how: str,
    tls: Tls,
    rate: float | None,
    keepalive: Keepalive,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Ends]:
    """Yield us, who keep the connection alive, the peer, and the relay between them."""
    served: asyncio.Queue[Conn] = asyncio.Queue()
    options: dict[str, Any] = {"read_limit": None, "close_timeout": 30}
    silent, kept = {**options, **NEVER}, {**options, **keepalive}

    async def handle(conn: Conn) -> None:
        served.put_nowait(conn)
        await conn.wait_closed()

    for_server, for_client = (kept, silent) if who == "server" else (silent, kept)
    ours, theirs = (None, None) if how == "plain" else tls
    server = Server(handle, "127.0.0.1", upgrader=Upgrader(**for_server), ssl=ours)
    with monkeypatch.context() as patch:
        if how == "TLS of the loop":
            patch.setattr(transports, "aiofastnet", None)
        await server.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.close)
        on_the_way = way(how, server.address, tls[0], rate)
        address, proxy, between = await stack.enter_async_context(on_the_way)
        url = f"{'ws' if how == 'plain' else 'wss'}://127.0.0.1:{address[1]}/"
        client = await dial(url, ssl=theirs, proxy=proxy, **for_client)
        both = client, await served.get()
        us, peer = both if who == "client" else both[::-1]
        try:
            yield us, peer, between
        finally:
            us.abort()
            peer.abort()


@asynccontextmanager
async def way(
    how: str, server: tuple[str, int], context: ssl.SSLContext, rate: float | None
) -> AsyncIterator[tuple[tuple[str, int], str | None, Relay]]:
    """Yield where to dial, through which proxy, and the relay on the way."""
    if how != "TLS in TLS":
        with relay(server, rate) as between:
            yield between.address, None, between
        return
    tunnels: set[asyncio.Task[None]] = set()

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        there, onward = await asyncio.open_connection(*server)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for one, other in ((reader, onward), (there, writer)):
            tunnels.add(asyncio.create_task(pass_on(one, other)))

    proxy = await asyncio.start_server(tunnel, "127.0.0.1", ssl=context)
    with relay(proxy.sockets[0].getsockname(), rate) as between:
        yield server, f"https://127.0.0.1:{between.address[1]}", between
    proxy.close()
    await asyncio.wait(tunnels)


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while octets := await reader.read(1 << 16):
            writer.write(octets)
            await writer.drain()
    writer.transport.abort()


async def on_every_kind(
    tls: Tls,
    monkeypatch: pytest.MonkeyPatch,
    scene: Scene,
    rate: float | None = None,
    keepalive: Keepalive = KEPT,
) -> None:
    async def play(who: str, how: str) -> None:
        try:
            async with ends(who, how, tls, rate, keepalive, monkeypatch) as scenery:
                await scene(*scenery)
        except Exception as error:
            error.add_note(f"as {who}, {how}")
            raise

    async with asyncio.TaskGroup() as group:
        for kind in KINDS:
            group.create_task(play(*kind))


async def test_peer_that_takes_a_large_message_slowly_is_alive(
    tls: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(us: Conn, peer: Conn, between: Relay) -> None:
        begun = time.monotonic()
        await us.send(BIG)
        assert await peer.recv() == BIG
        assert time.monotonic() - begun > 2 * SLOWLY_DEAD
        await peer.send("all of it")
        assert await us.recv() == "all of it"

    await on_every_kind(tls, monkeypatch, scene, RATE, SLOWLY)


async def test_dead_peer_is_noticed_in_time_by_receiver_pinger_and_writer_and_left_at_once(
    tls: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = time.monotonic()

    async def scene(us: Conn, peer: Conn, between: Relay) -> None:
        between.stop()
        waiting = [fill(us), us.recv(), us.ping()]
        for told in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(told, CloseError)
            assert told.code == 1006
        assert DEAD < time.monotonic() - opened < DEAD + PATIENCE
        begun = time.monotonic()
        await us.close(timeout=6 * PATIENCE)
        assert time.monotonic() - begun < PATIENCE

    await on_every_kind(tls, monkeypatch, scene)


async def fill(conn: Conn) -> None:
    while True:
        await conn.send(BIG)


async def test_peer_held_to_be_dead_finds_the_reason_when_it_wakes(
    tls: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(us: Conn, peer: Conn, between: Relay) -> None:
        between.stop()
        with pytest.raises(CloseError, match="no answer to a ping within 0.4 s, last heard"):
            await us.recv()
        await us.wait_closed(timeout=PATIENCE)
        between.go_on()
        with pytest.raises(CloseError) as raised:
            await peer.recv()
        assert (raised.value.code, raised.value.reason) == (1011, "keepalive ping timeout")

    await on_every_kind(tls, monkeypatch, scene)


async def test_reconnecting_client_dials_at_once_after_a_death(
    tls: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transports, "aiofastnet", None)
    silent = Upgrader(ping_interval=None)
    async with Server(hold, "127.0.0.1", upgrader=silent, ssl=tls[0]) as server:
        with relay(server.address) as between:
            url = f"wss://127.0.0.1:{between.address[1]}/"
            options: dict[str, Any] = {"backoff": Backoff(base=0.01), "close_timeout": 60, **KEPT}
            connections, died_at = reconnect(url, ssl=tls[1], proxy=None, **options), 0.0
            async with aclosing(connections):
                async for conn in connections:
                    if died_at:
                        break
                    between.stop()
                    with pytest.raises(CloseError, match="no answer to a ping"):
                        await conn.recv()
                    died_at = time.monotonic()
                    between.go_on()
            assert time.monotonic() - died_at < PATIENCE


async def hold(conn: Conn) -> None:
    await conn.wait_closed()


@pytest.mark.parametrize("own", [False, True], ids=["fast", "own"])
async def test_server_that_closes_is_not_held_up_by_a_client_that_never_spoke(
    tls: Tls, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    if own:
        monkeypatch.setattr(transports, "aiofastnet", None)
    server = Server(hold, "127.0.0.1", upgrader=Upgrader(handshake_timeout=60), ssl=tls[0])
    await server.start()
    with relay(server.address) as between:
        _, writer = await asyncio.open_connection(
            "127.0.0.1", between.address[1], ssl=tls[1], server_hostname="127.0.0.1"
        )
        while not server._clients.handshakes:  # it has its half of TLS a little later
            await asyncio.sleep(0.01)
        between.stop()
        begun = time.monotonic()
        await server.close(timeout=0.2)
        while server._clients.handshakes:
            await asyncio.sleep(0.01)
        assert time.monotonic() - begun < PATIENCE
        between.go_on()
        writer.transport.abort()


async def test_close_that_nobody_answers_takes_its_timeout_on_every_kind(
    tls: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(us: Conn, peer: Conn, between: Relay) -> None:
        between.stop()
        await us.send(BIG)
        begun = time.monotonic()
        await us.close(timeout=0.3)
        assert 0.25 < time.monotonic() - begun < PATIENCE  # close_timeout is 30 s

    await on_every_kind(tls, monkeypatch, scene, keepalive=NEVER)


async def test_nothing_is_said_of_what_is_sent_to_a_peer_that_has_just_reset(
    tls: Tls, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(us: Conn, peer: Conn, between: Relay) -> None:
        between.reset()
        give_up_at = time.monotonic() + PATIENCE
        while not was_reset(transports.descriptor_of(us.transport)):
            assert time.monotonic() < give_up_at
        for _ in range(20):  # the loop has not run since, and does not know of it
            await broadcast([us], "news")
            with suppress(CloseError):
                await us.send("news")
        await us.wait_closed(PATIENCE)

    await on_every_kind(tls, monkeypatch, scene)
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []
