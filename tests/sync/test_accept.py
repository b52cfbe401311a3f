"""Who is accepted and who is not, on threads: the same clients, the same words."""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
import threading
from typing import Any

import pytest
import trustme

from koko import serving
from koko.http import Request
from koko.hung_up import has_hung_up
from koko.serving import MOST_REFUSED, server_full
from koko.sync import Conn, Server, Upgrader, dial
from tests.callers import CALLERS, SPENT, Caller, Failing, strict
from tests.logged import of_client, of_clients
from tests.sync.conftest import PATIENCE, in_thread, until

HERE = "127.0.0.1"
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def echo(conn: Conn) -> None:
    for message in conn:
        conn.send(message)


def echoes(server: Server) -> None:
    with dial(f"ws://{HERE}:{server.address[1]}/", proxy=None) as conn:
        conn.send("hi")
        assert conn.recv(PATIENCE) == "hi"


@pytest.mark.parametrize("caller", CALLERS, ids=lambda caller: caller.name)
def test_tls_that_fails_is_one_line_at_info_with_the_address(
    caller: Caller, authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", HERE).configure_cert(context)
    with Server(echo, HERE, ssl=strict(context), handshake_timeout=caller.timeout) as server:
        sock, peer = caller.calls(server.address)
        with sock:
            until(lambda: of_client(caplog, peer))
    assert of_client(caplog, peer) == [f"koko.server INFO {peer} -: {caller.told}"]
    assert {record.exc_info for record in caplog.records} == {None}


def test_a_server_that_closes_says_so_of_those_at_tls(
    server_tls: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with Server(echo, HERE, ssl=server_tls) as server:
        sock, peer = Caller("", b"", "waits", "").calls(server.address)
        until(lambda: server._clients.threads)
    sock.close()
    assert of_clients(caplog) == [
        f"koko.server INFO {peer} -: TLS failed: the server is going away"
    ]


@pytest.mark.parametrize("number", SPENT, ids=errno.errorcode.get)
def test_whatever_the_system_has_none_of_is_one_line_for_each_try(
    number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(serving, "RETRY", 0.01)
    monkeypatch.setattr(Failing, "errors", [number] * 2)
    sock = Failing(socket.AF_INET)
    sock.bind((HERE, 0))
    with Server(echo, sock=sock) as server:
        echoes(server)
    reason = os.strerror(number)
    said = f"cannot accept: {reason[0].lower()}{reason[1:]}; next try in 0.01 s"
    found = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
    assert found == [("koko.server", "ERROR", said)] * 2


def test_a_client_that_is_gone_before_it_is_accepted_is_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(Failing, "errors", [errno.ECONNABORTED, errno.EPROTO, errno.EPERM])
    sock = Failing(socket.AF_INET)
    sock.bind((HERE, 0))
    with Server(echo, sock=sock) as server:
        with dial(f"ws://{HERE}:{server.address[1]}/", proxy=None):
            assert of_clients(caplog) == []


@pytest.mark.parametrize("behind", [b"", b"\x81\x80abcd"], ids=["", "a frame behind"])
@pytest.mark.parametrize("how", ["handler", "http"])
def test_no_handler_runs_for_a_client_that_hung_up_while_the_server_slept(
    how: str, behind: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    served: list[object] = []

    def http(request: Request) -> None:
        served.append(Upgrader().upgrade(request))

    listener = socket.create_server((HERE, 0))
    peers = set()
    for _ in range(20):  # nobody accepts yet
        with socket.create_connection(listener.getsockname()) as sock:
            peers.add("{}:{}".format(*sock.getsockname()))
            sock.sendall(REQUEST + behind)
    ways: dict[str, Any] = {"http": http} if how == "http" else {}
    with Server(None if ways else served.append, sock=listener, **ways):
        until(lambda: len(of_clients(caplog)) >= len(peers))
    assert served == []
    told = "the client hung up before it was answered"
    assert set(of_clients(caplog)) == {f"koko.server INFO {peer} /: {told}" for peer in peers}
    assert {record.levelno for record in caplog.records} == {logging.INFO}


def test_everybody_who_is_turned_away_is_one_line_with_the_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    with Server(echo, HERE, max_connections=1) as server:
        with dial(f"ws://{HERE}:{server.address[1]}/", proxy=None):
            callers = [
                Caller("", b"", "waits", "").calls(server.address) for _ in range(MOST_REFUSED + 4)
            ]
            until(lambda: len(of_clients(caplog)) == 4)  # those that were hung up on
            for sock, _ in callers:
                sock.close()
            until(lambda: len(of_clients(caplog)) == len(callers))
            told = str(server_full(1))
            assert set(of_clients(caplog)) == {
                f"koko.server INFO {peer} -: {told}" for _, peer in callers
            }


def test_a_request_that_is_upgraded_while_the_server_closes_is_told_so_as_a_connection() -> None:
    asked, closing = threading.Event(), threading.Event()

    def http(request: Request) -> None:
        asked.set()
        assert closing.wait(PATIENCE)
        with Upgrader().upgrade(request) as conn:
            list(conn)

    with Server(None, HERE, http=http) as server:
        with socket.create_connection(server.address) as client:
            client.sendall(REQUEST)
            client.settimeout(PATIENCE)
            assert asked.wait(PATIENCE)
            done = in_thread(server.close)
            until(lambda: server._clients.closing)
            until(
                lambda: has_hung_up(
                    next(iter(server._clients.threads.values())).stream.socket.fileno()
                )
            )
            closing.set()
            heard = b""
            while piece := client.recv(4096):
                heard += piece
            client.close()
            done.result(PATIENCE)
    assert heard.startswith(b"HTTP/1.1 101 ")
    assert heard.endswith(b"\x88\x02\x03\xe9")  # 1001
