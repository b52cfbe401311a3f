"""Real proxies as processes: proxy.py for CONNECT, pproxy for SOCKS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from compliance.ports import free_port
from tests.dialing.conftest import HERE

PATIENCE = 60.0

# It prefers uvloop, and then asks for a loop where there is none.
PPROXY = """
import asyncio, sys
sys.modules["uvloop"] = None
asyncio.set_event_loop(asyncio.new_event_loop())
from pproxy.server import main
main()
"""


@contextmanager
def connect_proxy(folder: Path, *options: str) -> Iterator[int]:
    """Run a CONNECT proxy and give its port."""
    pytest.importorskip("proxy")
    told = folder / "port"
    command = [sys.executable, "-m", "proxy", "--hostname", HERE, "--port", "0"]
    few = ["--num-workers", "1", "--num-acceptors", "1", "--log-level", "e"]
    with running([*command, "--port-file", str(told), *few, *options]) as process:
        patience = time.monotonic() + PATIENCE
        while not (told.exists() and told.read_text().strip()):
            assert process.poll() is None
            assert time.monotonic() < patience, "the proxy never said its port"
            time.sleep(0.02)
        yield int(told.read_text().split()[0])


@contextmanager
def socks_proxy(credentials: str = "") -> Iterator[int]:
    """Run a SOCKS proxy, 4 and 5, and give its port."""
    pytest.importorskip("pproxy")
    port = free_port()
    listen = f"socks4+socks5://{HERE}:{port}" + (f"#{credentials}" if credentials else "")
    with running([sys.executable, "-u", "-c", PPROXY, "-l", listen, "--auth", "0"]) as process:
        assert process.stdout is not None
        assert "Serving on" in process.stdout.readline()
        yield port


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    try:
        yield process
    finally:
        # With its own processes, and at once: asked to end, proxy.py takes most of a second.
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=PATIENCE)
