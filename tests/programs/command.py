"""Runs the command `koko` as scripts do, and serves it something to dial."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from koko.sync import Conn, Server
from tests.programs.served import Served

PATIENCE = 60  # seconds
KOKO = (sys.executable, "-m", "koko")


def url(server: Served, scheme: str = "ws") -> str:
    return f"{scheme}://{server.host}:{server.port}/"


def koko(*arguments: str, stdin: str | bytes = "") -> subprocess.CompletedProcess[bytes]:
    """Run ``koko`` to its end."""
    given = stdin.encode() if isinstance(stdin, str) else stdin
    return subprocess.run(
        [*KOKO, *arguments], input=given, capture_output=True, timeout=PATIENCE, check=False
    )


def complaint(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return the one sentence with which a command failed."""
    sentences = done.stderr.decode().splitlines()
    assert (done.returncode, len(sentences)) == (1, 1), done
    assert sentences[0].startswith("koko: ")
    return sentences[0]


@contextmanager
def answering(handler: Callable[[Conn], object]) -> Iterator[str]:
    """Serve in this process; yields the URL."""
    with Server(handler, "127.0.0.1", 0) as server:
        yield "ws://{}:{}/".format(*server.address)
