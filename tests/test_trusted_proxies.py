"""Servers behind proxies that they trust: the client's address, its host and its scheme."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import trustme

from koko import CloseError, HandshakeError, Request, Response, aio, sync
from koko.adapters import http_server
from koko.serving import MOST_REFUSED
from koko.sync import dial
from tests.logged import of_clients
from tests.sync.conftest import until
from tests.test_servers import PLAIN, Serve, on_asyncio, on_threads

CLIENT = "203.0.113.9"
TOLD = [("X-Forwarded-For", CLIENT), ("X-Forwarded-Host", "app.example")]
PAGE = [("Origin", "https://app.example")]
LOCAL = {"trusted_proxies": ["127.0.0.0/8", "unix"]}


@pytest.fixture(params=[on_threads, on_asyncio], ids=["threads", "asyncio"])
def serve(request: pytest.FixtureRequest) -> Serve:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "koko.server")


def address_of(conn: Any) -> Any:
    return conn.send(repr(conn.remote_address))


def closed(conn: sync.Conn) -> None:
    """Wait until the server has closed, whose handler has said all: or we might be first."""
    with pytest.raises(CloseError):
        conn.recv(10)


def url(server: Any) -> str:
    return f"ws://127.0.0.1:{server.address[1]}/chat"


def test_remote_address_is_the_client_s(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    with serve(address_of, **LOCAL) as server:
        with dial(url(server), headers=TOLD) as conn:
            assert conn.recv(10) == repr((CLIENT, 0))
            closed(conn)
    (line,) = of_clients(caplog)
    assert line.startswith(f"koko.server INFO {CLIENT} /chat: we closed with 1000")


def test_a_page_of_the_public_host_is_let_in_and_any_other_refused(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(address_of, **LOCAL) as server:
        with dial(url(server), headers=TOLD + PAGE) as conn:
            assert conn.recv(10) == repr((CLIENT, 0))
        with pytest.raises(HandshakeError, match="403"):
            dial(url(server), headers=[*TOLD, ("Origin", "https://evil.example")])
        (line,) = of_clients(caplog, logging.WARNING)
        assert line.startswith(
            f"koko.server WARNING {CLIENT} /chat: 403: origin 'https://evil.example' is not the "
            "host 'app.example'; to let this page in, add"
        )


def test_the_scheme_that_the_proxy_tells_counts(serve: Serve) -> None:
    page = [*TOLD, ("Origin", "http://app.example")]
    with serve(lambda conn: None, **LOCAL) as server:
        with pytest.raises(HandshakeError, match="403"):
            dial(url(server), headers=[*page, ("X-Forwarded-Proto", "https")])
        dial(url(server), headers=[*page, ("X-Forwarded-Proto", "http")]).close()


@pytest.mark.parametrize("trusted", [None, [], ["192.0.2.0/24", "unix"]])
def test_the_headers_of_an_untrusted_peer_are_ignored(
    serve: Serve, trusted: list[str] | None, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(address_of, trusted_proxies=trusted) as server:
        with dial(url(server), headers=TOLD) as conn:
            assert conn.recv(10) == repr(conn.local_address)
        with pytest.raises(HandshakeError, match="403"):
            dial(url(server), headers=TOLD + PAGE)
    assert CLIENT not in caplog.text


def test_the_clients_of_a_unix_socket_are_trusted_by_that_word(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        with serve(address_of, sock=sock, **LOCAL):
            with dial("ws://localhost/", unix=path, headers=TOLD + PAGE) as conn:
                assert conn.recv(10) == repr((CLIENT, 0))
    (line,) = of_clients(caplog)
    assert f" {CLIENT} /: " in line


@pytest.mark.parametrize("plain", [False, True], ids=["handshake", "page"])
def test_every_line_of_a_client_has_its_address(
    serve: Serve, plain: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def site(request: Request) -> Response:
        return Response(200, "hello")

    octets = PLAIN[:-2] + f"X-Forwarded-For: {CLIENT}\r\n\r\n".encode()
    with serve(lambda conn: None, http=site if plain else None, **LOCAL) as server:
        with socket.create_connection(server.address, 10) as sock:
            sock.sendall(octets)
            while sock.recv(4096):
                pass
    (line,) = of_clients(caplog)
    assert line.startswith(f"koko.server INFO {CLIENT} /: {'answered 200' if plain else '426'}")


def test_one_that_is_refused_for_want_of_room_has_its_address_too(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    assert MOST_REFUSED > 0
    with serve(lambda conn: conn.recv(), max_connections=1, **LOCAL) as server:
        with dial(url(server)) as first, pytest.raises(HandshakeError, match="503"):
            try:
                dial(url(server), headers=TOLD)
            finally:
                first.send("over")
    assert any(f" {CLIENT} /chat: 503" in line for line in of_clients(caplog))


def test_a_malformed_header_harms_nobody(serve: Serve) -> None:
    fields = [("X-Forwarded-For", 'a, ,;"('), ("Forwarded", 'for="'), ("X-Forwarded-Host", "//")]
    with serve(address_of, **LOCAL) as server:
        with dial(url(server), headers=fields) as conn:
            assert conn.recv(10) == repr(conn.local_address)


# Without a handler: the Upgrader of a path, and its server


@pytest.mark.parametrize(
    ("of_server", "of_upgrader", "believed"),
    [
        (["127.0.0.1"], None, True),
        (None, ["127.0.0.1"], True),
        (["127.0.0.1"], [], False),
        (None, None, False),
    ],
)
def test_an_upgrader_that_names_no_proxies_takes_those_of_its_server(
    serve: Serve, of_server: Any, of_upgrader: Any, believed: bool
) -> None:
    face = sync if serve is on_threads else aio
    upgrader = face.Upgrader(trusted_proxies=of_upgrader)  # type: ignore[attr-defined]

    def site(request: Request) -> Any:
        if face is sync:
            with upgrader.upgrade(request) as conn:
                return address_of(conn)
        return wait(request)

    async def wait(request: Request) -> None:
        async with upgrader.upgrade(request) as conn:
            await address_of(conn)

    with serve(None, http=site, trusted_proxies=of_server) as server:
        with dial(url(server), headers=TOLD + (PAGE if believed else [])) as conn:
            expected = (CLIENT, 0) if believed else conn.local_address
            assert conn.recv(10) == repr(expected)


# Behind TLS of our own, and inside another server


def test_a_connection_that_is_tls_itself_is_secure_unless_the_proxy_says_otherwise(
    serve: Serve,
) -> None:
    authority = trustme.CA()
    ours, theirs = (
        ssl.SSLContext(each) for each in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT)
    )
    authority.issue_cert("127.0.0.1").configure_cert(ours)
    authority.configure_trust(theirs)
    page = [*TOLD, ("Origin", "http://app.example")]
    with serve(lambda conn: None, ssl=ours, **LOCAL) as server:
        address = f"wss://127.0.0.1:{server.address[1]}/"
        with pytest.raises(HandshakeError, match="403"):
            dial(address, headers=page, ssl=theirs)
        dial(address, headers=[*page, ("X-Forwarded-Proto", "http")], ssl=theirs).close()


@pytest.fixture
def inside() -> Iterator[int]:
    upgrader = sync.Upgrader(**LOCAL)  # type: ignore[arg-type]

    class Handler(BaseHTTPRequestHandler):
        @http_server.websocket(upgrader)
        def do_GET(self, conn: sync.Conn) -> None:
            address_of(conn)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever).start()
        yield server.server_port
        server.shutdown()


def test_an_adapter_s_upgrader_trusts_its_proxies(
    inside: int, caplog: pytest.LogCaptureFixture
) -> None:
    with dial(f"ws://127.0.0.1:{inside}/", headers=TOLD + PAGE) as conn:
        assert conn.recv(10) == repr((CLIENT, 0))
        closed(conn)
    with dial(f"ws://127.0.0.1:{inside}/") as conn:
        assert conn.recv(10) == repr(conn.local_address)
    until(lambda: f"{CLIENT} /: we closed with 1000" in caplog.text)
