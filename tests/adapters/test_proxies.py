"""Koko behind nginx, haproxy and Caddy as they really run, by the files of docs/proxies.

TLS ends at the proxy unless a test says otherwise. The client has an address of its own, so
that it cannot be taken for the proxy.
"""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme

from koko import HandshakeError, Request, Response
from koko.core.codec import Decoder
from koko.core.wire import Role
from koko.sync import Conn, dial
from tests.adapters.proxies import HOST, PATIENCE, Proxy, running
from tests.adapters.uvicorn_server import serving
from tests.logged import of_clients
from tests.sync.conftest import until
from tests.test_proxy_protocol import echoes
from tests.test_servers import Serve, on_asyncio, on_threads
from tests.wire import wire

CLIENT = "127.0.0.77"
TRUSTING: dict[str, Any] = {"trusted_proxies": ["127.0.0.1"]}
PASSED_ON: dict[str, Any] = {**TRUSTING, "proxy_protocol": True}
PROGRAMS = {
    name: pytest.mark.integration(programs=[name]) for name in ("nginx", "haproxy", "caddy")
}
HTTP = ["nginx.conf", "haproxy.cfg", "Caddyfile"]
TCP = ["nginx-stream.conf", "haproxy-tcp.cfg"]

Way = tuple[str, dict[str, Any]]


def ways(*files: str) -> list[Any]:
    """Return files as parameters, with what the server is to be told and the program's mark."""
    found = []
    for name in files:
        which = {"Caddyfile": "caddy"}.get(name) or name.partition(".")[0].partition("-")[0]
        told = PASSED_ON if name in TCP else TRUSTING
        found.append(pytest.param((name, told), marks=[PROGRAMS[which]], id=name))
    return found


@pytest.fixture(params=[on_threads, on_asyncio], ids=["threads", "asyncio"])
def serve(request: pytest.FixtureRequest) -> Serve:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "koko.server")


@pytest.fixture(scope="module")
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


Behind = Callable[..., Any]


@pytest.fixture
def behind(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Behind:
    """Run a proxy in front of a server."""

    @contextmanager
    def run(name: str, server: Any, changed: dict[str, str] | None = None) -> Iterator[Proxy]:
        folder = tmp_path_factory.mktemp("proxy")
        with running(name, server.address[1], authority, folder, changed) as proxy:
            yield proxy

    return run


def connect(host: str, port: int, timeout: float | None = PATIENCE) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout, source_address=(CLIENT, 0))


def through(proxy: Proxy, tls: ssl.SSLContext | None, path: str = "/chat", **options: Any) -> Conn:
    scheme = "ws" if tls is None else "wss"
    url = f"{scheme}://{HOST}:{proxy.port}{path}"
    return dial(url, ssl=tls, net_dial=connect, proxy=None, **options)


def is_the_client(told: str | bytes, way: Way) -> bool:
    """Tell whether a ``remote_address`` is the client's; HTTP does not pass its port on."""
    host, port = eval(str(told))[:2]
    return host == CLIENT and (port > 0) is (way[0] in TCP)


@pytest.mark.parametrize("way", ways(*HTTP, *TCP))
def test_a_conversation_and_whose_it_is(
    way: Way,
    serve: Serve,
    behind: Behind,
    client_tls: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        serve(echoes(serve), compression=True, **way[1]) as server,
        behind(way[0], server) as proxy,
    ):
        with through(proxy, client_tls, compression=True) as conn:
            assert "permessage-deflate" in conn.response.headers["Sec-WebSocket-Extensions"]
            assert is_the_client(conn.recv(PATIENCE), way)
            for message in ("hello", "\xe9" * 100_000, bytes(1 << 19), b""):
                conn.send(message)
                assert conn.recv(PATIENCE) == message
            assert conn.ping(timeout=PATIENCE) > 0
    (line,) = [line for line in of_clients(caplog) if " /chat: " in line]
    assert line.startswith(f"koko.server INFO {CLIENT}{':' if way[0] in TCP else ' '}")
    assert " /chat: peer closed with 1000 (normal); we answered 1000" in line


@pytest.mark.parametrize("way", ways(*HTTP, *TCP))
def test_a_page_of_the_same_host_is_let_in_and_a_foreign_one_is_not(
    way: Way,
    serve: Serve,
    behind: Behind,
    client_tls: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serve(echoes(serve), **way[1]) as server, behind(way[0], server) as proxy:
        page = f"https://{HOST}:{proxy.port}"
        with through(proxy, client_tls, headers={"Origin": page}) as conn:
            assert is_the_client(conn.recv(PATIENCE), way)
        for foreign in (f"http://{HOST}:{proxy.port + 1}", "https://evil.example", "null"):
            with pytest.raises(HandshakeError, match="403"):
                through(proxy, client_tls, headers={"Origin": foreign})
    refused = of_clients(caplog, logging.WARNING)
    assert len(refused) == 3
    assert all(line.startswith(f"koko.server WARNING {CLIENT}") for line in refused)


@pytest.mark.parametrize("way", ways(*HTTP, *TCP))
def test_what_a_client_writes_of_itself_is_not_believed(
    way: Way, serve: Serve, behind: Behind, client_tls: ssl.SSLContext
) -> None:
    forged = [
        ("X-Forwarded-For", "1.1.1.1, 127.0.0.1"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Proto", "http"),
        ("Forwarded", "for=1.1.1.1;host=evil.example;proto=http"),
    ]
    with serve(echoes(serve), **way[1]) as server, behind(way[0], server) as proxy:
        with through(proxy, client_tls, headers=forged) as conn:
            assert is_the_client(conn.recv(PATIENCE), way)
        with pytest.raises(HandshakeError, match="403"):
            through(proxy, client_tls, headers=[*forged, ("Origin", "https://evil.example")])


@pytest.mark.parametrize("way", ways(*HTTP))
def test_a_page_that_came_to_the_proxy_without_tls_is_foreign(
    way: Way, behind: Behind, client_tls: ssl.SSLContext
) -> None:
    with on_threads(lambda conn: None, **way[1]) as server, behind(way[0], server) as proxy:
        for scheme, port in (("http", 80), ("http", 443)):
            fields = [("Origin", f"{scheme}://{HOST}:{port}"), ("Host", HOST)]
            assert (port == 443) is _is_let_in(proxy, client_tls, fields)


def _is_let_in(proxy: Proxy, tls: ssl.SSLContext, fields: list[tuple[str, str]]) -> bool:
    try:
        through(proxy, tls, headers=fields).close()
    except HandshakeError:
        return False
    return True


# nginx as it is without our file: it passes neither the host nor the address on


@PROGRAMS["nginx"]
def test_behind_a_default_nginx_a_page_is_refused_in_one_line_that_says_what_to_add(
    serve: Serve, behind: Behind, client_tls: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    bare = {
        f"proxy_set_header {line};": ""
        for line in (
            "Host $http_host",
            "X-Forwarded-For $proxy_add_x_forwarded_for",
            "X-Forwarded-Proto $scheme",
        )
    }
    with serve(echoes(serve), **TRUSTING) as server, behind("nginx.conf", server, bare) as proxy:
        page = f"https://{HOST}:{proxy.port}"
        with pytest.raises(HandshakeError, match="403"):
            through(proxy, client_tls, headers={"Origin": page})
        through(proxy, client_tls).close()
        (line,) = of_clients(caplog, logging.WARNING)
        assert line.endswith(
            f" /chat: 403: origin '{page}' is not the host '127.0.0.1:{server.address[1]}'; to let "
            f"this page in, add '{page}' to origins=; behind a proxy, have it pass the public host "
            "on (nginx: proxy_set_header Host $http_host)"
        )
    listed = {**TRUSTING, "origins": [f"https://{HOST}:*"]}
    with serve(echoes(serve), **listed) as server, behind("nginx.conf", server, bare) as proxy:
        page = f"https://{HOST}:{proxy.port}"
        through(proxy, client_tls, headers={"Origin": page}).close()


@PROGRAMS["nginx"]
@pytest.mark.parametrize(
    ("lacking", "status"),
    [
        ("proxy_http_version 1.1;", 400),
        ("proxy_set_header Upgrade $http_upgrade;", 426),
        ("proxy_set_header Connection $connection_upgrade;", 426),
    ],
)
def test_an_upgrade_that_nginx_does_not_pass_on_is_one_line_that_says_what_to_add(
    lacking: str,
    status: int,
    behind: Behind,
    client_tls: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with on_threads(lambda conn: None, **TRUSTING) as server:
        with behind("nginx.conf", server, {lacking: ""}) as proxy:
            with pytest.raises(HandshakeError, match=str(status)):
                through(proxy, client_tls)
    (line,) = of_clients(caplog, logging.WARNING)
    assert f"/chat: {status}: " in line
    assert "have the proxy pass the upgrade on (nginx: proxy_http_version 1.1, " in line


@pytest.mark.parametrize("way", ways(*HTTP))
@pytest.mark.integration("uvicorn")
def test_uvicorn_behind_a_proxy_that_only_it_believes(
    way: Way, behind: Behind, client_tls: ssl.SSLContext, tmp_path: Path
) -> None:
    app = "https://app.example"
    with serving(tmp_path / "uvicorn.log", KOKO_ORIGINS=app) as site:
        uvicorn = SimpleNamespace(address=("127.0.0.1", site.port))
        with behind(way[0], uvicorn) as proxy:
            with through(proxy, client_tls, path="/echo", headers={"Origin": app}) as conn:
                conn.send("hello")
                assert conn.recv(PATIENCE) == "hello"
            with pytest.raises(HandshakeError, match="is not in origins="):
                through(proxy, client_tls, path="/echo", headers={"Origin": "https://b.example"})
    log = (tmp_path / "uvicorn.log").read_text()
    assert f'{CLIENT}:0 - "WebSocket /echo" [accepted]' in log
    assert f'{CLIENT} - "WebSocket /echo" 403: origin ' in log


@PROGRAMS["nginx"]
@pytest.mark.integration("uvicorn")
def test_an_upgrade_that_nginx_does_not_pass_on_to_uvicorn_asks_it_for_a_page(
    behind: Behind, client_tls: ssl.SSLContext, tmp_path: Path
) -> None:
    lacking = {"proxy_http_version 1.1;": "", "proxy_set_header Upgrade $http_upgrade;": ""}
    with serving(tmp_path / "uvicorn.log") as site:
        uvicorn = SimpleNamespace(address=("127.0.0.1", site.port))
        with behind("nginx.conf", uvicorn, lacking) as proxy:
            with pytest.raises(HandshakeError, match="200"):
                through(proxy, client_tls)
    assert '"GET /chat HTTP/1.0" 200 OK' in (tmp_path / "uvicorn.log").read_text()


@PROGRAMS["nginx"]
def test_a_unix_socket_behind_nginx(
    serve: Serve, authority: trustme.CA, client_tls: ssl.SSLContext, tmp_path: Path
) -> None:
    path = tmp_path / "koko.sock"
    changed = {"http://127.0.0.1:8765": f"http://unix:{path}:"}
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        with serve(echoes(serve), sock=sock, trusted_proxies=["unix"]):
            with running("nginx.conf", 0, authority, tmp_path, changed) as proxy:
                page = f"https://{HOST}:{proxy.port}"
                with through(proxy, client_tls, headers={"Origin": page}) as conn:
                    assert conn.recv(PATIENCE) == repr((CLIENT, 0))


# The PROXY protocol, in its other ways

AT_KOKO = {
    "haproxy-tcp.cfg": {" ssl crt /etc/ssl/app.example.pem": ""},
    "nginx-stream.conf": {
        "listen 443 ssl;": "listen 443;",
        "ssl_certificate /etc/ssl/app.example.pem;": "",
        "ssl_certificate_key /etc/ssl/app.example.key;": "",
    },
}
VERSIONS = {
    "haproxy v1": ("haproxy-tcp.cfg", {"send-proxy-v2-ssl check": "send-proxy check"}),
    "haproxy v2": ("haproxy-tcp.cfg", {"send-proxy-v2-ssl check": "send-proxy-v2 check"}),
    "haproxy v2 with TLS": ("haproxy-tcp.cfg", {}),
    "nginx v1": ("nginx-stream.conf", {}),
}


@pytest.mark.parametrize("tls_at", ["proxy", "koko"])
@pytest.mark.parametrize(
    "which", [pytest.param(name, marks=PROGRAMS[name.split()[0]]) for name in VERSIONS]
)
def test_the_proxy_protocol_of_each_version(
    which: str,
    tls_at: str,
    serve: Serve,
    behind: Behind,
    authority: trustme.CA,
    client_tls: ssl.SSLContext,
) -> None:
    name, changed = VERSIONS[which]
    ours = None
    if tls_at == "koko":
        changed = {**changed, **AT_KOKO[name]}
        ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(HOST).configure_cert(ours)
    with serve(echoes(serve), ssl=ours, **PASSED_ON) as server:
        with behind(name, server, changed) as proxy, through(proxy, client_tls) as conn:
            assert is_the_client(conn.recv(PATIENCE), (name, {}))
            conn.send("hello")
            assert conn.recv(PATIENCE) == "hello"


@PROGRAMS["haproxy"]
def test_that_a_client_came_over_tls_is_known_from_the_header(
    behind: Behind, client_tls: ssl.SSLContext
) -> None:
    fields = [("Origin", f"http://{HOST}"), ("Host", HOST)]
    with on_threads(lambda conn: None, **PASSED_ON) as server:
        with behind("haproxy-tcp.cfg", server) as proxy:
            assert not _is_let_in(proxy, client_tls, fields)


@PROGRAMS["haproxy"]
@pytest.mark.parametrize("asks", [False, True], ids=["connects", "asks"])
def test_checks_of_haproxy_keep_the_server_up_and_are_no_lines(
    asks: bool,
    serve: Serve,
    behind: Behind,
    client_tls: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    checks = []

    def answer(request: Request) -> Response:
        checks.append(request.path)
        return Response(200, "alive")

    # A check that a busy machine answers too late does not take Koko out of service.
    changed = {"check-send-proxy": "check-send-proxy inter 50ms fall 1000 rise 1"}
    if asks:
        changed["backend koko\n"] = "backend koko\n    option httpchk GET /alive\n"
    with serve(echoes(serve), http=answer, **PASSED_ON) as server:
        with behind("haproxy-tcp.cfg", server, changed) as proxy:
            if asks:
                until(lambda: len(checks) >= 2)
            else:
                time.sleep(0.3)  # some checks long; they say nothing
            with through(proxy, client_tls) as conn:
                assert is_the_client(conn.recv(PATIENCE), ("haproxy-tcp.cfg", {}))
    assert bool(checks) is asks
    # The test itself has knocked at the proxy's port, without a word.
    said = [line for line in of_clients(caplog) if "127.0.0.1:" not in line]
    assert len(said) == 1


# Silence


@pytest.mark.parametrize(
    ("way", "changed"),
    [
        pytest.param("nginx.conf", {"_timeout 60s": "_timeout 4s"}, marks=PROGRAMS["nginx"]),
        pytest.param("nginx-stream.conf", {"_timeout 60s": "_timeout 4s"}, marks=PROGRAMS["nginx"]),
        pytest.param("haproxy.cfg", {"tunnel 60s": "tunnel 4s"}, marks=PROGRAMS["haproxy"]),
        pytest.param(
            "haproxy-tcp.cfg",
            {"client 60s": "client 4s", "server 60s": "server 4s"},
            marks=PROGRAMS["haproxy"],
        ),
    ],
)
def test_pings_keep_a_connection_that_silence_would_end(
    way: str, changed: dict[str, str], behind: Behind, client_tls: ssl.SSLContext
) -> None:
    told = PASSED_ON if way in TCP else TRUSTING

    @contextmanager
    def conversation(ping_interval: float | None) -> Iterator[Conn]:
        with on_threads(Conn.wait_closed, ping_interval=ping_interval, **told) as server:
            with behind(way, server, changed) as proxy:
                with through(proxy, client_tls, ping_interval=None) as conn:
                    yield conn

    with conversation(0.5) as pinged, conversation(None) as silent:
        silent.wait_closed(2 * PATIENCE)
        assert pinged.ping(timeout=PATIENCE) > 0  # it was there first, and is there still


# HTTP/2 in front of haproxy: extended CONNECT (RFC 8441)


@pytest.mark.integration("h2", programs=["haproxy"])
def test_a_websocket_over_http_2_comes_to_koko_as_any_other(
    serve: Serve, behind: Behind, client_tls: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    context = ssl.create_default_context(cadata=None)
    context.load_verify_locations(cadata=_authorities(client_tls))
    context.set_alpn_protocols(["h2"])
    with serve(echoes(serve), **TRUSTING) as server, behind("haproxy.cfg", server) as proxy:
        page = f"https://{HOST}:{proxy.port}"
        with Http2(proxy.port, context) as client:
            assert client.asks("/chat", ("origin", "https://evil.example")) == "403"
        with Http2(proxy.port, context) as client:
            assert client.asks("/chat", ("origin", page)) == "200"
            assert client.hears() == repr((CLIENT, 0))
            client.says(wire("1 000 0001 1 len", b"over h2"))
            assert client.hears() == "over h2"
            client.says(wire("1 000 1000 1 len", b"\x03\xe8"))
            client.hears()  # the Close that answers
    assert of_clients(caplog)[-1].startswith(
        f"koko.server INFO {CLIENT} /chat: peer closed with 1000"
    )


def _authorities(context: ssl.SSLContext) -> str:
    return "".join(map(ssl.DER_cert_to_PEM_cert, context.get_ca_certs(binary_form=True)))


class Http2:
    """A client of one WebSocket over HTTP/2."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        from h2.connection import H2Connection

        self._sock = context.wrap_socket(connect("", port), server_hostname=HOST)
        assert self._sock.selected_alpn_protocol() == "h2"
        self._http = H2Connection()
        self._http.initiate_connection()
        self._decoder = Decoder(Role.CLIENT)
        self._heard: list[Any] = []
        self._authority = f"{HOST}:{port}"

    def __enter__(self) -> Http2:
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close_connection()
        self._flush()
        self._sock.close()

    def asks(self, path: str, *more: tuple[str, str]) -> str:
        """Ask for a WebSocket; return the status."""
        from h2.events import RemoteSettingsChanged, ResponseReceived
        from h2.settings import SettingCodes

        while not any(isinstance(event, RemoteSettingsChanged) for event in self._events()):
            pass
        assert self._http.remote_settings[SettingCodes.ENABLE_CONNECT_PROTOCOL] == 1
        fields = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "https"),
            (":path", path),
            (":authority", self._authority),
            ("sec-websocket-version", "13"),
            *more,
        ]
        self._http.send_headers(1, fields)
        while True:
            for event in self._events():
                if isinstance(event, ResponseReceived):
                    (status,) = (value for name, value in event.headers if name == b":status")
                    return str(status, "ascii")

    def says(self, octets: bytes) -> None:
        self._http.send_data(1, octets)
        self._flush()

    def hears(self) -> Any:
        while not self._heard:
            self._events()
        return self._heard.pop(0)

    def _events(self) -> list[Any]:
        from h2.events import DataReceived

        self._flush()
        octets = self._sock.recv(1 << 16)
        assert octets, "haproxy hung up"
        events = self._http.receive_data(octets)
        for event in events:
            if isinstance(event, DataReceived):
                self._http.acknowledge_received_data(event.flow_controlled_length, 1)
                self._heard += self._decoder.feed(event.data)
        self._flush()
        return events

    def _flush(self) -> None:
        self._sock.sendall(self._http.data_to_send())
