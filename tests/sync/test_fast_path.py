"""What the short way of a message leaves to the driver; on a real socket, where it is taken."""

from __future__ import annotations

import signal
import threading
from time import monotonic

import pytest

from koko.errors import ProtocolError
from tests.sync.conftest import PATIENCE, Link, in_thread, until
from tests.wire import wire

PONG = wire("1 000 1010  1 0000000", b"")
HI = wire("1 000 0001  1 0000010", b"hi")
BAD = wire("1 100 0001  1 0000010", b"hi")


def test_a_deadline_that_a_handler_sets_holds_for_the_read_that_waits(link: Link) -> None:
    conn, peer = link()

    def on_pong(payload: bytes) -> None:
        conn.read_deadline = monotonic() + 0.01

    conn.pong_handler = on_pong
    reading = in_thread(conn.recv)
    until(lambda: conn._driver.turns.reader)
    peer.sends(PONG)
    with pytest.raises(TimeoutError, match="before read_deadline"):
        reading.result(PATIENCE)


def test_good_messages_before_a_violation_are_given_first(link: Link) -> None:
    conn, peer = link()
    peer.sends(HI + HI + BAD + HI)
    assert [conn.recv(), conn.recv()] == ["hi", "hi"]
    with pytest.raises(ProtocolError, match="RSV1"):
        conn.recv()


def test_a_message_larger_than_one_read_is_whole(link: Link) -> None:
    conn, peer = link()
    large = bytes(range(256)) * 3000
    peer.sends(wire("1 000 0010  1 1111111", large) + HI)
    assert conn.recv() == large
    assert conn.recv() == "hi"


def test_a_signal_interrupts_a_read_and_harms_nothing(link: Link) -> None:
    conn, peer = link()

    class Stop(Exception):
        pass

    stopped = threading.Event()

    def stop(*_: object) -> None:
        if not stopped.is_set():
            stopped.set()
            raise Stop

    def interrupt() -> None:
        until(lambda: conn._driver.turns.reader)
        # As with any call that blocks, one that comes just before the system call is not noticed.
        while not stopped.wait(0.01):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, stop)
    try:
        thread = in_thread(interrupt)
        with pytest.raises(Stop):
            conn.recv()
        thread.result(PATIENCE)
    finally:
        signal.signal(signal.SIGUSR1, before)
    peer.sends(HI)
    assert conn.recv() == "hi"
    conn.send("hi")
    peer.reads(wire("1 000 0001  0 0000010", b"hi"))
