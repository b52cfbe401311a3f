"""A server of threads that is full, on real sockets; and how each connection's end is told."""

from __future__ import annotations

import logging
import re
import socket
import ssl
from contextlib import ExitStack, suppress

import pytest

from koko import CloseError, ErrBadHandshake, Response
from koko.serving import MOST_REFUSED
from koko.sync import Conn, Server, Upgrader, dial
from tests.logged import of_clients
from tests.sync.conftest import PATIENCE, in_thread, until
from tests.sync.test_serve import UPGRADE, connect, echo, read_all, url

HERE = "127.0.0.1"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that is refused has longer than two seconds: this machine may be busy."""
    monkeypatch.setattr("koko.sync.refuse.REFUSE_TIMEOUT", 60.0)


def empty(server: Server) -> bool:
    return not (server._clients.served or server._clients.refused)


# max_connections


def test_one_too_many_is_told_so_and_may_come_when_another_has_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "koko.server")
    with Server(echo, HERE, max_connections=1) as server:
        with dial(url(server), proxy=None) as first:
            with pytest.raises(ErrBadHandshake) as raised:
                dial(url(server, "/late"), proxy=None)
            assert raised.value.status == 503
            assert b"(max_connections=1), try again later" in raised.value.response.body
            first.send("still served")
            assert first.recv(PATIENCE) == "still served"
        until(lambda: empty(server))
        with dial(url(server), proxy=None) as second:
            second.send("served as well")
            assert second.recv(PATIENCE) == "served as well"
    assert re.search(r"127\.0\.0\.1:\d+ /late: 503: the server is full", caplog.text)


def test_one_too_many_is_heard_out_up_to_head_limit(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "koko.server")
    upgrader, large = Upgrader(head_limit=30_000), {"Cookie": "x" * 20_000}
    with Server(echo, HERE, upgrader=upgrader, max_connections=1) as server:
        with dial(url(server), proxy=None):
            with pytest.raises(ErrBadHandshake, match="503"):
                dial(url(server, "/late"), headers=large, proxy=None)
    assert " /late: 503" in caplog.text


def test_one_too_many_is_told_so_through_tls(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    with Server(echo, HERE, ssl=server_tls, max_connections=1) as server:
        address = f"wss://localhost:{server.address[1]}/"
        with dial(address, ssl=client_tls, proxy=None):
            with pytest.raises(ErrBadHandshake, match="503"):
                dial(address, ssl=client_tls, proxy=None)


def test_a_handshake_that_has_begun_counts() -> None:
    with Server(echo, HERE, max_connections=1) as server, connect(server) as silent:
        until(lambda: server._clients.served)
        with connect(server) as late:
            late.sendall(b"no HTTP at all\r\n\r\n")
            assert read_all(late).startswith(b"HTTP/1.1 503 ")
        silent.sendall(UPGRADE)
        assert silent.recv(13) == b"HTTP/1.1 101 "


def test_the_crowd_that_waits_at_the_door_is_bounded() -> None:
    with (
        Server(echo, HERE, max_connections=1) as server,
        dial(url(server), proxy=None),
        ExitStack() as crowd,
    ):
        for _ in range(MOST_REFUSED):
            crowd.enter_context(connect(server))
        until(lambda: server._clients.refused == MOST_REFUSED)
        with connect(server) as last:
            with suppress(ConnectionResetError):
                assert last.recv(1) == b""
        crowd.close()
        until(lambda: server._clients.refused == 0)


def test_plain_http_counts_and_is_answered_with_503_as_well() -> None:
    with (
        Server(echo, HERE, http=lambda _: Response(200, "up"), max_connections=1) as server,
        dial(url(server), proxy=None),
        connect(server) as asking,
    ):
        asking.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_all(asking).startswith(b"HTTP/1.1 503 ")


def test_a_limit_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="max_connections=0: a whole number above 0"):
        Server(echo, max_connections=0)


# One line for each end


def test_an_end_is_one_line_with_the_peer_as_host_and_port(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "koko.server")
    with Server(echo, HERE) as server:
        with dial(url(server, "/where?x=1"), proxy=None) as client:
            host, port = client.local_address
        until(lambda: empty(server))
    (line,) = of_clients(caplog)
    told, what_it_was = line.split("; after ")
    ending = "peer closed with 1000 (normal); we answered 1000"
    assert told == f"koko.server INFO {host}:{port} /where: {ending}"
    assert re.fullmatch(r"\d+\.\d s, 8 bytes in, 4 out; 0 open", what_it_was)
    assert caplog.records[-1].levelno == logging.INFO


@pytest.mark.parametrize(
    ("octets", "said"),
    [
        (b"", "connection lost; the peer's stream ended without a Close, last heard the opening"),
        (b"\x81\x00", "must mask every frame (RFC 6455 §5.1)"),
    ],
    ids=["vanishes", "breaks the rules"],
)
def test_a_peer_that_vanishes_or_misbehaves_is_one_line_at_info_and_no_traceback(
    octets: bytes, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "koko.server")
    with Server(echo, HERE) as server:
        with connect(server) as client:
            client.sendall(UPGRADE)
            assert client.recv(1 << 16).endswith(b"\r\n\r\n")
            client.sendall(octets)
            client.shutdown(socket.SHUT_WR)
            read_all(client)
        until(lambda: empty(server))
    (line,) = of_clients(caplog)
    assert said in line
    assert {record.levelno for record in caplog.records} == {logging.INFO}
    assert "Traceback" not in caplog.text


def test_the_peer_of_an_ipv6_connection_stands_in_brackets(
    caplog: pytest.LogCaptureFixture, ipv6: str
) -> None:
    caplog.set_level(logging.INFO, "koko.server")
    with Server(echo, ipv6) as server:
        dial(f"ws://[::1]:{server.address[1]}/", proxy=None).close()
        until(lambda: empty(server))
    assert re.search(r" \[::1\]:\d+ /: ", of_clients(caplog)[0])


def test_a_representation_names_the_peer_as_host_and_port() -> None:
    with Server(echo, HERE) as server, dial(url(server), proxy=None) as client:
        assert repr(client) == "<koko.sync.Conn open with {}:{}>".format(*server.address)


def test_wait_closed_of_a_server_waits_for_its_last_handler() -> None:
    left: list[Conn] = []

    def slow(conn: Conn) -> None:
        with pytest.raises(CloseError):
            conn.recv()
        left.append(conn)

    server = Server(slow, HERE)
    server.start()
    with dial(url(server), proxy=None) as client:
        waiting = in_thread(server.wait_closed)
        closing = in_thread(server.close, 1012, "restart")
        with pytest.raises(CloseError, match=r"1012 \(service restart\) 'restart'"):
            client.recv(PATIENCE)
        waiting.result(PATIENCE)
        assert left
        closing.result(PATIENCE)


def test_a_full_server_still_closes_at_once() -> None:
    with Server(echo, HERE, max_connections=1) as server, dial(url(server), proxy=None) as client:
        late = socket.create_connection(server.address, timeout=PATIENCE)
        until(lambda: server._clients.refused == 1)
        closing = in_thread(server.close, timeout=1.0)
        with pytest.raises(CloseError):
            client.recv(PATIENCE)
        closing.result(PATIENCE)
        late.close()
