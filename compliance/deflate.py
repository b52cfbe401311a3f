"""Try permessage-deflate with real servers, clients and proxies, and write down what they do.

Each server is dialed by Koko and each client dials a Koko server, on both faces, with several
settings of ``Compression``. A relay between the two keeps the heads and the frames. What was said
is echoed and compared: small and large messages, and three alike in a row, which shows whether a
compressor remembers. Everything is written to docs/deflate.md when all peers are here; those that
are missing are named, and are an error with KOKO_REQUIRE_ALL=1. A peer that does not open with
``compression=True``, or from which a message comes back changed, makes the exit status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

import koko.aio
import koko.sync
from koko import Request, Response
from outcomes import SETTINGS, Outcome, Row, Setting, render
from peers.catalog import BROWSER, CLIENTS, FOLDER, SERVERS, Missing, Peer
from peers.proxies import PROXIES, Proxy
from peers.said import talk, talk_async
from ports import free_port
from relay import HERE, Relay

PAGE = FOLDER.parent.parent / "docs" / "deflate.md"
STARTUP = 30.0  # seconds until a server must accept connections
PATIENCE = 10.0  # seconds for one conversation
REQUIRE_ALL = os.environ.get("KOKO_REQUIRE_ALL", "") not in ("", "0")

# Processes


@contextmanager
def running(command: Sequence[str], env: dict[str, str] | None = None) -> Iterator[None]:
    with subprocess.Popen(
        command,
        cwd=FOLDER.parent,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            yield
        finally:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):  # the session is ours: it and its helpers
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def await_port(port: int, name: str) -> None:
    give_up_at = time.monotonic() + STARTUP
    while time.monotonic() < give_up_at:
        with suppress(OSError):
            socket.create_connection((HERE, port)).close()
            return
        time.sleep(0.05)
    raise RuntimeError(f"{name} does not listen")


@contextmanager
def started(peer: Peer) -> Iterator[int]:
    port = free_port()
    with running(peer.command(str(port)), peer.env):
        await_port(port, peer.name)
        yield port


@contextmanager
def in_front_of(port: int, proxy: Proxy | None) -> Iterator[int]:
    """Give the port of a proxy that passes on to ``port``, or that port where there is none."""
    if proxy is None:
        yield port
        return
    with TemporaryDirectory() as folder:
        front = free_port()
        with running(proxy.command(Path(folder), front, port)):
            await_port(front, proxy.name)
            yield front


# Koko dials


def dial_sync(url: str, setting: Setting) -> None:
    with koko.sync.dial(url, compression=setting, proxy=None) as conn:
        talk(conn.send, lambda: conn.recv(timeout=PATIENCE))


def dial_aio(url: str, setting: Setting) -> None:
    async def main() -> None:
        async with koko.aio.dial(url, compression=setting, proxy=None) as conn:
            await talk_async(conn.send, lambda: conn.recv(timeout=PATIENCE))

    asyncio.run(main())


DIAL: dict[str, Callable[[str, Setting], None]] = {"sync": dial_sync, "aio": dial_aio}


def dialed(port: int, face: str, setting: Setting) -> Outcome:
    error = ""
    with Relay(port) as relay:
        try:
            DIAL[face](f"ws://{HERE}:{relay.port}/", setting)
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
        return Outcome.of(relay.heard, error)


def version_of(peer: Peer, proxy: Proxy | None) -> str:
    """Return the version of what a row is about.

    Raises:
        Missing: one of them is not here.
    """
    version = peer.version()
    return proxy.version() if proxy else version


def examine_server(peer: Peer, proxy: Proxy | None = None) -> Row:
    version = version_of(peer, proxy)
    with started(peer) as behind, in_front_of(behind, proxy) as port:
        return Row(
            f"{peer.name} behind {proxy.name}" if proxy else peer.name,
            peer.note,
            version,
            {
                name: {face: dialed(port, face, setting) for face in DIAL}
                for name, setting in SETTINGS.items()
            },
        )


# Koko serves


class Site:
    """Answers what is no WebSocket: the page for a browser, and what that tells of its outcome."""

    def __init__(self) -> None:
        self.told = threading.Event()
        self.error = ""

    def __call__(self, request: Request) -> Response:
        if request.path == "/told":
            self.error = request.query
            self.told.set()
            return Response(204)
        name = request.path.lstrip("/") or "page.html"
        kind = "text/javascript" if name == "talk.mjs" else "text/html; charset=utf-8"
        file = FOLDER / name
        if name not in ("page.html", "talk.mjs"):
            return Response(404)
        return Response(200, file.read_bytes(), {"Content-Type": kind})


@contextmanager
def serving_sync(setting: Setting, site: Site) -> Iterator[int]:
    def echo(conn: koko.sync.Conn) -> None:
        for message in conn:
            conn.send(message)

    upgrader = koko.sync.Upgrader(compression=setting, origins="*")
    with koko.sync.Server(echo, HERE, 0, http=site, upgrader=upgrader) as server:
        yield int(server.address[1])


@contextmanager
def serving_aio(setting: Setting, site: Site) -> Iterator[int]:
    async def echo(conn: koko.aio.Conn) -> None:
        async for message in conn:
            await conn.send(message)

    async def main() -> None:
        upgrader, done = koko.aio.Upgrader(compression=setting, origins="*"), asyncio.Event()
        async with koko.aio.Server(echo, HERE, 0, http=site, upgrader=upgrader) as server:
            loop = asyncio.get_running_loop()
            told.put((int(server.address[1]), lambda: loop.call_soon_threadsafe(done.set)))
            await done.wait()

    told: SimpleQueue[tuple[int, Callable[[], object]]] = SimpleQueue()
    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    port, stop = told.get(timeout=STARTUP)
    yield port
    stop()
    thread.join()


SERVING = {"sync": serving_sync, "aio": serving_aio}


def served(peer: Peer, proxy: Proxy | None, face: str, setting: Setting) -> Outcome:
    site = Site()
    with (
        SERVING[face](setting, site) as behind,
        Relay(behind) as relay,
        in_front_of(relay.port, proxy) as port,
    ):
        command = peer.command(f"ws://{HERE}:{port}/")
        error = browse(command, peer, site) if peer is BROWSER else call(command, peer)
        return Outcome.of(relay.heard, error)


def call(command: Sequence[str], peer: Peer) -> str:
    done = subprocess.run(
        command,
        cwd=FOLDER.parent,
        env=peer.env,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return (done.stderr.splitlines() or ["failed"])[-1] if done.returncode else ""


def browse(command: Sequence[str], peer: Peer, site: Site) -> str:
    with running(command, peer.env):
        return site.error if site.told.wait(PATIENCE) else "the page told nothing"


def examine_client(peer: Peer, proxy: Proxy | None = None) -> Row:
    return Row(
        f"{peer.name} through {proxy.name}" if proxy else peer.name,
        peer.note,
        version_of(peer, proxy),
        {
            name: {face: served(peer, proxy, face, setting) for face in SERVING}
            for name, setting in SETTINGS.items()
        },
    )


# All of them


def examinations() -> Iterator[tuple[str, bool, Callable[[], Row]]]:
    websockets = SERVERS[0], next(peer for peer in CLIENTS if peer.name == "websockets")
    for peer in SERVERS:
        yield f"server {peer.name}", True, partial(examine_server, peer)
    for proxy in PROXIES:
        yield f"server behind {proxy.name}", True, partial(examine_server, websockets[0], proxy)
    for peer in CLIENTS:
        yield f"client {peer.name}", False, partial(examine_client, peer)
    for proxy in PROXIES:
        yield f"client through {proxy.name}", False, partial(examine_client, websockets[1], proxy)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", metavar="WORDS", help="peers whose name has these")
    only = parser.parse_args().only
    rows: dict[bool, list[Row]] = {True: [], False: []}
    missing: list[str] = []
    complaints: list[str] = []
    for name, is_server, examine in examinations():
        if only.lower() not in name.lower():
            continue
        try:
            row = examine()
        except Missing as error:
            missing.append(f"{name} is not here: {error}")
            continue
        except (RuntimeError, subprocess.SubprocessError) as error:
            complaints.append(f"{name}: {error}")
            continue
        rows[is_server].append(row)
        complaints += row.complaints
        print(f"{name}: {' '.join(row.of(setting).word for setting in SETTINGS)}", flush=True)
    print("\n".join([*missing, *complaints]))
    if not (only or missing or complaints):
        PAGE.write_text(render(rows[True], rows[False]))
        print(f"written to {PAGE.relative_to(FOLDER.parent.parent)}")
    return 1 if complaints or (missing and REQUIRE_ALL) else 0


if __name__ == "__main__":
    sys.exit(main())
