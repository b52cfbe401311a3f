"""A broadcast of threads over real sockets: how long it waits, and for whom."""

from __future__ import annotations

from time import monotonic

import pytest

from koko.sync import Conn, Delivery, broadcast
from tests.sync.conftest import PATIENCE, Link, Peer, in_thread, until
from tests.wire import wire

MIB = 1 << 20
HELLO = wire("1 000 0001  0 len", b"hello")


def stuck(link: Link) -> tuple[Conn, Peer]:
    """Make a connection whose peer has not read for a while."""
    conn, peer = link()
    # The system goes on to move bytes from our buffer to the peer's for a moment.
    while broadcast([conn], bytes(MIB), timeout=0.05).sent:
        pass
    return conn, peer


def test_nobody_waits_for_one_who_does_not_read(link: Link) -> None:
    deaf, _ = stuck(link)
    others = [link() for _ in range(3)]
    conns = [deaf, *(conn for conn, _ in others)]
    assert broadcast(conns, "hello") == Delivery(3, 1, 0, 0)
    for _, peer in others:
        peer.reads(HELLO)


def test_nobody_waits_behind_another_thread_that_writes_to_a_deaf_one(link: Link) -> None:
    deaf, _ = link()
    in_thread(deaf.send, bytes(32 * MIB))
    until(lambda: deaf._driver.turns.writer)
    conn, peer = link()
    assert broadcast([deaf, conn], "hello") == Delivery(1, 1, 0, 0)
    peer.reads(HELLO)


def test_who_reads_on_in_time_is_sent_it_though_another_does_not(link: Link) -> None:
    (deaf, _), (conn, peer) = stuck(link), stuck(link)
    waiting = in_thread(broadcast, [deaf, conn], "hello", timeout=2 * PATIENCE)
    until(lambda: not deaf._driver.turns.inside)  # type: ignore[attr-defined]
    heard = b""
    while not heard.endswith(HELLO):
        heard += peer.sock.recv(MIB)
        heard = heard[-len(HELLO) :]
    assert not waiting.done(), "the deaf one has its time still"
    deaf.abort()
    assert waiting.result(PATIENCE) == Delivery(1, 0, 0, 1)


def test_the_deaf_one_costs_no_more_than_the_timeout(link: Link) -> None:
    deaf, _ = stuck(link)
    began = monotonic()
    assert broadcast([deaf], "hello", slow="close", timeout=0.2) == Delivery(0, 0, 1, 0)
    assert monotonic() - began < PATIENCE  # the keepalive alone would take 40 s
    assert broadcast([deaf], "hello", slow="close", timeout=0.1) == Delivery(0, 0, 0, 1)


def test_the_rest_of_a_long_message_is_written_while_there_is_time(link: Link) -> None:
    conn, peer = link()
    message = bytes(32 * MIB)
    reading = in_thread(peer.reads, wire("1 000 0010  0 1111111", message))
    assert broadcast([conn], message, timeout=PATIENCE) == Delivery(1, 0, 0, 0)
    assert not conn._driver.stream.pending
    reading.result(PATIENCE)


def test_the_rest_of_a_long_message_is_written_in_the_end_without_anybodys_care(link: Link) -> None:
    conn, peer = link()
    message = bytes(4 * MIB)
    assert broadcast([conn], message) == Delivery(1, 0, 0, 0)
    peer.reads(wire("1 000 0010  0 1111111", message))


def test_a_handler_may_broadcast(link: Link) -> None:
    conn, peer = link()
    other, hearing = link()
    conn.ping_handler = lambda payload: broadcast([conn, other], "hello")
    receiver = in_thread(conn.recv)
    peer.sends(wire("1 000 1001  1 len", b"?"))
    peer.reads(HELLO)
    hearing.reads(HELLO)
    peer.sends(wire("1 000 0001  1 len", b"over"))
    assert receiver.result(PATIENCE) == "over"


def test_many_threads_may_broadcast_to_the_same_crowd(link: Link) -> None:
    crowd = [link() for _ in range(8)]
    conns = [conn for conn, _ in crowd]
    threads = [in_thread(_say, conns, f"{n}" * 50, 50) for n in range(4)]
    for _, peer in crowd:
        assert len(peer.reads_messages(200)) == 200
    for thread in threads:
        thread.result(PATIENCE)


def _say(conns: list[Conn], message: str, times: int) -> None:
    for _ in range(times):
        # Another thread may just be writing: that takes a moment, and is waited for.
        assert broadcast(conns, message, timeout=PATIENCE).sent == len(conns)


@pytest.mark.parametrize("slow", ["drop", "close"])
def test_who_hangs_up_while_waited_for_is_counted_as_gone(link: Link, slow: str) -> None:
    deaf, peer = stuck(link)
    waiting = in_thread(broadcast, [deaf], "hello", slow=slow, timeout=PATIENCE)
    peer.closes()
    assert waiting.result(PATIENCE) == Delivery(0, 0, 0, 1)
