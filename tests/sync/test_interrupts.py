"""An interrupt at each moment at which Python looks for signals, one after the other.

CPython does so at the entry of a function written in Python and after a call of one in C: a
profiler is called at the same moments, and what it raises comes out there. ``make
interrupts`` is the same with real signals, on every kind of connection.
"""

from __future__ import annotations

import gc
import itertools
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic
from typing import Any

import pytest

from koko.core.wire import Role
from koko.errors import CloseError
from koko.message import Kind
from koko.sync import Conn, broadcast
from koko.sync.monitor import Turns, hold
from koko.sync.streams import MessageReader
from koko.sync.tls import TLSStream
from koko.sync.transport import PlainStream, Stream, recv_by
from tests.sync.conftest import PATIENCE, conn_over, in_thread, tcp_pair
from tests.wire import wire

HI = wire("1 000 0001  1 0000010", b"hi")
PING = wire("1 000 1001  1 0000001", b"?")
PONG = wire("1 000 1010  1 0000001", b"!")
CLOSE = wire("1 000 1000  1 0000010", b"\x03\xe8")


class Interrupt(BaseException):
    pass


@pytest.fixture(autouse=True)
def no_collection() -> Iterator[None]:
    """Collect no garbage of other tests meanwhile: what interrupts that is told as ignored."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def at_moment(number: int, work: Callable[[], object]) -> bool:
    """Interrupt ``work`` at its so-manieth moment; False when it has not so many."""
    left = number

    def look(frame: Any, event: str, argument: Any) -> None:
        nonlocal left
        if event in ("call", "c_return") and not in_finalizer(frame):
            left -= 1
            if left < 0:
                sys.setprofile(None)
                raise Interrupt

    try:
        sys.setprofile(look)
        work()
    except Interrupt:
        return True
    finally:
        sys.setprofile(None)
    return left < 0


def in_finalizer(frame: Any) -> bool:
    """Tell whether this is where Python itself ignores what is raised."""
    while frame is not None and frame.f_code.co_name != "at_moment":
        name, owner = frame.f_code.co_name, frame.f_locals.get("self")
        if name in ("__del__", "gc_callback"):  # the latter is Hypothesis's
            return True
        if name == "close" and isinstance(owner, MessageReader):  # nobody else calls it here
            return True
        frame = frame.f_back
    return False


def pair() -> tuple[Conn, socket.socket]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(PATIENCE)
    return conn_over(PlainStream(ours), Role.SERVER, close_timeout=0.5), theirs


def write_parts(conn: Conn) -> None:
    with conn.next_writer(Kind.TEXT) as writer:
        writer.write("a" * 5000)
        writer.write("b")


def read_parts(conn: Conn) -> None:
    _, reader = conn.next_reader()
    reader.read()


def corked(conn: Conn) -> None:
    with conn.cork():
        conn.send("a")
        conn.recv()


VERBS: dict[str, tuple[bytes, Callable[[Conn], object]]] = {
    "recv": (PING + HI, lambda conn: conn.recv()),
    "recv with a timeout": (PING + HI, lambda conn: conn.recv(timeout=PATIENCE)),
    "read_message": (HI, lambda conn: conn.read_message()),
    "next_reader": (HI, read_parts),
    "send": (b"", lambda conn: conn.send("hi")),
    "send with a timeout": (b"", lambda conn: conn.send("hi", timeout=PATIENCE)),
    "next_writer": (b"", write_parts),
    "cork": (HI, corked),
    "ping": (PONG, lambda conn: conn.ping(b"!", timeout=PATIENCE)),
    "pong": (b"", lambda conn: conn.pong()),
    "broadcast": (b"", lambda conn: broadcast([conn], "hi")),
    "close": (CLOSE, lambda conn: conn.close()),
    "abort": (b"", lambda conn: conn.abort()),
}


# Its finalizer closes an io object. What is raised there is ignored, and since 3.13 told.
@pytest.mark.filterwarnings("ignore:.*MessageReader:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:.*was never closed:ResourceWarning")
@pytest.mark.parametrize("verb", VERBS)
def test_after_an_interrupt_at_any_moment_a_connection_goes_on_or_says_why_not(verb: str) -> None:
    said, work = VERBS[verb]
    for number in itertools.count():
        conn, peer = pair()
        try:
            peer.sendall(said)
            interrupted = at_moment(number, lambda conn=conn: work(conn))
            is_left_whole(conn, number)
            goes_on_or_says_why_not(conn, peer, number)
        finally:
            conn.abort()
            peer.close()
        if not interrupted:
            break
    assert number > 2, "nothing was looked at"


def is_left_whole(conn: Conn, number: int) -> None:
    """Check that no lock is held and that nobody seems to be inside."""
    turns = conn._driver.turns
    free: list[bool] = []

    def look() -> None:
        free.append(turns.lock.acquire(timeout=PATIENCE))
        turns.lock.release()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert free == [True], f"the lock is held after an interrupt at moment {number}"
    assert turns.inside != threading.get_ident()
    assert (turns.receiver, turns.reader, turns.writer) == (None, None, None)


def goes_on_or_says_why_not(conn: Conn, peer: socket.socket, number: int) -> None:
    with suppress(BrokenPipeError):  # it is over
        peer.sendall(HI + wire("1 000 0001  1 len", b"token"))
    with suppress(CloseError):
        conn.send("token", timeout=PATIENCE)
        while conn.recv(timeout=PATIENCE) != "token":
            pass
        return
    with suppress(OSError):
        peer.shutdown(socket.SHUT_WR)
    with pytest.raises(CloseError):
        while True:
            conn.recv(timeout=PATIENCE)
    said = str(conn.ending)
    reasons = ("interrupt", "we dropped it", "we had sent", "closed with 1000")
    assert any(reason in said for reason in reasons), f"{said}, after moment {number}"


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_what_is_written_leaves_once_whatever_moment_an_interrupt_hits(
    secure: bool, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    ours, theirs = map(PlainStream, tcp_pair())
    us: Stream = ours
    peer: Stream = theirs
    if secure:
        us = session = TLSStream(ours, server_tls, server_side=True)
        peer = other = TLSStream(theirs, client_tls, server_hostname="localhost")
        shaking = in_thread(session.handshake, monotonic() + PATIENCE)
        other.handshake(monotonic() + PATIENCE)
        shaking.result(PATIENCE)
    assert us.steady
    for number in itertools.count():
        frames, expected = [b"one ", b"two ", b"%d" % number], b"one two %d" % number
        interrupted = at_moment(number, lambda frames=frames: us.write(frames))
        if frames:  # they are here or there
            us.write(frames)
        while us.pending:
            us.flush()
        received = b""
        while len(received) < len(expected):
            received += recv_by(peer, monotonic() + PATIENCE)
        assert received == expected
        if not interrupted:
            break
    assert number > 5
    us.close()
    peer.close()


def test_lock_is_let_go_of_whatever_moment_an_interrupt_hits() -> None:
    for number in itertools.count():
        lock = threading.Lock()
        interrupted = at_moment(number, lambda lock=lock: hold(lock, lambda: sum([1, 2])))
        assert lock.acquire(blocking=False)
        if not interrupted:
            break
    assert number > 3


def test_both_kinds_of_turns_have_the_same_names() -> None:
    conn, peer = pair()
    with peer:
        for name in Turns.__slots__:
            assert hasattr(conn._driver.turns, name)
        conn.abort()
