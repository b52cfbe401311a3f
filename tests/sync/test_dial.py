"""The client for threads, against servers that do what real ones should not."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from typing import Any

import pytest

from koko.core.handshake import accept_key
from koko.core.head import RequestParser
from koko.errors import ErrBadHandshake, HandshakeError
from koko.sync import Dialer, Server, dial
from koko.sync import network as network
from tests.sync.conftest import PATIENCE, in_thread
from tests.wire import wire

REFUSED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 8\r\n\r\nno entry"


@contextmanager
def answering(*answers: bytes | None) -> Iterator[tuple[int, list[Any]]]:
    """Listen, and give each client in turn an answer; None for a proper one."""
    requests: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)

        def run() -> None:
            for answer in answers:
                sock, _ = listener.accept()
                with sock:
                    sock.settimeout(PATIENCE)
                    requests.append(read_request(sock))
                    sock.sendall(answer if answer is not None else accepted(requests[-1]))
                    while sock.recv(1000):
                        pass

        done = in_thread(run)
        yield listener.getsockname()[1], requests
        done.result(PATIENCE)


def read_request(sock: socket.socket) -> Any:
    parser, request = RequestParser(), None
    while request is None:
        request = parser.feed(sock.recv(65536))
    return request


def accepted(request: Any) -> bytes:
    key = accept_key(request.headers["Sec-WebSocket-Key"])
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {key}\r\n\r\n"
    ).encode()


def test_a_refusal_is_shown_with_the_beginning_of_its_body() -> None:
    with answering(REFUSED) as (port, _), pytest.raises(ErrBadHandshake) as caught:
        dial(f"ws://127.0.0.1:{port}")
    assert caught.value.status == 401
    assert caught.value.response.body == b"no entry"


def test_of_a_refusal_that_never_ends_what_came_is_shown() -> None:
    endless = REFUSED.replace(b"8\r\n", b"800\r\n")
    with answering(endless) as (port, _), pytest.raises(ErrBadHandshake) as caught:
        dial(f"ws://127.0.0.1:{port}", handshake_timeout=0.1)
    assert caught.value.response.body == b"no entry"


def test_what_is_not_http_is_an_error_that_says_so() -> None:
    with answering(b"220 mail.example ESMTP\r\n") as (port, _):
        with pytest.raises(HandshakeError, match="220 mail"):
            dial(f"ws://127.0.0.1:{port}")


def test_what_the_server_sends_behind_its_answer_comes_first() -> None:
    def greet(request: Any) -> bytes:
        return accepted(request) + wire("1 000 0001  0 0000010", b"hi")

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            with listener.accept()[0] as sock:
                sock.sendall(greet(read_request(sock)))

        done = in_thread(run)
        conn = dial(f"ws://127.0.0.1:{listener.getsockname()[1]}")
        assert conn.recv(PATIENCE) == "hi"
        done.result(PATIENCE)
        conn.abort()


def test_a_server_that_never_answers_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(TimeoutError, match=rf"no handshake with ws://127.0.0.1:{port}/ within"):
            dial(f"ws://127.0.0.1:{port}", handshake_timeout=0.05)
        with pytest.raises(TimeoutError, match="no handshake with wss://"):
            dial(f"wss://127.0.0.1:{port}", handshake_timeout=0.05)


def test_a_name_server_that_never_answers_is_given_up_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, never = socket.getaddrinfo, in_thread(lambda: None).__class__()

    def stuck(host: str, *args: Any, **keywords: Any) -> Any:
        return never.result() if not keywords.get("flags") else real(host, *args, **keywords)

    monkeypatch.setattr(network.socket, "getaddrinfo", stuck)
    with pytest.raises(TimeoutError, match="no handshake with ws://slow.example/"):
        dial("ws://slow.example", handshake_timeout=0.05, proxy=None)
    never.set_exception(OSError("over"))


def test_every_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(None) as (port, _), socket.create_server(("127.0.0.1", 0)) as closed:
        dead = closed.getsockname()[1]
        closed.close()
        stream = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        found = [(*stream, ("127.0.0.1", dead)), (*stream, ("127.0.0.1", port))]
        monkeypatch.setattr(network, "_resolve", lambda *where: found)
        dial("ws://two.example", proxy=None).abort()


def test_no_address_that_answers_is_an_error_with_all_their_reasons() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionRefusedError, match=rf"127.0.0.1 port {port}: 127.0.0.1: Conn"):
        dial(f"ws://127.0.0.1:{port}")


def test_a_name_that_is_unknown_is_an_error_that_names_it() -> None:
    with pytest.raises(socket.gaierror, match=r"'no\.such\.name\.invalid'"):
        dial("ws://no.such.name.invalid", proxy=None)


def test_a_redirect_is_followed_with_its_cookies() -> None:
    there = b"HTTP/1.1 302 Found\r\nLocation: /there\r\nSet-Cookie: seen=1\r\n"
    there += b"Content-Length: 0\r\n\r\n"
    with answering(there, None) as (port, requests):
        dial(f"ws://127.0.0.1:{port}/here", jar=CookieJar()).abort()
    assert [request.target for request in requests] == ["/here", "/there"]
    assert requests[1].headers["Cookie"] == "seen=1"


def test_the_headers_of_one_dial_replace_those_of_the_dialer() -> None:
    dialer = Dialer(headers={"X-Who": "all", "X-All": "yes"})
    with answering(None) as (port, requests):
        dialer.dial(f"ws://127.0.0.1:{port}", {"X-Who": "me"}).abort()
    assert requests[0].headers.getall("X-Who") == ["me"]
    assert requests[0].headers["X-All"] == "yes"


def test_a_certificate_nobody_vouches_for_is_refused(server_tls: ssl.SSLContext) -> None:
    with Server(lambda conn: None, "127.0.0.1", ssl=server_tls) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            dial(f"wss://127.0.0.1:{server.address[1]}")


def test_a_dial_that_fails_hangs_up() -> None:
    with answering(REFUSED, b"nonsense") as (port, _):  # which waits for the end of each
        for _ in range(2):
            with pytest.raises(HandshakeError):
                dial(f"ws://127.0.0.1:{port}")


# Proxies


class Proxy:
    """A proxy of a few lines: CONNECT or SOCKS5, one client after the other."""

    def __init__(self, context: ssl.SSLContext | None = None, refuse: bytes = b"") -> None:
        self.context, self.refuse = context, refuse
        self.asked: list[Any] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(PATIENCE)
        self.port = self.listener.getsockname()[1]

    def http(self) -> None:
        sock, _ = self.listener.accept()
        sock.settimeout(PATIENCE)
        if self.context:
            sock = self.context.wrap_socket(sock, server_side=True)
        with sock:
            request = read_request(sock)
            self.asked.append(request)
            if self.refuse:
                sock.sendall(self.refuse)
                return
            host, _, port = request.target.rpartition(":")
            with socket.create_connection((host, int(port))) as onward:
                sock.sendall(b"HTTP/1.1 200 Connection established\r\nVia: here\r\n\r\n")
                relay(sock, onward)

    def socks(self) -> None:
        sock, _ = self.listener.accept()
        with sock:
            assert sock.recv(262)[0] == 5
            sock.sendall(b"\x05\x00")
            wish = sock.recv(262)
            self.asked.append(wish)
            size = wish[4] if wish[3] == 3 else 0
            host = wish[5 : 5 + size].decode() if size else socket.inet_ntoa(wish[4:8])
            with socket.create_connection((host, int.from_bytes(wish[-2:], "big"))) as onward:
                sock.sendall(b"\x05\x00\x00\x01" + bytes(6))
                relay(sock, onward)


def relay(near: socket.socket, far: socket.socket) -> None:
    def pour(source: socket.socket, sink: socket.socket) -> None:
        try:
            while piece := source.recv(65536):
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    back = in_thread(pour, far, near)
    pour(near, far)
    back.result(PATIENCE)


@pytest.fixture
def secure_server(server_tls: ssl.SSLContext) -> Iterator[Server]:
    def echo(conn: Any) -> None:
        for message in conn:
            conn.send(message)

    with Server(echo, "127.0.0.1", ssl=server_tls) as server:
        yield server


def converse(server: Server, proxy: str, context: ssl.SSLContext) -> None:
    with dial(f"wss://127.0.0.1:{server.address[1]}", proxy=proxy, ssl=context) as conn:
        conn.send("through")
        assert conn.recv(PATIENCE) == "through"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_connect_opens_the_way_through_a_proxy(
    scheme: str,
    secure_server: Server,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
) -> None:
    proxy = Proxy(server_tls if scheme == "https" else None)
    with proxy.listener:
        done = in_thread(proxy.http)
        converse(secure_server, f"{scheme}://me:p%40ss@127.0.0.1:{proxy.port}", client_tls)
        done.result(PATIENCE)
    (request,) = proxy.asked
    assert request.target == f"127.0.0.1:{secure_server.address[1]}"
    assert request.headers["Proxy-Authorization"] == "Basic bWU6cEBzcw=="


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_python_socks_opens_the_way_through_a_socks_proxy(
    scheme: str, secure_server: Server, client_tls: ssl.SSLContext
) -> None:
    proxy = Proxy()
    with proxy.listener:
        done = in_thread(proxy.socks)
        converse(secure_server, f"{scheme}://127.0.0.1:{proxy.port}", client_tls)
        done.result(PATIENCE)


def test_a_proxy_that_refuses_is_quoted_without_its_password() -> None:
    proxy = Proxy(refuse=b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
    with proxy.listener:
        done = in_thread(proxy.http)
        with pytest.raises(ErrBadHandshake) as caught:
            dial("ws://here.example", proxy=f"http://me:secret@127.0.0.1:{proxy.port}")
        done.result(PATIENCE)
    assert caught.value.status == 407
    assert "secret" not in str(caught.value)
    assert "Who are you" in str(caught.value)


def test_a_socks_proxy_without_the_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "python_socks", None)
    with pytest.raises(ImportError, match=r"pip install 'koko\[proxy\]'"):
        dial("ws://here.example", proxy="socks5://127.0.0.1:1")
