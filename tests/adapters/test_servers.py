"""The same claims for every server that a connection can be taken from, each as it really runs."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
import websockets.sync.client

from koko import CloseError, ErrBadHandshake
from koko.sync import dial
from tests.adapters.conftest import PATIENCE, Site, each, serving
from tests.wire import wire

WSGI = ["werkzeug", "gthread", "gevent", "pywsgi", "wsgiref"]
TLS = ["werkzeug+tls", "gthread+tls", "gevent+tls"]
UPGRADE = (
    b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n"
)


@pytest.fixture(scope="module", params=each(*WSGI, *TLS, "http_server", "sync", "aio"))
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA
) -> Iterator[Site]:
    log = tmp_path_factory.mktemp("site") / "log"
    with serving(request.param, log, authority) as site:
        before = site.state()
        yield site
        site.waits_for(**before)  # no socket and no thread is left of all the conversations
    said = log.read_text()
    assert said.count("Traceback") == said.count(": on purpose"), said
    assert "Bad file descriptor" not in said


def test_text_and_a_large_binary_message_are_echoed(site: Site) -> None:
    with dial(site.url("/echo"), ssl=site.tls, proxy=None, compression=True) as conn:
        for message in ("hello", "é" * 1000, bytes(1 << 20), b""):
            conn.send(message)
            assert conn.recv(PATIENCE) == message
        assert conn.ping(timeout=PATIENCE) > 0
        assert "permessage-deflate" in conn.response.headers["Sec-WebSocket-Extensions"]
    assert str(conn.ending) == "we closed with 1000 (normal); peer answered 1000"


def test_the_client_of_websockets_is_echoed(site: Site) -> None:
    with websockets.sync.client.connect(
        site.url("/echo"), ssl=site.tls, proxy=None, subprotocols=["soap", "chat"]
    ) as client:
        assert client.subprotocol == "chat"
        for message in ("hello", bytes(range(256)) * 1000):
            client.send(message)
            assert client.recv(PATIENCE) == message
    assert client.close_code == 1000


def test_what_came_in_one_packet_with_the_request_is_heard(site: Site) -> None:
    first = wire("1 000 0001 1 len", b"early")
    with site.connect() as raw:
        raw.sendall(UPGRADE % (b"/echo", b"") + first + first[:4])
        assert read_until(raw, b"\x81\x05early").startswith(b"HTTP/1.1 101 ")
        raw.sendall(first[4:] + wire("1 000 1000 1 len", b"\x03\xe8"))
        assert read_until(raw, b"\x88") == b"\x81\x05early\x88\x02\x03\xe8"
        assert raw.recv(1) == b""


def test_a_trusted_proxy_tells_whose_a_connection_is(site: Site) -> None:
    told = [("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-Host", "app.example")]
    page = [("Origin", "https://app.example")]
    with dial(site.url("/whose"), ssl=site.tls, proxy=None, headers=told + page) as conn:
        assert conn.recv(PATIENCE) == "('203.0.113.9', 0)"
    with dial(site.url("/whose"), ssl=site.tls, proxy=None) as conn:
        assert conn.recv(PATIENCE) == repr(conn.local_address)
    with pytest.raises(ErrBadHandshake) as refused:
        dial(site.url("/echo"), ssl=site.tls, proxy=None, headers=told + page)  # trusts nobody
    assert refused.value.status == 403


def test_a_foreign_page_is_refused_with_a_sentence(site: Site) -> None:
    with pytest.raises(ErrBadHandshake) as refused:
        dial(
            site.url("/echo"),
            headers={"Origin": "https://evil.example"},
            ssl=site.tls,
            proxy=None,
        )
    answer = refused.value.response
    assert answer.status == 403
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert b"origin 'https://evil.example' is not the host '127.0.0.1:" in answer.body


def test_a_refused_client_is_a_line_with_its_address_and_path(site: Site) -> None:
    with site.connect() as raw:
        host, port = raw.getsockname()
        raw.sendall(UPGRADE % (b"/echo?token=secret", b"Origin: https://evil.example\r\n"))
        assert b" 403 " in read_until(raw, b"\r\n")
    lines = site.log.read_text().splitlines()
    (line,) = (each for each in lines if f"{host}:{port} /echo: " in each)
    assert "403: origin 'https://evil.example' is not the host '127.0.0.1" in line
    assert "secret" not in line


def test_a_request_that_asks_for_no_websocket_is_told_to(site: Site) -> None:
    with site.connect() as raw:
        raw.sendall(b"GET /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = read_until(raw, b"expected 'websocket' (RFC 6455 \xc2\xa74.2.1)")
    assert answer.startswith(b"HTTP/1.1 426 ") or answer.startswith(b"HTTP/1.0 426 ")
    assert b"Sec-WebSocket-Version: 13\r\n" in answer


def test_a_handshake_with_a_body_is_refused(site: Site) -> None:
    with site.connect() as raw:
        raw.sendall(UPGRADE % (b"/echo", b"Content-Length: 5\r\n") + b"hello")
        assert b" 413 " in read_until(raw, b"\r\n")


def test_a_method_that_is_not_get_is_refused(site: Site) -> None:
    if site.name.startswith("http_server"):
        return  # answers by itself what has no do_POST
    with site.connect() as raw:
        raw.sendall((UPGRADE % (b"/echo", b"")).replace(b"GET", b"POST", 1))
        assert b" 405 " in read_until(raw, b"\r\n")


def test_headers_of_the_application_are_sent_and_the_view_may_return_early(site: Site) -> None:
    if site.name.endswith("+tls") and not site.name.startswith("sync"):
        return  # a TLS session cannot be moved: the view stays as long as it lasts
    with dial(site.url("/handed"), ssl=site.tls, proxy=None) as conn:
        assert conn.response.headers["Set-Cookie"] == "seen=yes"
        for message in ("one", "two"):
            conn.send(message)
            assert conn.recv(PATIENCE) == message
            site.state()  # the server goes on with other things
    assert str(conn.ending) == "we closed with 1000 (normal); peer answered 1000"


def test_a_view_may_give_its_thread_back_where_the_server_does_not_end_tls(site: Site) -> None:
    with dial(site.url("/threaded"), ssl=site.tls, proxy=None) as conn:
        for message in ("one", "two"):
            conn.send(message)
            assert conn.recv(PATIENCE) == message
            site.state()  # the server goes on with other things
    assert str(conn.ending) == "we closed with 1000 (normal); peer answered 1000"
    if site.name in TLS:
        with dial(site.url("/threaded"), ssl=site.tls, proxy=None):
            pass
        assert site.log.read_text().count("thread=True has no effect: this server ends TLS") == 1


def test_a_handler_that_raises_closes_with_1011(site: Site) -> None:
    with dial(site.url("/fails"), ssl=site.tls, proxy=None) as conn:
        with pytest.raises(CloseError) as closed:
            conn.recv(PATIENCE)
    assert closed.value.code == 1011


def test_a_handler_that_leaves_by_sys_exit_ends_its_own_conversation_only(site: Site) -> None:
    if site.name == "aio":
        return  # it ends the loop, as in any task
    with dial(site.url("/echo"), ssl=site.tls, proxy=None) as other:
        with dial(site.url("/exits"), ssl=site.tls, proxy=None) as conn:
            with pytest.raises(CloseError) as closed:
                conn.recv(PATIENCE)
        assert closed.value.code == (1001 if site.name == "sync" else 1011)  # by its own ``with``
        assert site.state()  # the thread that would have ended the server has had its turn
        other.send("hello")
        assert other.recv(PATIENCE) == "hello"


def test_a_handler_may_wait_with_a_timeout_and_ping(site: Site) -> None:
    with dial(site.url("/hurried"), ssl=site.tls, proxy=None) as conn:
        assert conn.recv(PATIENCE) == "no message came within 0.05 s"
        assert conn.recv(PATIENCE) == "True"
        with pytest.raises(CloseError):
            conn.recv(PATIENCE)
    assert str(conn.ending) == "peer closed with 1000 (normal); we answered 1000"


def test_silent_clients_are_pinged_and_dead_ones_given_up(site: Site) -> None:
    with site.connect() as raw:
        raw.sendall(UPGRADE % (b"/pinged", b""))
        raw.settimeout(PATIENCE)
        heard = read_until(raw, b"\x89")
        assert heard.startswith(b"HTTP/1.1 101 ")
        while raw.recv(1000):  # pings, a Close, then the end: nobody answers here
            pass


def test_a_client_that_vanishes_ends_the_conversation(site: Site) -> None:
    conn = dial(site.url("/echo"), ssl=site.tls, proxy=None)
    conn.send("hello")
    assert conn.recv(PATIENCE) == "hello"
    conn.abort()


def read_until(raw: socket.socket, end: bytes) -> bytes:
    heard = b""
    while end not in heard:
        piece = raw.recv(1000)
        assert piece, f"the stream ended after {heard!r}"
        heard += piece
    return heard


@pytest.mark.integration("gevent")
def test_gevent_without_its_patches_is_told_what_is_missing(tmp_path: Path) -> None:
    with serving("unpatched", tmp_path / "log") as site:
        with pytest.raises(ErrBadHandshake) as refused:
            dial(site.url("/echo"), proxy=None)
        assert refused.value.status == 500
        assert b"call gevent.monkey.patch_all() before anything" in refused.value.response.body


@pytest.mark.integration("waitress")
def test_waitress_is_told_that_it_keeps_its_socket(tmp_path: Path) -> None:
    with serving("waitress", tmp_path / "log") as site:
        with pytest.raises(ErrBadHandshake) as refused:
            dial(site.url("/echo"), proxy=None)
        assert refused.value.status == 500
        assert b"waitress does not hand over its socket" in refused.value.response.body
        with pytest.raises(ErrBadHandshake, match="403"):
            dial(site.url("/echo"), headers={"Origin": "https://evil.example"}, proxy=None)
