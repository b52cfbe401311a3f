"""An application of a framework in uvicorn, on Koko's class, started as its users start it.

Whatever the framework lets through, that Koko serves is seen from outside: a handshake of another
version of WebSockets is refused in Koko's words, before the application is asked.
"""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.request import ProxyHandler, build_opener

import pytest

from koko import ErrBadHandshake
from koko.sync import Conn, dial
from tests.adapters.conftest import PATIENCE, said
from tests.adapters.test_servers import UPGRADE
from tests.adapters.uvicorn_server import CLASS, RUNNING, started

HERE = Path(__file__).parent  # the applications are here, or on a page of docs/
OLD = UPGRADE.replace(b"Version: 13", b"Version: 8")


@dataclass
class Served:
    """A running application, and its clients."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    _conns: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._conns.close()

    def url(self, path: str, scheme: str = "ws") -> str:
        return f"{scheme}://127.0.0.1:{self.port}{path}"

    def dial(self, path: str, **options: Any) -> Conn:
        return self._conns.enter_context(dial(self.url(path), proxy=None, **options))

    def refused(self, path: str, **options: Any) -> ErrBadHandshake:
        with pytest.raises(ErrBadHandshake) as error:
            self.dial(path, **options)
        return error.value

    def get(self, path: str) -> str:
        """Return what a page says."""
        opener = build_opener(ProxyHandler({}))
        with opener.open(self.url(path, "http"), timeout=PATIENCE) as answer:
            return str(answer.read().decode())

    def comes(self, path: str, *wanted: str) -> None:
        """Wait until a page says one of these."""
        give_up_at = time.monotonic() + PATIENCE
        while not any(text in (page := self.get(path)) for text in wanted):
            assert time.monotonic() < give_up_at, f"{page!r} has none of {wanted}"
            time.sleep(0.01)

    def says(self, wanted: str) -> str:
        """Wait until the process has said what is wanted, and return the group in it."""
        return said(self.process, self.log, re.compile(wanted))


def is_koko(port: int) -> bool:
    """Tell whether Koko answers handshakes here."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as raw:
        raw.sendall(OLD % (b"/", b""))
        return b"expected '13' (RFC 6455" in raw.makefile("rb").read()


@contextmanager
def serving(
    folder: Path,
    app: str,
    *options: str,
    log: Path,
    ws: str = CLASS,
    failures: int = 0,
    **environment: str,
) -> Iterator[Served]:
    """Run ``uvicorn APP --ws koko.uvicorn:Protocol`` in a folder, with so many failures of it."""
    command = ["-m", "uvicorn", app, "--port", "0", "--ws", ws, *options]
    with started(log, *command, folder=folder, wait_for=RUNNING, **environment) as (process, port):
        with Served(process, int(port), log) as served:
            assert is_koko(served.port)
            yield served
    text = log.read_text()
    assert text.count("Exception in ASGI application") == failures, text
    assert ("Traceback" in text) is bool(failures), text
