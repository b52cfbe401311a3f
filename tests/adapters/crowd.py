"""Invariant: whatever a crowd of clients does, uvicorn with Koko holds nothing of it afterwards.

Clients come in waves. All of a wave are connected at once, each has exchanged a message, and
then they leave in every way of ``crowd_visitors``: with a Close, without one, in the middle of a
handshake, of a frame, of what the application sends. When a wave is over no task, no descriptor,
no object of a connection and no line of the log may be left, and the next one may not cost more
memory. The last wave stays: the server is told to stop while all talk, and each must hear 1012
within ``KOKO_SHUTDOWN_TIMEOUT``.

    python -m tests.adapters.crowd [--connections 24000] [--at-once 8000] [OPTION OF UVICORN ...]

A process may have some thousands of descriptors, so two processes visit, each from an address of
its own, and there are more waves than one.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.adapters.conftest import ROOT, Site
from tests.adapters.uvicorn_server import CLASS, started

APP = "tests.adapters.crowd_site:app"
ADDRESSES = ("127.0.0.1", "127.0.0.2")
PING = 3.0  # seconds, and as many to wait for the answer
PATIENCE = 300.0  # seconds after which a wave has failed; nothing waits so long
SHUTDOWN = 3.0  # seconds: the bound of the goodbye
SLACK = 10.0  # seconds that a busy machine may take beyond it
GROWTH = 1.01  # what the last wave may leave of memory, times what the first has left
LEFT = ("tasks", "descriptors", "objects")
# What the log may say: how handshakes were answered, and the life of the server.
SAID = re.compile(
    r"INFO: .*(\[accepted\]|WebSocket /refuse\" 403"
    r"|server process|Uvicorn running|[Ss]hutting down|Waiting for)"
)


class Failure(Exception):
    """What must not be."""


class Crowd:
    """Two processes of visitors."""

    def __init__(self, port: int, count: int, *options: str) -> None:
        program = [sys.executable, "-m", "tests.adapters.crowd_visitors", str(port)]
        self._processes = [
            subprocess.Popen(
                [*program, address, str(share), *options],
                cwd=ROOT,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for address, share in zip(ADDRESSES, (count // 2, count - count // 2), strict=True)
        ]

    def wait_until_open(self) -> None:
        for process in self._processes:
            assert process.stdout is not None
            if process.stdout.readline() != "open\n":
                raise Failure("not all could connect")

    def go(self) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()

    def result(self) -> int:
        """Wait until all are gone, and return how many there were."""
        visits = 0
        for process in self._processes:
            said = json.loads(process.communicate(timeout=PATIENCE)[0] or "{}")
            if process.returncode or said["wrong"]:
                raise Failure(f"visitors: {process.returncode} {said}")
            visits += said["visits"]
        return visits

    def kill(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()


@contextmanager
def crowd(port: int, count: int, *options: str) -> Iterator[Crowd]:
    visitors = Crowd(port, count, *options)
    try:
        visitors.wait_until_open()
        yield visitors
    finally:
        visitors.kill()


def asked(port: int, path: str) -> dict[str, Any]:
    return Site("uvicorn", port, None, Path()).state(path)


def wave(port: int, count: int, before: dict[str, Any]) -> dict[str, Any]:
    """Let a crowd come and go, and return what is left of it."""
    begun = time.monotonic()
    with crowd(port, count) as visitors:
        opened = time.monotonic()
        held = asked(port, "/census")
        visitors.go()
        visits = visitors.result()
    give_up_at = time.monotonic() + PATIENCE
    while any((left := asked(port, "/census"))[name] > before[name] for name in LEFT):
        if time.monotonic() > give_up_at:
            raise Failure(f"it holds {left}, before it held {before}")
        time.sleep(0.1)
    took = f"{opened - begun:.0f} s to open, {time.monotonic() - opened:.0f} s to leave"
    print(f"{visits} came and went, {took}\n  held {held}\n  left {left}", flush=True)
    return left


def told_to_stop(process: subprocess.Popen[bytes], port: int, count: int) -> None:
    """Stop the server while all talk: each hears 1012, and it ends within its bound."""
    with crowd(port, count, "--stay") as visitors:
        visitors.go()
        asked(port, "/census")
        process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        visitors.result()
        process.wait(PATIENCE)
        took = time.monotonic() - begun
    print(f"{count} heard 1012; the server ended after {took:.1f} s")
    if took > SHUTDOWN + SLACK:
        raise Failure(f"a server with a goodbye of {SHUTDOWN:g} s ended after {took:.1f} s")


def run(log: Path, connections: int, at_once: int, *options: str) -> None:
    """Let the crowd come, behind one client of each process.

    Raises:
        Failure: what must not be.
    """
    ping = ["--ws-ping-interval", str(PING), "--ws-ping-timeout", str(PING)]
    command = ["-m", "uvicorn", APP, "--port", "0", "--ws", CLASS, *ping, *options]
    command += ["--ws-max-size", "65536", "--lifespan", "off", "--no-access-log"]
    bound = {"KOKO_SHUTDOWN_TIMEOUT": str(SHUTDOWN), "KOKO_HANDSHAKE_TIMEOUT": "300"}
    with started(log, *command, **bound) as (process, said):
        port = int(said)
        left = wave(port, len(ADDRESSES), dict.fromkeys(LEFT, 1 << 20))
        blocks = []
        for first in range(0, connections, at_once):
            left = wave(port, min(at_once, connections - first), left)
            blocks.append(left["blocks"])
        print(f"the application was told {asked(port, '/ends')}")
        if blocks[-1] > GROWTH * blocks[0]:
            raise Failure(f"after each wave it held {blocks} blocks of memory")
        told_to_stop(process, port, at_once)
    if unknown := [line for line in log.read_text().splitlines() if not SAID.match(line)]:
        raise Failure(f"the log says {unknown[:20]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=24000)
    parser.add_argument("--at-once", type=int, default=8000)
    args, options = parser.parse_known_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as folder:
        try:
            run(log := Path(folder) / "log", args.connections, args.at_once, *options)
        except Failure as failure:
            print(f"FAILED: {failure}\nIts log ends with {log.read_text()[-2000:]}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
