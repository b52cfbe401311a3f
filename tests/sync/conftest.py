"""A connection whose other end is a bare socket, so that every byte is seen."""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from time import monotonic
from typing import Any

import pytest
import trustme
from multidict import CIMultiDict

from koko.core.codec import Decoder
from koko.core.connection import Connection
from koko.core.deflate import Agreed
from koko.core.options import ConnectionOptions
from koko.core.wire import Role
from koko.http import Request, Response
from koko.sync import Conn
from koko.sync.clock import Clock
from koko.sync.driver import Driver
from koko.sync.transport import PlainStream, Stream
from tests.core.ends import at_interval

PATIENCE = 10.0  # seconds after which a test has failed; nothing waits so long


class Peer:
    """The bare end: sends bytes, reads bytes."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(PATIENCE)

    def sends(self, octets: bytes) -> None:
        self.sock.sendall(octets)

    def reads(self, expected: bytes) -> None:
        """Read exactly what is expected."""
        received = b""
        while len(received) < len(expected):
            piece = self.sock.recv(len(expected) - len(received))
            assert piece, f"the stream ended after {received!r}"
            received += piece
        assert received == expected

    def has_nothing(self) -> bool:
        """Tell whether there is nothing to read."""
        return not select.select([self.sock], [], [], 0)[0]

    def reads_end(self) -> None:
        assert self.sock.recv(1) == b""

    def reads_all(self) -> bytes:
        """Read to the end; the last of it is returned."""
        last = b""
        while octets := self.sock.recv(1 << 16):
            last = (last + octets)[-100:]
        return last

    def reads_messages(self, count: int) -> list[Any]:
        """Read whole messages and control frames as a client does."""
        decoder, items = Decoder(Role.CLIENT), []
        while len(items) < count:
            piece = self.sock.recv(1 << 20)
            assert piece, f"the stream ended after {len(items)} messages"
            items += decoder.feed(piece)
            while decoder.backlog:
                items += decoder.feed(b"")
            assert decoder.failure is None
        assert len(items) == count
        return items

    def closes(self) -> None:
        self.sock.close()


class EarlyClock(Clock):
    """The system's clock, some seconds ahead."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> float:  # type: ignore[override]
        return monotonic() + self.ahead


def look_after(conn: Conn, ahead: float = 0.0) -> None:
    """Do what the housekeeper does, at once or in some seconds."""
    conn._driver.clock.ahead = ahead  # type: ignore[attr-defined]
    conn._driver.look_after()


Link = Callable[..., tuple[Conn, Peer]]


@pytest.fixture
def link() -> Iterator[Link]:
    """Make a server's connection and the bare socket of its client."""
    made: list[tuple[Conn, Peer]] = []

    def make(**options: Any) -> tuple[Conn, Peer]:
        ours, theirs = tcp_pair()
        made.append((conn_over(PlainStream(ours), Role.SERVER, **options), Peer(theirs)))
        return made[-1]

    yield make
    for conn, peer in made:
        conn.abort()
        peer.closes()


def conn_over(stream: Stream, role: Role, agreed: Agreed | None = None, **options: Any) -> Conn:
    """Make an open connection of a stream, as after a handshake."""
    core = Connection(role, ConnectionOptions(**options), agreed, monotonic(), at_interval)
    driver = Driver(core, stream, clock=EarlyClock())
    return Conn(driver, Request("GET", "/", CIMultiDict()), Response(101), None)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    return ours, theirs


def in_thread(function: Callable[..., Any], *args: Any, **keywords: Any) -> Future[Any]:
    """Run a function in a thread of its own, named after it."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(function(*args, **keywords))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=f"test-{function.__name__}", daemon=True).start()
    return future


def until(done: Callable[[], object]) -> None:
    """Let other threads run until they have come where we want them."""
    patience = monotonic() + PATIENCE
    while not done():
        assert monotonic() < patience, "it never came so far"
        time.sleep(0.0002)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="session")
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context
