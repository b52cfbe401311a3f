"""``upgrade``, for threads: one handler that answers HTTP or makes a connection of it."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from typing import Any

import pytest

from koko import CloseError, ErrBadHandshake, HandshakeError, Request, Response
from koko.opening.handshake import build_request, make_key
from koko.opening.head import write_request
from koko.sync import Conn, Server, Upgrader, dial
from tests.sync.conftest import PATIENCE, in_thread, tcp_pair

HERE = "127.0.0.1"


def url(server: Server, path: str = "/") -> str:
    return f"ws://{HERE}:{server.address[1]}{path}"


def ask(server: Server, request: bytes) -> bytes:
    received = b""
    with socket.create_connection(server.address, timeout=PATIENCE) as raw:
        raw.sendall(request)
        while piece := raw.recv(65536):
            received += piece
    return received


def site(request: Request) -> Response | None:
    """A page and two WebSockets with different options, as in Go's mux."""
    if request.path == "/":
        return Response(200, "a page")
    if request.path == "/echo":
        with Upgrader(subprotocols=["chat"]).upgrade(request, {"X-Room": "1"}) as conn:
            for message in conn:
                conn.send(message)
    elif request.path == "/open":
        Upgrader(origins="*").upgrade(request).send("hello")
    return None


def test_one_handler_answers_pages_and_makes_connections() -> None:
    with Server(None, HERE, http=site) as server:
        with dial(url(server, "/echo"), subprotocols=["chat"]) as conn:
            conn.send("hello")
            assert conn.recv(PATIENCE) == "hello"
            assert conn.subprotocol == "chat"
            assert conn.response.headers["X-Room"] == "1"
            assert [each.request.path for each in server.connections] == ["/echo"]
        assert ask(server, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").endswith(b"a page")
    assert str(conn.ending) == "we closed with 1000 (normal); peer answered 1000"


def test_each_upgrader_has_its_own_rules() -> None:
    foreign = {"Origin": "https://elsewhere.example"}
    with Server(None, HERE, http=site) as server:
        with dial(url(server, "/open"), headers=foreign) as conn:
            assert conn.recv(PATIENCE) == "hello"
        with pytest.raises(ErrBadHandshake) as refused:
            dial(url(server, "/echo"), headers=foreign)
    assert refused.value.status == 403
    assert b"origin 'https://elsewhere.example' is not the host" in refused.value.response.body


def test_a_callback_that_returns_closes_its_connection_with_1000() -> None:
    with Server(None, HERE, http=site) as server, dial(url(server, "/open")) as conn:
        assert list(conn) == ["hello"]
        assert str(conn.ending) == "peer closed with 1000 (normal); we answered 1000"


def test_a_websocket_that_nobody_makes_is_refused_with_404() -> None:
    with Server(None, HERE, http=site) as server:
        with pytest.raises(ErrBadHandshake) as refused:
            dial(url(server, "/nowhere"))
        plain = ask(server, b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")
    assert refused.value.status == 404
    assert refused.value.response.body == b"there is no WebSocket at '/nowhere'"
    assert plain.startswith(b"HTTP/1.1 426 ")


def test_a_request_without_the_wish_to_upgrade_is_refused_by_upgrade() -> None:
    with Server(None, HERE, http=site) as server:
        answer = ask(server, b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 426 ")
    assert b"Upgrade: websocket\r\n" in answer


def test_a_post_that_wants_to_upgrade_is_refused_with_405() -> None:
    key = make_key()
    head = write_request(build_request("x", "/echo", key)).replace(b"GET", b"POST", 1)
    with Server(None, HERE, http=site) as server:
        assert ask(server, head).startswith(b"HTTP/1.1 405 ")


def test_error_writes_the_answer_to_a_refused_client() -> None:
    def page(request: Request, error: HandshakeError) -> Response:
        return Response(error.status, f"<p>{error.reason}</p>", {"Content-Type": "text/html"})

    def http(request: Request) -> None:
        Upgrader(error=page, check_origin=lambda request: False).upgrade(request)

    with Server(None, HERE, http=http) as server, pytest.raises(ErrBadHandshake) as refused:
        dial(url(server))
    assert refused.value.status == 403
    assert refused.value.response.headers["Content-Type"] == "text/html"
    assert refused.value.response.body.startswith(b"<p>origin None was refused")


def test_a_callback_may_answer_a_refused_client_by_itself() -> None:
    def http(request: Request) -> Response | None:
        try:
            Upgrader(check_origin=lambda request: False).upgrade(request)
        except HandshakeError as error:
            return Response(error.response.status if error.response else 0, "my own words")
        return None

    with Server(None, HERE, http=http) as server, pytest.raises(ErrBadHandshake) as refused:
        dial(url(server))
    assert refused.value.response.body == b"my own words"


def test_a_callback_that_fails_in_its_conversation_closes_with_1011(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def http(request: Request) -> None:
        Upgrader().upgrade(request)
        raise LookupError("nothing there")

    with Server(None, HERE, http=http) as server, dial(url(server)) as conn:
        with pytest.raises(CloseError) as closed:
            conn.recv(PATIENCE)
    assert closed.value.code == 1011
    assert "LookupError: nothing there" in caplog.text


def test_closing_the_server_closes_what_a_callback_made_with_1001() -> None:
    with Server(None, HERE, http=site) as server, dial(url(server, "/echo")) as conn:
        conn.send("hello")
        assert conn.recv(PATIENCE) == "hello"
        closing = in_thread(server.close)
        with pytest.raises(CloseError) as closed:
            conn.recv(PATIENCE)
        assert closed.value.code == 1001
        closing.result(PATIENCE)


def test_a_request_is_upgraded_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    def http(request: Request) -> None:
        with Upgrader().upgrade(request):
            Upgrader().upgrade(request)

    with Server(None, HERE, http=http) as server, dial(url(server)) as conn:
        with pytest.raises(CloseError):
            conn.recv(PATIENCE)
    assert "RuntimeError: this request has been upgraded or answered already" in caplog.text


def test_a_request_that_was_answered_is_not_upgraded_any_more() -> None:
    kept: list[Request] = []

    def http(request: Request) -> Response:
        kept.append(request)
        return Response(200)

    with Server(None, HERE, http=http) as server, pytest.raises(ErrBadHandshake, match="200"):
        dial(url(server))
    with pytest.raises(RuntimeError, match="upgraded or answered already"):
        Upgrader().upgrade(kept[0])


def test_a_bad_header_leaves_the_request_to_be_answered(caplog: pytest.LogCaptureFixture) -> None:
    def http(request: Request) -> None:
        Upgrader().upgrade(request, {"X": "a\r\nb"})

    with Server(None, HERE, http=http) as server, pytest.raises(ErrBadHandshake, match="500"):
        dial(url(server))
    assert "which no header may have" in caplog.text


def test_a_server_needs_a_handler_or_http() -> None:
    with pytest.raises(TypeError, match="needs a handler, or http="):
        Server(None, HERE)


def test_a_request_over_http_2_is_refused_and_its_socket_left_alone() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("rb") as reader:
        environ = {"REQUEST_METHOD": "GET", "SERVER_PROTOCOL": "HTTP/2", "wsgi.input": reader}
        with pytest.raises(HandshakeError, match="400: request is HTTP/2, expected HTTP/1.1"):
            Upgrader().upgrade(environ)
        ours.sendall(b"still in use")
        assert theirs.recv(100) == b"still in use"


# A TLS session that another server has begun


def test_a_lent_tls_session_is_read_and_written_at_once(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    ours, theirs = tcp_pair()
    wrapping = in_thread(server_tls.wrap_socket, ours, server_side=True)
    client = client_tls.wrap_socket(theirs, server_hostname="localhost")
    server = wrapping.result(PATIENCE)
    client.sendall(write_request(build_request("localhost", "/", make_key())))
    conn = upgraded(server, read_limit=None)
    threads = threading.active_count()
    client.settimeout(PATIENCE)
    with client:
        assert client.recv(1000).startswith(b"HTTP/1.1 101 ")
        much = bytes(3_000_000)
        sending = in_thread(conn.send, much)
        receiving = in_thread(conn.recv, PATIENCE)
        head = b"\x82\xff" + len(much).to_bytes(8, "big") + bytes(4)
        pushing = in_thread(client.sendall, head + much)
        received = bytearray()
        while len(received) < 10 + len(much):
            received += client.recv(1 << 16)
        sending.result(PATIENCE)
        pushing.result(PATIENCE)
        assert receiving.result(PATIENCE) == much
        closing = in_thread(conn.close)
        assert client.recv(1000) == b"\x88\x02\x03\xe8"
        client.sendall(b"\x88\x82" + bytes(4) + b"\x03\xe8")
        assert client.recv(1) == b""
        closing.result(PATIENCE)
    assert threads <= threading.active_count() + 1
    with pytest.raises(OSError):  # noqa: PT011 - any: the server's answer goes nowhere
        server.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    server.close()


def upgraded(sock: ssl.SSLSocket, **options: Any) -> Conn:
    """Upgrade as in a view of a server that reads through a file of its socket."""
    reader = sock.makefile("rb")
    method, target, protocol = reader.readline().decode().split()
    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": target,
        "SERVER_PROTOCOL": protocol,
        "wsgi.input": reader,
        "wsgi.url_scheme": "https",
        "werkzeug.socket": sock,
    }
    while (line := reader.readline().decode().strip()) != "":
        name, _, value = line.partition(": ")
        environ["HTTP_" + name.upper().replace("-", "_")] = value
    conn = Upgrader(**options).upgrade(environ)
    reader.close()
    return conn
