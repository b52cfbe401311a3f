"""What happens on a connection while nobody waits on it; the clock is turned by hand."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from typing import Any

import pytest

from koko.errors import CloseError
from koko.sync import Conn
from koko.sync.housekeeper import Housekeeper
from tests.sync.conftest import PATIENCE, Link, in_thread, look_after, until
from tests.wire import wire

PING = wire("1 000 1001  1 0000001", b"?")
PONG = wire("1 000 1010  0 0000001", b"?")
HI = wire("1 000 0001  1 0000010", b"hi")


def looked_after(conn: Conn, done: Any) -> None:
    """Look after a connection until what the peer sent has come through."""

    def look() -> Any:
        look_after(conn)
        return done()

    until(look)


def test_pings_are_answered_while_nobody_receives(link: Link) -> None:
    _conn, peer = link()
    peer.sends(PING)
    peer.reads(PONG)  # by the one thread there is


def test_a_close_is_noticed_while_nobody_receives(link: Link) -> None:
    conn, peer = link()
    peer.sends(wire("1 000 1000  1 0000010", b"\x03\xe8"))
    looked_after(conn, lambda: conn.ending)
    peer.reads(wire("1 000 1000  0 0000010", b"\x03\xe8"))
    peer.reads_end()
    assert conn.socket.fileno() == -1


def test_no_more_than_64_kib_are_read_for_nobody(link: Link) -> None:
    conn, peer = link()
    flood = in_thread(peer.sends, wire("1 000 0010  1 len", bytes(1000)) * 20_000)
    looked_after(conn, lambda: conn._core.full)
    for _ in range(10):
        look_after(conn)
    assert conn._core.inbox.unread < 1 << 18
    received = [conn.recv() for _ in range(20_000)]
    assert received == [bytes(1000)] * 20_000
    flood.result(PATIENCE)


def test_a_silent_peer_is_pinged_and_then_given_up(link: Link) -> None:
    conn, peer = link(ping_interval=20, ping_timeout=10)
    receiver = in_thread(conn.recv)
    until(lambda: conn._driver.turns.reader)
    look_after(conn, 20.1)
    assert peer.sock.recv(2) == b"\x89\x04"  # a ping with four random bytes
    look_after(conn, 30.2)
    with pytest.raises(CloseError, match="no answer to a ping within 10 s, last heard the opening"):
        receiver.result(PATIENCE)


def test_a_writer_that_is_stuck_behind_a_dead_peer_is_freed(link: Link) -> None:
    conn, _ = link(ping_interval=20, ping_timeout=10)
    sender = in_thread(conn.send, bytes(1 << 25))
    until(lambda: conn._driver.turns.writer)
    for half_seconds in range(62):  # later it is freed by what it waits for
        look_after(conn, half_seconds / 2)
    with pytest.raises(CloseError, match="no answer to a ping"):
        sender.result(PATIENCE)
    assert conn.socket.fileno() == -1


def test_a_peer_that_never_answers_our_close_is_dropped(link: Link) -> None:
    conn, peer = link(close_timeout=10)
    conn._driver.start_close(1000, "")
    look_after(conn, 10.1)
    peer.reads(wire("1 000 1000  0 0000010", b"\x03\xe8"))
    peer.reads_end()
    with pytest.raises(CloseError, match="no answer within 10 s"):
        conn.recv()


def test_a_connection_that_is_busy_is_left_alone(link: Link) -> None:
    conn, peer = link()
    peer.sends(PING)
    with conn._driver.turns.lock:
        in_thread(look_after, conn).result(PATIENCE)


def test_a_connection_that_nobody_knows_any_more_is_not_kept_alive(link: Link) -> None:
    class Thing:
        def look_after(self) -> None: ...

    housekeeper, thing = Housekeeper(period=0.001), Thing()
    housekeeper.keep(thing)
    gone = weakref.ref(thing)
    del thing
    gc.collect()
    assert gone() is None
    until(lambda: housekeeper._thread is None)


def test_one_that_fails_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    class Bad:
        def look_after(self) -> None:
            raise LookupError("lost")

    class Good:
        times = 0

        def look_after(self) -> None:
            self.times += 1

    housekeeper, bad, good = Housekeeper(period=0.001), Bad(), Good()
    housekeeper.keep(bad)
    housekeeper.keep(good)
    until(lambda: good.times and "lost" in caplog.text)
    housekeeper.forget(bad)
    housekeeper.forget(good)
    until(lambda: housekeeper._thread is None)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_of_fork_looks_after_its_own_connections() -> None:
    script = """
import os, sys, socket, warnings
from time import monotonic
from koko.sync.housekeeper import housekeeper

class Kept:
    def __init__(self): self.pipe = os.pipe()
    def look_after(self): os.write(self.pipe[1], b"!")
    def disown(self): pass

ours = Kept()
housekeeper.keep(ours)
warnings.simplefilter("ignore")  # Python warns of forks among threads, which is the point
child = os.fork()
if not child:
    os.close(ours.pipe[1])  # a look after the parent's would fail
    own = Kept()
    housekeeper.keep(own)
    assert os.read(own.pipe[0], 1) == b"!"
    assert list(housekeeper._kept) == [id(own)]
    os._exit(0)
assert os.read(ours.pipe[0], 1) == b"!"
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=6 * PATIENCE)


def test_koko_sync_never_loads_asyncio() -> None:
    script = "import sys, koko.sync; sys.exit('asyncio' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=6 * PATIENCE)
