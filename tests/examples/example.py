"""Runs a file of examples/ as a user does: a process of its own, stopped by Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE = 60  # seconds for a process to end
LIFETIME = 600  # seconds after which a process that was not stopped has hung


@contextmanager
def example(
    name: str, *arguments: str, port: int = 0, refuses: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """Run an example until the block is left; SIGINT must then end it cleanly, silently, soon.

    One that ``refuses`` an origin says so in a line.
    """
    process = start(name, *arguments, port=port)
    alive_too_long = threading.Timer(LIFETIME, process.kill)  # whoever reads from it reads EOF
    alive_too_long.start()
    try:
        yield process
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        said = "".join(line for line in complaints.splitlines() if ": 403: origin " not in line)
        assert (said, bool(complaints)) == ("", refuses), complaints
    finally:
        alive_too_long.cancel()
        process.kill()
        process.communicate()


def start(name: str, *arguments: str, port: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PORT": str(port)},
    )


@contextmanager
def serving(name: str, *arguments: str, port: int = 0, refuses: bool = False) -> Iterator[str]:
    """Run an example that serves, as ``example`` does; yields the address it announces."""
    with example(name, *arguments, port=port, refuses=refuses) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.search(r"(?:http|ws)://[\d.]+:\d+", line)
        assert address, f"{name} said {line!r}"
        yield address[0]
