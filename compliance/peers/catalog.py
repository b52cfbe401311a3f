"""Who is examined: how each peer is started, what it needs, and its version."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
BUILD = FOLDER.parent.parent / "build" / "peers"
HERE = "127.0.0.1"

Command = Callable[[str], Sequence[str]]  # from a port to listen on, or a URL to dial


class Missing(Exception):
    """A peer is not on this machine; the text says how to install it."""


@dataclass(frozen=True)
class Peer:
    """A server or a client.

    Attributes:
        name: as the page shows it.
        command: what runs it.
        version: its version.
        environment: what it needs besides ours.
        note: what is known to fail, and what to do about it; empty if nothing is.
    """

    name: str
    command: Command = field(repr=False)
    version: Callable[[], str] = field(repr=False)
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    note: str = field(default="", repr=False)

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, **self.environment, "no_proxy": "*", "NO_PROXY": "*"}


def _package(name: str) -> Callable[[], str]:
    def look() -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            raise Missing(f"pip install {name}") from None

    return look


def _python(module: str, name: str, function: str, package: str, note: str = "") -> Peer:
    def command(where: str) -> Sequence[str]:
        return sys.executable, "-m", f"peers.{module}", function, where

    return Peer(name, command, _package(package), note=note)


def program(*names: str, package: str = "") -> str:
    """Return the path of a program that has one of these names.

    Raises:
        Missing: there is none.
    """
    for name in names:
        if path := shutil.which(name):
            return path
    raise Missing(f"apt-get install {package or names[0]}")


def said(*command: str) -> str:
    """Return the first line that a command prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return (done.stdout or done.stderr).splitlines()[0]


# Node

_MODULES = Path(os.environ.get("KOKO_NODE_MODULES", BUILD))


def _node_version() -> str:
    return said(program("node", "nodejs"), "--version")


def _undici_version() -> str:
    node = program("node", "nodejs")
    return f"{said(node, '-p', 'process.versions.undici')} in Node {_node_version()}"


def _ws_version() -> str:
    package = _MODULES / "node_modules" / "ws" / "package.json"
    node = program("node", "nodejs")
    if not package.exists():
        raise Missing(f"npm install --prefix {BUILD} ws")
    return said(node, "-p", f"require({str(package)!r}).version")


def _node(name: str, verb: str, look: Callable[[], str]) -> Peer:
    def command(where: str) -> Sequence[str]:
        # Before Node 22 its own WebSocket needs a flag.
        own = ["--experimental-websocket"] if verb == "undici" else []
        return program("node", "nodejs"), *own, str(FOLDER / "node.mjs"), verb, where

    return Peer(name, command, look, {"KOKO_NODE_MODULES": str(_MODULES), "NODE_NO_WARNINGS": "1"})


# Go

_GO_SOURCES = Path("/usr/share/gocode")  # Debian's


def _gorilla_version() -> str:
    if not (_GO_SOURCES / "src/github.com/gorilla/websocket").exists():
        raise Missing("apt-get install golang-go golang-github-gorilla-websocket-dev")
    package = "golang-github-gorilla-websocket-dev"
    program("go", package="golang-go")
    return said(program("dpkg-query"), "--showformat", "${Version}\n", "--show", package)


def _gorilla(verb: str) -> Peer:
    def command(where: str) -> Sequence[str]:
        binary = BUILD / "gorilla"
        if not binary.exists():
            BUILD.mkdir(parents=True, exist_ok=True)
            env = {**os.environ, "GO111MODULE": "off", "GOFLAGS": "", "GOPATH": str(_GO_SOURCES)}
            build = [
                program("go", package="golang-go"),
                "build",
                "-o",
                str(binary),
                str(FOLDER / "gorilla.go"),
            ]
            subprocess.run(build, env=env, check=True)
        return str(binary), verb, where

    return Peer("gorilla/websocket", command, _gorilla_version)


# Chromium

_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
_QUIET = ("--no-first-run", "--disable-background-networking", "--no-proxy-server")


def _chromium_version() -> str:
    return said(program("chromium", "chromium-browser", "google-chrome"), "--version").split()[1]


def _chromium(url: str) -> Sequence[str]:
    browser = program("chromium", "chromium-browser", "google-chrome")
    profile = f"--user-data-dir={BUILD / 'chromium'}"
    return browser, *_FLAGS, *_QUIET, profile, url.replace("ws://", "http://")


BROWSER = Peer("Chromium", _chromium, _chromium_version)

_TORNADO = (
    "does not notice `client_no_context_takeover` in an answer and refers back to messages that a "
    "server was allowed to forget: its second message fails with 1007, as with every server that "
    "answers so. For such clients: `Compression(client_no_context_takeover=False)`"
)

SERVERS = [
    _python("servers", "websockets", "websockets", "websockets"),
    _python("servers", "aiohttp", "aiohttp", "aiohttp"),
    _python("servers", "picows.websockets", "picows", "picows"),
    _python("servers", "Tornado", "tornado", "tornado"),
    _python("servers", "uvicorn, websockets-sansio", "uvicorn_websockets", "uvicorn"),
    _python("servers", "uvicorn, wsproto", "uvicorn_wsproto", "uvicorn"),
    _python("servers", "Hypercorn", "hypercorn", "hypercorn"),
    _python("servers", "Daphne (Autobahn)", "daphne", "daphne"),
    _python("servers", "uWebSockets (socketify), shared", "uwebsockets_shared", "socketify"),
    _python("servers", "uWebSockets (socketify), dedicated", "uwebsockets_dedicated", "socketify"),
    _node("ws", "serve", _ws_version),
    _gorilla("serve"),
]
CLIENTS = [
    BROWSER,
    _node("Node's own (undici)", "undici", _undici_version),
    _node("ws", "ws", _ws_version),
    _python("clients", "websockets", "websockets", "websockets"),
    _python("clients", "aiohttp", "aiohttp", "aiohttp"),
    _python("clients", "picows.websockets", "picows", "picows"),
    _python("clients", "Tornado", "tornado", "tornado", _TORNADO),
    _python("clients", "websocket-client", "websocket_client", "websocket-client"),
    _gorilla("dial"),
]
