"""The bench itself: programs built, servers started on one core, load run on the other.

Everything that touches the machine is here. ``rows`` says what is measured.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from rows import Entry, Row, Server

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build" / "bench"
JSON = BUILD / "sample.json"
CERT, KEY = BUILD / "cert.pem", BUILD / "key.pem"

STARTUP = 20.0  # seconds until a server must accept connections
PATIENCE = 60.0  # seconds a load may take beyond its own time

Figures = dict[str, float]


class Unavailable(Exception):
    """A program is not available on this machine; the text says why."""


class Failed(Exception):
    """A server or its load failed; the text says how."""


# What is built


def build() -> None:
    """Build what every run needs; what only some need is built when it is asked for."""
    BUILD.mkdir(parents=True, exist_ok=True)
    for name in ("load", "limit"):
        program(name)
    JSON.write_text(json.dumps([_record(chr(code)) for code in range(0xA1, 0x2278, 61)]))


def _record(letter: str) -> dict[str, object]:
    return {
        "code": ord(letter),
        "letter": letter,
        "name": unicodedata.name(letter, ""),
        "category": unicodedata.category(letter),
        "upper": letter.upper(),
        "bidirectional": unicodedata.bidirectional(letter),
    }


@cache
def program(name: str) -> Path:
    """Build a program, unless that was tried before, and return where it is."""
    builder: Callable[[Path], None] = {"load": _load, "limit": _limit, "gorilla": _gorilla}[name]
    builder(BUILD / name)
    return BUILD / name


def has_tls() -> bool:
    """Tell whether the load can speak TLS: whether OpenSSL's headers are there."""
    found = subprocess.run(
        ["cc", "-E", "-x", "c", "-"], input=b"#include <openssl/ssl.h>", capture_output=True
    )
    return found.returncode == 0


def _load(target: Path) -> None:
    tls = ["-DWITH_TLS", "-lssl", "-lcrypto"] if has_tls() else []
    _run("cc", "-O2", "-o", target, *sorted((HERE / "load").glob("*.c")), "-lz", *tls)


def _limit(target: Path) -> None:
    _run("cc", "-O3", "-o", target, HERE / "limit.c")


def _gorilla(target: Path) -> None:
    if not shutil.which("go"):
        raise Unavailable("no Go here (Debian: golang-go, golang-github-gorilla-websocket-dev)")
    own = subprocess.run(["go", "env", "GOPATH"], capture_output=True, text=True).stdout.strip()
    go = {"GO111MODULE": "off", "GOFLAGS": "", "GOPATH": f"{own}:/usr/share/gocode"}
    _run("go", "build", "-o", target, HERE / "gorilla.go", **go)


def _run(*command: str | Path, **env: str) -> None:
    try:
        done = subprocess.run(
            [str(part) for part in command],
            env={**os.environ, "GOCACHE": str(BUILD / "go"), **env},
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        raise Unavailable(f"no {command[0]!r} here") from None
    if done.returncode:
        raise Unavailable(f"{command[0]} failed: {_last_line(done.stderr)}")


def _certificate() -> tuple[str, str]:
    if not CERT.exists():
        import trustme

        issued = trustme.CA().issue_cert("127.0.0.1", "localhost")
        KEY.write_bytes(issued.private_key_pem.bytes())
        CERT.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    return str(CERT), str(KEY)


# Cores and limits


def cores() -> tuple[int, int]:
    """Return the core of the server and the core of the load."""
    mine = sorted(os.sched_getaffinity(0))
    return mine[0], mine[-1]


def raise_file_limit() -> int:
    """Allow as many open files as we may, here and in what we start, and return how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


# Servers


class Running:
    """A server that runs, or is stopped so that others can be measured."""

    def __init__(self, server: Server) -> None:
        self.port = _free_port()
        self._log = BUILD / f"{server.peer}.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                _command(server, self.port),
                env={**os.environ, "KOKO_CODEC": server.codec},
                stdout=log,
                stderr=log,
                preexec_fn=lambda: os.sched_setaffinity(0, {cores()[0]}),
            )
        self.pid = self._process.pid

    def wait_until_ready(self) -> None:
        """Wait until connections are accepted."""
        deadline = time.monotonic() + STARTUP
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise Failed(f"the server ended: {_last_line(self._log.read_text())}")
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise Failed(f"the server accepted nothing within {STARTUP:.0f} s")

    def pause(self) -> None:
        """Stop the server, once it has finished the work that the last load left."""
        clock = ~self.pid << 3 | 2  # the kernel's CPU clock of a process
        spent, deadline = -1.0, time.monotonic() + 3
        while time.monotonic() < deadline and self._process.poll() is None:
            before, spent = spent, time.clock_gettime(clock)
            if spent - before < 0.001:
                break
            time.sleep(0.02)
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the server run again."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill the server: how it ends is not measured."""
        self._process.kill()
        self._process.wait()


def _command(server: Server, port: int) -> list[str]:
    tls = _certificate() if server.tls else ()
    if server.peer == "limit":
        return [str(program("limit")), str(port)]
    if server.peer == "gorilla":
        options = [f"-{name}={path}" for name, path in zip(("cert", "key"), tls, strict=False)]
        deflate = ["-deflate"] if server.deflate else []
        return [str(program("gorilla")), *options, *deflate, server.work, str(port)]
    options = ["--read-limit", str(server.read_limit), "--loop", server.loop]
    options += ["--deflate"] if server.deflate else []
    options += ["--tls", *tls] if tls else []
    return [sys.executable, str(HERE / "servers.py"), server.peer, server.work, str(port), *options]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def running(server: Server) -> Iterator[Running]:
    """Run a server for as long as the block lasts; it begins stopped."""
    started = Running(server)
    try:
        started.wait_until_ready()
        started.pause()
        yield started
    finally:
        started.kill()


# Load


def turn(entry: Entry, server: Running, secs: float) -> Figures:
    """Let one server have its turn and return what was measured."""
    server.resume()
    try:
        done = subprocess.run(
            [*_program(entry), "--port", str(server.port), "--secs", str(secs)]
            + ([] if entry.program[0] == "client" else ["--pid", str(server.pid)]),
            capture_output=True,
            text=True,
            timeout=secs + PATIENCE,
            preexec_fn=lambda: os.sched_setaffinity(0, {cores()[1]}),
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"not done within {secs + PATIENCE:.0f} s") from None
    finally:
        server.pause()
    if done.returncode:
        raise Failed(_last_line(done.stderr))
    figures: Figures = json.loads(done.stdout)
    return figures


def _program(entry: Entry) -> list[str]:
    if entry.program[0] == "client":
        return [sys.executable, str(HERE / "clients.py"), entry.program[1]]
    arguments = [part.format(json=JSON) for part in entry.program]
    options = [f"--{name}" for name in ("deflate", "tls") if getattr(entry.server, name)]
    return [str(program("load")), *arguments, *options]


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2] or "without a word"


# Rows

Outcome = list[Figures] | str  # what was measured in each round, or why nothing was


def measure(row: Row, rounds: int, secs: float) -> dict[str, Outcome]:
    """Measure a row: every server has one turn a round. Returns an outcome for each label."""
    outcomes: dict[str, Outcome] = {entry.label: [] for entry in row.entries}
    with ExitStack() as stack:
        servers: dict[Server, Running] = {}
        for _ in range(rounds):
            for entry in row.entries:
                outcome = outcomes[entry.label]
                if isinstance(outcome, str):
                    continue
                try:
                    check_available(entry)
                    outcome.append(_turn(row, entry, servers, stack, secs))
                except (Unavailable, Failed) as error:
                    outcomes[entry.label] = str(error)
    return outcomes


def _turn(
    row: Row, entry: Entry, servers: dict[Server, Running], stack: ExitStack, secs: float
) -> Figures:
    if row.fresh:
        with running(entry.server) as server:
            return turn(entry, server, secs)
    if entry.server not in servers:
        servers[entry.server] = stack.enter_context(running(entry.server))
    return turn(entry, servers[entry.server], secs)


def check_available(entry: Entry) -> None:
    """Raise Unavailable if what an entry needs is not on this machine."""
    needed = re.split("[.+-]", entry.label)[0]
    if needed == "gorilla":
        program("gorilla")
    if needed in PACKAGES and importlib.util.find_spec(needed) is None:
        raise Unavailable(f"not installed (pip install {needed})")
    if entry.server.tls and not has_tls():
        raise Unavailable("no OpenSSL headers here (Debian: libssl-dev)")


PACKAGES = ("koko", "picows", "websockets", "aiohttp", "socketify", "uvicorn")
