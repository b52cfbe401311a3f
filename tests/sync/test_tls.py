"""TLS between two threads, real sessions over real sockets."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from time import monotonic

import pytest

from koko.core.wire import Role
from koko.sync.tls import TLSStream
from koko.sync.transport import READ, PlainStream, Stream, recv_by, write_by
from tests.sync.conftest import PATIENCE, conn_over, in_thread, tcp_pair

Pair = tuple[Stream, Stream]
Secured = Callable[[Pair], tuple[TLSStream, TLSStream]]


@pytest.fixture
def plain() -> Iterator[Pair]:
    ours, theirs = map(PlainStream, tcp_pair())
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
def secured(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> Secured:
    def make(pair: Pair) -> tuple[TLSStream, TLSStream]:
        server = TLSStream(pair[0], server_tls, server_side=True)
        client = TLSStream(pair[1], client_tls, server_hostname="localhost")
        deadline = monotonic() + PATIENCE
        ours = in_thread(server.handshake, deadline)
        client.handshake(deadline)
        ours.result(PATIENCE)
        return server, client

    return make


def read(stream: Stream, size: int) -> bytes:
    received = b""
    while len(received) < size:
        received += recv_by(stream, monotonic() + PATIENCE)
    return received


def test_both_ends_may_write_much_while_both_read(plain: Pair, secured: Secured) -> None:
    conns = [
        conn_over(stream, role, read_limit=None)
        for stream, role in zip(secured(plain), (Role.SERVER, Role.CLIENT), strict=True)
    ]
    much = bytes(range(256)) * 40_000
    writers = [in_thread(conn.send, much) for conn in conns]
    readers = [in_thread(conn.recv) for conn in conns]
    for writer in writers:
        writer.result(PATIENCE)
    assert [reader.result(PATIENCE) for reader in readers] == [much, much]
    for conn in conns:
        conn.abort()


def test_tls_runs_inside_tls(plain: Pair, secured: Secured) -> None:
    server, client = secured(secured(plain))
    write_by(client, b"deep", monotonic() + PATIENCE)
    assert read(server, 4) == b"deep"


def test_a_goodbye_is_the_end_of_what_is_read(plain: Pair, secured: Secured) -> None:
    server, client = secured(plain)
    write_by(client, b"last", monotonic() + PATIENCE)
    client.end()
    assert read(server, 4) == b"last"
    assert recv_by(server, monotonic() + PATIENCE) == b""
    assert recv_by(server, monotonic() + PATIENCE) == b""


def test_an_end_without_a_goodbye_is_an_end_too(plain: Pair, secured: Secured) -> None:
    server, client = secured(plain)
    client.shutdown()
    assert recv_by(server, monotonic() + PATIENCE) == b""


def test_bytes_that_are_no_tls_are_an_error_after_the_good_ones(
    plain: Pair, secured: Secured
) -> None:
    server, client = secured(plain)
    write_by(client, b"good", monotonic() + PATIENCE)
    write_by(plain[1], b"\x17\x03\x03\x00\x04evil", monotonic() + PATIENCE)
    assert read(server, 4) == b"good"
    with pytest.raises(ssl.SSLError):
        recv_by(server, monotonic() + PATIENCE)


def test_nothing_in_time_harms_nothing(plain: Pair, secured: Secured) -> None:
    server, client = secured(plain)
    assert server.recv() is None
    with pytest.raises(TimeoutError):
        recv_by(server, monotonic() + 0.01)
    write_by(client, b"late", monotonic() + PATIENCE)
    assert server.wait(READ, PATIENCE) == READ
    assert read(server, 4) == b"late"


def test_a_name_that_is_not_in_the_certificate_is_refused(
    plain: Pair, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    server = TLSStream(plain[0], server_tls, server_side=True)
    client = TLSStream(plain[1], client_tls, server_hostname="other.example")
    deadline = monotonic() + PATIENCE
    ours = in_thread(server.handshake, deadline)
    with pytest.raises(ssl.SSLCertVerificationError, match="other.example"):
        client.handshake(deadline)
    with pytest.raises(ssl.SSLError, match="alert"):  # it is told why
        ours.result(PATIENCE)


def test_a_handshake_has_one_deadline(plain: Pair, server_tls: ssl.SSLContext) -> None:
    server = TLSStream(plain[0], server_tls, server_side=True)
    with pytest.raises(TimeoutError):
        server.handshake(monotonic() + 0.01)
