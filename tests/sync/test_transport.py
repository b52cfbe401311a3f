"""The bare socket, also where the system has less to offer than Linux has."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from time import monotonic

import pytest

from koko.sync import transport
from koko.sync.transport import READ, WRITE, PlainStream, recv_by, write_by
from tests.sync.conftest import PATIENCE, in_thread, tcp_pair

Pair = tuple[PlainStream, PlainStream]


@pytest.fixture(params=["linux", "windows"])
def pair(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    """Two ends, with poll() and MSG_DONTWAIT and without."""
    if request.param == "windows":
        monkeypatch.delattr(select, "poll", raising=False)
        monkeypatch.setattr(transport, "_DONTWAIT", 0)
    ours, theirs = map(PlainStream, tcp_pair())
    yield ours, theirs
    ours.close()
    theirs.close()


def test_what_does_not_leave_at_once_is_kept_in_order(pair: Pair) -> None:
    ours, theirs = pair
    sent = bytes(range(256)) * (1 << 16)
    assert not ours.write([sent])
    ours.write([b"last"])
    assert ours.pending
    draining = in_thread(write_by, ours, b"", monotonic() + PATIENCE)
    received = b""
    while len(received) < len(sent) + 4:
        received += recv_by(theirs, monotonic() + PATIENCE)
    draining.result(PATIENCE)
    assert received == sent + b"last"


def test_waiting_says_what_could_be_done(pair: Pair) -> None:
    ours, theirs = pair
    assert ours.wait(READ | WRITE, 0) == WRITE
    theirs.write([b"x"])
    assert ours.wait(READ, PATIENCE) == READ
    assert ours.recv() == b"x"
    assert ours.wait(READ, 0.001) == 0
    assert ours.recv() is None


def test_shutdown_wakes_who_waits(pair: Pair) -> None:
    ours, _ = pair
    reading = in_thread(recv_by, ours, monotonic() + PATIENCE)
    ours.shutdown()
    assert reading.result(PATIENCE) == b""


def test_a_default_timeout_of_the_process_means_nothing_here() -> None:
    socket.setdefaulttimeout(0.001)
    try:
        ours, theirs = map(PlainStream, tcp_pair())
    finally:
        socket.setdefaulttimeout(None)
    reading = in_thread(recv_by, ours, None)
    assert theirs.recv() is None
    theirs.write([b"late"])
    assert reading.result(PATIENCE) == b"late"
    ours.close()
    theirs.close()


def test_writing_before_a_deadline_gives_up_at_the_deadline(pair: Pair) -> None:
    with pytest.raises(TimeoutError, match="did not take what we wrote in time"):
        write_by(pair[0], bytes(1 << 25), monotonic() + 0.01)
