"""Runs `koko serve` as a process of its own and looks at it from outside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Served:
    """A running server: where it listens, and how much memory it holds."""

    host: str
    port: int
    process: subprocess.Popen[str]

    @property
    def resident(self) -> int:
        """Bytes of resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found, status
        return int(found[1]) << 10


@contextmanager
def served(*options: str, verb: str = "echo", **environment: str) -> Iterator[Served]:
    """Serve on a free port until the block is left; the server must then stop cleanly."""
    process = subprocess.Popen(
        [sys.executable, "-m", "koko", "serve", verb, "--port", "0", "--quiet", *options],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        found = re.search(r"listening on wss?://(.+):(\d+)", line)
        assert found, f"the server said {line!r}"
        yield Served(found[1], int(found[2]), process)
        process.terminate()
        assert process.wait(20) == 0, "the server did not stop cleanly"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
