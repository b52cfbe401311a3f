"""What waits inside our own system: real sockets, whose peers read when they are told to."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from koko.core.keepalive import NOTHING_WAITS, Backlog
from koko.send_queue import backlog_on

Pair = tuple[socket.socket, socket.socket]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems tell less")


def tcp(family: socket.AddressFamily = socket.AF_INET, host: str = "127.0.0.1") -> Pair:
    with socket.create_server((host, 0), family=family) as listener:
        ours = socket.create_connection(listener.getsockname()[:2])
        return ours, listener.accept()[0]


@pytest.fixture(params=[tcp, socket.socketpair], ids=["tcp", "unix"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    ours, theirs = request.param()
    with ours, theirs:
        yield ours, theirs


def fill(sock: socket.socket) -> int:
    """Write as much as the system takes."""
    sock.setblocking(False)
    taken = 0
    try:
        while True:
            taken += sock.send(bytes(1 << 16))
    except BlockingIOError:
        return taken


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_nothing_waits_where_the_peer_has_taken_everything(pair: Pair) -> None:
    ours, theirs = pair
    ours.send(b"hello")
    theirs.recv(5)
    until(lambda: backlog_on(ours.fileno(), 0) is NOTHING_WAITS)


def test_what_the_system_holds_for_a_peer_that_does_not_read_waits(pair: Pair) -> None:
    ours, theirs = pair
    taken = fill(ours)
    full = backlog_on(ours.fileno(), 7)
    assert full.unsent == 7
    assert full.queued > taken // 4
    while taken:
        taken -= len(theirs.recv(taken))
    until(lambda: backlog_on(ours.fileno(), 0) is NOTHING_WAITS)


def test_acknowledged_bytes_are_counted_though_as_many_are_written_again() -> None:
    ours, theirs = tcp()
    with ours, theirs:
        written = fill(ours)
        before = backlog_on(ours.fileno(), 0)
        while written > before.queued // 2:
            written -= len(theirs.recv(1 << 16))
        until(lambda: backlog_on(ours.fileno(), 0).queued < before.queued)
        fill(ours)
        after = backlog_on(ours.fileno(), 0)
        assert after.taken_since(before) > 1 << 16


def test_asking_leaves_the_socket_as_it_was() -> None:
    ours, theirs = tcp()
    with ours, theirs:
        fill(ours)
        backlog_on(ours.fileno(), 0)
        assert ours.fileno() >= 0
        assert ours.getblocking() is False
        theirs.close()
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM


@pytest.mark.parametrize("descriptor", [-1, 1 << 20])
def test_of_a_socket_that_is_gone_only_what_is_unsent_is_known(descriptor: int) -> None:
    assert backlog_on(descriptor, 0) is NOTHING_WAITS
    assert backlog_on(descriptor, 9) == Backlog(9)
