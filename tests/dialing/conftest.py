"""One client in three forms - threads, asyncio, uvloop - whose verbs all block, and servers for it.

The servers run in threads and the real proxies as processes, so that every test is written
once, without a loop, and runs on each face.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop

import koko.aio
import koko.sync
from koko.http import Request
from koko.opening.handshake import accept_key
from koko.opening.head import RequestParser
from koko.sync import Conn, Server
from tests.sync.conftest import PATIENCE, in_thread

HERE = "127.0.0.1"


class Client:
    """An open connection of either face."""

    def __init__(self, conn: Any, face: Face) -> None:
        self.conn = conn
        self._face = face
        self._wait = face.wait

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self._wait(self.conn.close())

    def abort(self) -> None:
        self.conn.abort()
        self._face.turn()

    def send(self, message: str | bytes) -> None:
        self._wait(self.conn.send(message))

    def recv(self) -> str | bytes:
        return self._wait(self.conn.recv(timeout=PATIENCE))  # type: ignore[no-any-return]

    def echoes(self, *messages: str | bytes) -> None:
        for message in messages or ("hello", bytes(range(256)) * 512):
            self.send(message)
            assert self.recv() == message


class Face:
    """A face of Koko that dials, straight unless told to go through a proxy."""

    def __init__(self, name: str, runner: asyncio.Runner | None) -> None:
        self.name = name
        self.module = koko.aio if runner else koko.sync
        self._runner = runner

    def dialer(self, **options: Any) -> Any:
        return self.module.Dialer(**{"proxy": None, **options})

    def dial(self, url: str, headers: Any = None, **options: Any) -> Client:
        sock = options.pop("sock", None)
        return self.open(self.dialer(**options), url, headers, sock)

    def open(self, dialer: Any, url: str, headers: Any = None, sock: Any = None) -> Client:
        return Client(self.wait(dialer.dial(url, headers, sock=sock)), self)

    def wait(self, what: Any) -> Any:
        return self._runner.run(_result(what)) if inspect.isawaitable(what) else what

    def turn(self) -> None:
        """Let the loop close what was aborted."""
        if self._runner:
            self._runner.run(asyncio.sleep(0))


async def _result(what: Any) -> Any:
    try:
        async with asyncio.timeout(PATIENCE):
            return await what
    finally:
        await asyncio.sleep(0)  # the turn of the loop in which what was aborted is closed


FACES = ("sync", "asyncio", "uvloop")


@contextmanager
def face_of(name: str) -> Iterator[Face]:
    if name == "sync":
        yield Face("sync", None)
        return
    loop = asyncio.SelectorEventLoop if name == "asyncio" else uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop) as runner:
        yield Face(name, runner)


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> Iterator[Face]:
    with face_of(request.param) as face:
        yield face


# Servers


def echo(conn: Conn) -> None:
    for message in conn:
        conn.send(message)


@contextmanager
def serving(**options: Any) -> Iterator[Server]:
    with Server(options.pop("handler", echo), HERE, **options) as server:
        yield server


def url(server: Server, scheme: str = "ws", path: str = "/") -> str:
    return f"{scheme}://{HERE}:{server.address[1]}{path}"


def says(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode()


def accepted(request: Request, lines: str = "", behind: bytes = b"") -> bytes:
    key = accept_key(request.headers["Sec-WebSocket-Key"])
    return (
        says("HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\nConnection: Upgrade\n")
        + says(f"Sec-WebSocket-Accept: {key}\n{lines}\n")
        + behind
    )


Answer = bytes | Callable[[Request], bytes]


class Script:
    """A server that gives each client in turn an answer; ``heard`` are their requests."""

    def __init__(self, *answers: Answer, context: ssl.SSLContext | None = None) -> None:
        self.listener = socket.create_server((HERE, 0))
        self.listener.settimeout(PATIENCE)
        self.port = self.listener.getsockname()[1]
        self.heard: list[Request] = []
        self._answers = answers
        self._context = context

    @property
    def url(self) -> str:
        return f"{'wss' if self._context else 'ws'}://{HERE}:{self.port}/"

    def play(self) -> None:
        for answer in self._answers:
            sock, _ = self.listener.accept()
            sock.settimeout(PATIENCE)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context:
                sock = self._context.wrap_socket(sock, server_side=True)
            # A client may hang up before its request is whole, or leave something unread.
            with sock, suppress(ConnectionResetError):
                request = read_request(sock)
                self.heard.append(request)
                sock.sendall(answer(request) if callable(answer) else answer)
                while sock.recv(1000):  # until we are hung up on
                    pass


def read_request(sock: socket.socket) -> Request:
    parser = RequestParser()
    while octets := sock.recv(65536):
        if (request := parser.feed(octets)) is not None:
            return request
    raise ConnectionResetError("the client hung up before its request was whole")


@contextmanager
def script(*answers: Answer, context: ssl.SSLContext | None = None) -> Iterator[Script]:
    """Serve by a script; every client must have come and gone in the end."""
    played = Script(*answers, context=context)
    with played.listener:
        done: Future[Any] = in_thread(played.play)
        yield played
        done.result(2 * PATIENCE)  # its own patience with a client ends first, and says so


@contextmanager
def full_queue(
    family: socket.AddressFamily = socket.AF_INET, where: Any = (HERE, 0)
) -> Iterator[Any]:
    """Listen at an address that answers no one: the queue of its listener is full."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.socket(family))
        full.bind(where)
        full.listen(0)
        for _ in range(4):
            caller = stack.enter_context(socket.socket(family))
            caller.setblocking(False)
            caller.connect_ex(full.getsockname())
        yield full.getsockname()


# TLS


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    return server_context(authority, HERE, "example.com")


@pytest.fixture(scope="session")
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    return client_context(authority)


def server_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def strict_context() -> ssl.SSLContext:
    """Return a client's context that trusts nobody; the system's take 40 ms to load."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = strict_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the proxies of the environment, and no others."""

    def set_to(**variables: str) -> None:
        for name in ("http", "https", "all", "no"):
            monkeypatch.delenv(f"{name}_proxy", raising=False)
            monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_to


@pytest.fixture
def unix_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("u") / "s"  # short: such a path has at most 107 bytes
