"""Each server as a process of its own, so that it is what its users run."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

import pytest
import trustme

ROOT = Path(__file__).parent.parent.parent
OWN = f"127.{os.getpid() >> 8 & 255}.{os.getpid() & 255}.103"  # a port free here stays free
PATIENCE = 10.0  # seconds after which a test has failed; nothing waits so long
STARTUP = 60.0  # and for another program to start or to end: its imports alone take seconds of work

GUNICORN = [
    "-m", "gunicorn", "tests.adapters.site:application", "--bind", "127.0.0.1:0",
    "--threads", "8", "--graceful-timeout", "1", "--worker-tmp-dir", "/dev/shm",
]  # fmt: skip
COMMANDS = {
    "gthread": [*GUNICORN, "--worker-class", "gthread"],
    "gevent": [*GUNICORN, "--worker-class", "gevent"],
    "pywsgi": ["-m", "gevent.monkey", "--module", "tests.adapters.site", "pywsgi"],
    "unpatched": ["-m", "tests.adapters.site", "pywsgi"],
}
FOREIGN = {
    "werkzeug": pytest.mark.integration("werkzeug"),
    "gthread": pytest.mark.integration("gunicorn"),
    "gevent": pytest.mark.integration("gunicorn", "gevent"),
    "pywsgi": pytest.mark.integration("gevent"),
}
PORT = re.compile(r"(?:^|Listening at: \w+://127\.0\.0\.1:)(\d+)")


def each(*names: str) -> Iterator[Any]:
    """Yield the names of servers as parameters, those of others marked with what they need."""
    for name in names:
        mark = FOREIGN.get(name.partition("+")[0])
        yield pytest.param(name, marks=[mark] if mark else [])


@dataclass
class Site:
    """A running server."""

    name: str
    port: int
    tls: ssl.SSLContext | None
    log: Path
    host: str = "127.0.0.1"

    def url(self, path: str) -> str:
        return f"ws{'s' if self.tls else ''}://{self.host}:{self.port}{path}"

    def connect(self) -> socket.socket:
        raw = socket.create_connection((self.host, self.port), timeout=PATIENCE)
        return self.tls.wrap_socket(raw, server_hostname="127.0.0.1") if self.tls else raw

    def state(self, path: str = "/state") -> dict[str, Any]:
        """What its process holds, asked by plain HTTP."""
        opener = build_opener(ProxyHandler({}), HTTPSHandler(context=self.tls))
        scheme = "https" if self.tls else "http"
        with opener.open(f"{scheme}://{self.host}:{self.port}{path}", timeout=PATIENCE) as answer:
            told: dict[str, Any] = json.load(answer)
        return told

    def waits_for(self, **wanted: object) -> None:
        """Ask until the process holds no more than it should."""
        give_up_at = time.monotonic() + PATIENCE
        while (told := self.state()) != wanted:
            assert time.monotonic() < give_up_at, f"{self.name} holds {told}, expected {wanted}"


def said(process: subprocess.Popen[bytes], log: Path, wanted: re.Pattern[str]) -> str:
    """Wait until a process has said what is wanted, and return the group in it."""
    give_up_at = time.monotonic() + STARTUP
    while not (found := wanted.search(log.read_text())):
        assert process.poll() is None, f"it ended with {process.returncode}: {log.read_text()}"
        assert time.monotonic() < give_up_at, f"it never said {wanted.pattern}: {log.read_text()}"
        time.sleep(0.01)
    return found[1]


def stop(process: subprocess.Popen[bytes]) -> None:
    """Tell a process to end, and wait until it has; it does not outlive its test."""
    process.terminate()
    try:
        process.wait(STARTUP)
    finally:
        process.kill()
        process.wait()


@contextmanager
def serving(name: str, log: Path, authority: trustme.CA | None = None) -> Iterator[Site]:
    server, _, secure = name.partition("+")
    command, environment = [*COMMANDS.get(server, ["-m", "tests.adapters.site", server])], {}
    tls = None
    if secure:
        assert authority is not None
        certificate, key = log.with_suffix(".pem"), log.with_suffix(".key")
        issued = authority.issue_cert("localhost", "127.0.0.1")
        issued.private_key_and_cert_chain_pem.write_to_path(str(certificate))
        issued.private_key_pem.write_to_path(str(key))
        environment = {"SITE_CERT": str(certificate), "SITE_KEY": str(key)}
        if "gunicorn" in command:
            command += ["--certfile", str(certificate), "--keyfile", str(key)]
        tls = ssl.create_default_context()
        authority.configure_trust(tls)
    with log.open("w") as complaints:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
            stdout=complaints,
            stderr=complaints,
        )
    try:
        yield Site(name, int(said(process, log, PORT)), tls, log)
    finally:
        stop(process)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()
