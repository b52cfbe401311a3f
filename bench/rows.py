"""The table: which work is measured, who does it, and how far ahead Koko is to be.

Only data. How a row is measured is in ``rig``, how it is shown in ``report`` and ``picture``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Goal(NamedTuple):
    """How many times less than a peer Koko should spend; a stretch is hoped for, not promised."""

    times: float
    stretch: bool = False

    def __str__(self) -> str:
        return f"{'stretch ' if self.stretch else ''}≥ {self.times:g}x"


class Server(NamedTuple):
    """A server to start: one of ``servers``, or ``limit`` (in C), or ``gorilla`` (in Go)."""

    peer: str
    work: str = "echo"
    deflate: bool = False
    tls: bool = False
    codec: str = "native"
    read_limit: int = 1 << 20
    loop: str = "uvloop"


class Entry(NamedTuple):
    """One line of a row.

    Attributes:
        label: who is measured.
        server: what has to run meanwhile.
        program: what is run against it: arguments of ``load``, or ``client`` and a name.
        goal: how far ahead of this one Koko is to be.
    """

    label: str
    server: Server
    program: tuple[str, ...]
    goal: Goal | None = None


@dataclass(frozen=True)
class Row:
    """One kind of work. The first entry is Koko's own, the others are compared with it.

    Attributes:
        name: for ``--only``.
        title: what is done.
        entries: who does it.
        figure: what is compared, less being better: ``cpu_us``, ``p50_us`` or ``kb``.
        what: that figure in words.
        growth: every entry is Koko's own, under growing load; nothing is compared.
    """

    name: str
    title: str
    entries: tuple[Entry, ...]
    figure: str
    what: str
    growth: bool = False

    def rounds(self, wanted: int) -> int:
        """How many rounds to make: where nothing is compared, three are enough."""
        return min(wanted, 3) if self.growth else wanted

    @property
    def fresh(self) -> bool:
        """Whether every turn needs a fresh server."""
        return self.figure == "kb"


Peers = dict[str, Goal | None]
AIO = Server("koko.aio")
SYNC = Server("koko.sync")
ASGI = Server("uvicorn+koko")
LIMIT = Server("limit")
MESSAGE = ("cpu_us", "µs of server CPU a message")
DELIVERY = ("cpu_us", "µs of server CPU a delivery")
HANDSHAKE = ("cpu_us", "µs of server CPU a handshake")
MEMORY = ("kb", "KB of memory a connection")
ROUND_TRIP = ("p50_us", "µs there and back, median")
WHOLE_ANSWER = ("p50_us", "µs until both are here, median")


def _against(
    name: str,
    title: str,
    load: str,
    ours: Server,
    peers: Peers,
    figure: tuple[str, str] = MESSAGE,
) -> Row:
    program = tuple(load.split())
    entries = tuple(
        Entry(peer, ours._replace(peer=peer), program, goal)
        for peer, goal in {ours.peer: None, **peers}.items()
    )
    return Row(name, title, entries, *figure)


def _clients(name: str, title: str, ours: str, peers: Peers) -> Row:
    entries = tuple(
        Entry(client, LIMIT, ("client", client), goal)
        for client, goal in {ours: None, **peers}.items()
    )
    return Row(name, title, entries, *ROUND_TRIP)


def _growing(name: str, title: str, load: str, steps: dict[str, int], ours: Server) -> Row:
    entries = tuple(
        Entry(label, ours, tuple(load.format(step).split())) for label, step in steps.items()
    )
    return Row(name, title, entries, *MESSAGE, growth=True)


ROWS = (
    _against(
        "echo",
        "echo: 64 connections, 256 B",
        "echo --conns 64",
        AIO,
        {
            "picows": Goal(1.0),
            "picows.websockets": Goal(1.25),
            "gorilla": Goal(1.0),
            "socketify": None,
            "aiohttp": None,
            "websockets": None,
            "limit": None,
        },
    ),
    _against(
        "burst",
        "burst: 16 connections, 256 B, 16 in flight on each",
        "echo --conns 16 --depth 16",
        AIO,
        {
            "socketify": Goal(4.0),
            "picows": Goal(5.0),
            "picows.websockets": Goal(4.0),
            "gorilla": Goal(4.0),
            "aiohttp": Goal(4.0),
            "websockets": Goal(4.0),
            "limit": None,
        },
    ),
    _against(
        "large",
        "large: 4 connections, 1,000,000 B binary",
        "echo --conns 4 --size 1000000",
        AIO,
        {
            "picows.websockets": Goal(1.0),
            "picows": Goal(1.0, stretch=True),
            "gorilla": None,
            "aiohttp": None,
            "websockets": None,
            "limit": None,
        },
    ),
    _against(
        "sync",
        "echo on threads: 64 connections, 256 B",
        "echo --conns 64",
        SYNC,
        {"websockets.sync": Goal(3.5), "limit": None},
    ),
    _clients(
        "client",
        "one asyncio client: 256 B there and back",
        "koko.aio",
        {
            "picows": Goal(1.0),
            "picows.websockets": Goal(1.0),
            "aiohttp": Goal(1.0),
            "websockets": Goal(1.0),
        },
    ),
    _clients(
        "client-sync",
        "one client on a thread: 256 B there and back",
        "koko.sync",
        {
            "websockets.sync": Goal(1.0),
            "koko.aio": Goal(1.0),
            "picows": Goal(1.0),
            "picows.websockets": Goal(1.0),
        },
    ),
    _against(
        "handshake",
        "handshake: 32 at a time, opened and closed",
        "handshake --conns 32",
        AIO,
        {
            "picows": Goal(2.5),
            "gorilla": Goal(1.0, stretch=True),
            "socketify": None,
            "aiohttp": None,
            "websockets": None,
            "limit": None,
        },
        HANDSHAKE,
    ),
    _against(
        "idle",
        "idle: 2,000 connections (stretch: 4 KB each)",
        "idle --conns 2000",
        AIO,
        {"aiohttp": Goal(2.0), "websockets": None, "picows": None},
        MEMORY,
    ),
    _against(
        "idle-deflate",
        "idle, compressed: 1,000 connections",
        "idle --conns 1000 --text --file {json}",
        AIO._replace(deflate=True),
        {"aiohttp": None, "websockets": None, "picows.websockets": None, "gorilla": None},
        MEMORY,
    ),
    _against(
        "idle-sync",
        "idle on threads: 1,000 connections",
        "idle --conns 1000",
        SYNC,
        {"websockets.sync": Goal(2.0)},
        MEMORY,
    ),
    _against(
        "broadcast",
        "broadcast: to 500 connections, 256 B",
        "broadcast --conns 500",
        AIO._replace(work="broadcast"),
        {
            "gorilla": Goal(1.0),
            "socketify": None,
            "picows": None,
            "picows.websockets": None,
            "websockets": None,
        },
        DELIVERY,
    ),
    _against(
        "broadcast-deflate",
        "broadcast, compressed: to 500 connections, 256 B",
        "broadcast --conns 500",
        AIO._replace(work="broadcast", deflate=True),
        {"gorilla": Goal(1.0), "picows.websockets": None, "websockets": None},
        DELIVERY,
    ),
    _against(
        "deflate",
        "deflate: 16 connections, 16 KB of JSON text",
        "echo --conns 16 --text --file {json}",
        AIO._replace(deflate=True),
        {
            "picows.websockets": Goal(1.5),
            "aiohttp": Goal(1.5),
            "websockets": Goal(1.5),
            "gorilla": None,
        },
    ),
    _against(
        "tls",
        "echo over TLS: 64 connections, 256 B",
        "echo --conns 64",
        AIO._replace(tls=True),
        {"picows": Goal(1.0), "picows.websockets": None, "aiohttp": None, "gorilla": None},
    ),
    _against(
        "tls-large",
        "large over TLS: 4 connections, 1,000,000 B binary",
        "echo --conns 4 --size 1000000",
        AIO._replace(tls=True),
        {"picows": Goal(1.0), "picows.websockets": None, "gorilla": None},
    ),
    _against(
        "writes",
        "an answer in two small writes: 1 connection, 64 B",
        "twice --size 64",
        AIO._replace(work="twice"),
        {"picows": None, "picows.websockets": None, "aiohttp": None, "websockets": None},
        WHOLE_ANSWER,
    ),
    _against(
        "tls-writes",
        "the same over TLS, on asyncio's own loop",
        "twice --size 64",
        AIO._replace(work="twice", tls=True, loop="asyncio"),
        {"picows": None, "picows.websockets": None, "aiohttp": None, "websockets": None},
        WHOLE_ANSWER,
    ),
    _against(
        "sync-tls-writes",
        "the same over TLS, on threads",
        "twice --size 64",
        SYNC._replace(work="twice", tls=True),
        {"websockets.sync": None},
        WHOLE_ANSWER,
    ),
    _against(
        "pure",
        "echo without native code: 64 connections, 256 B",
        "echo --conns 64",
        AIO._replace(codec="pure"),
        {"websockets-pure": Goal(1.3)},
    ),
    _against(
        "asgi-echo",
        "ASGI in uvicorn, echo: 64 connections, 256 B",
        "echo --conns 64",
        ASGI,
        {"uvicorn+websockets": Goal(2.2), "uvicorn+wsproto": None},
    ),
    _against(
        "asgi-fastapi",
        "FastAPI in uvicorn, echo: 64 connections, 256 B binary",
        "echo --conns 64",
        ASGI._replace(work="fastapi"),
        {"uvicorn+websockets": Goal(1.0), "uvicorn+wsproto": None},
    ),
    _against(
        "asgi-burst",
        "ASGI in uvicorn, burst: 16 connections, 256 B, 16 in flight on each",
        "echo --conns 16 --depth 16",
        ASGI,
        {"uvicorn+websockets": Goal(3.5), "uvicorn+wsproto": None},
    ),
    _against(
        "asgi-deflate",
        "ASGI in uvicorn, deflate: 16 connections, 16 KB of JSON text",
        "echo --conns 16 --text --file {json}",
        ASGI._replace(deflate=True),
        {"uvicorn+websockets": Goal(2.5), "uvicorn+wsproto": None},
    ),
    _against(
        "asgi-large",
        "ASGI in uvicorn, large: 4 connections, 1,000,000 B binary",
        "echo --conns 4 --size 1000000",
        ASGI,
        {"uvicorn+websockets": Goal(1.0), "uvicorn+wsproto": None},
    ),
    _against(
        "asgi-handshake",
        "ASGI in uvicorn, handshake: 32 at a time, opened and closed",
        "handshake --conns 32",
        ASGI,
        {"uvicorn+websockets": Goal(1.0), "uvicorn+wsproto": None},
        HANDSHAKE,
    ),
    _against(
        "asgi-idle",
        "ASGI in uvicorn, idle: 2,000 connections",
        "idle --conns 2000",
        ASGI,
        {"uvicorn+websockets": Goal(2.0), "uvicorn+wsproto": None},
        MEMORY,
    ),
    _against(
        "asgi-idle-deflate",
        "ASGI in uvicorn, idle, compressed: 1,000 connections",
        "idle --conns 1000 --text --file {json}",
        ASGI._replace(deflate=True),
        {"uvicorn+websockets": Goal(2.0), "uvicorn+wsproto": None},
        MEMORY,
    ),
    _growing(
        "connections",
        "as connections grow: echo, 256 B",
        "echo --conns {}",
        {f"{n:,} connections": n for n in (10, 100, 1_000, 10_000)},
        AIO,
    ),
    _growing(
        "sizes",
        "as messages grow: echo, 4 connections",
        "echo --conns 4 --size {}",
        {
            "64 B": 64,
            "1 KiB": 1 << 10,
            "16 KiB": 16 << 10,
            "256 KiB": 256 << 10,
            "4 MiB": 4 << 20,
            "16 MiB": 16 << 20,
        },
        AIO._replace(read_limit=16 << 20),
    ),
)
