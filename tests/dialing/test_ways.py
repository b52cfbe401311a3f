"""Ways to the server: names with many addresses, dial functions, ready sockets, Unix sockets."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import trustme
import uvloop
import websockets.sync.server

import koko.aio.network
import koko.default_context
import koko.sync.network
from compliance.ports import free_port
from koko import ErrBadHandshake, HandshakeError, dial_steps
from koko.dial_steps import Attempts, Resolve
from koko.opening.eyeballs import DELAY, ROOM
from koko.sync import Server
from tests.dialing.conftest import (
    HERE,
    Face,
    accepted,
    client_context,
    full_queue,
    read_request,
    says,
    script,
    server_context,
    serving,
    url,
)
from tests.sync.conftest import PATIENCE, in_thread, until


class Dialed:
    """A dial function that goes to one place, whatever it is asked for."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked: list[tuple[str, int]] = []
        self.timeouts: list[float | None] = []

    def __call__(self, host: str, port: int, timeout: float | None) -> socket.socket:
        self.asked.append((host, port))
        self.timeouts.append(timeout)
        return socket.create_connection((HERE, self.port), timeout)


# Who dials, who does TLS


@pytest.fixture(scope="module")
def servers(server_tls: ssl.SSLContext) -> Iterator[dict[str, Server]]:
    with serving() as plain, serving(ssl=server_tls) as secure:
        yield {"ws": plain, "wss": secure}


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize("way", ["by itself", "net_dial", "awaitable", "sock"])
def test_whoever_dials_tls_is_done_by_the_context(
    face: Face, servers: dict[str, Server], client_tls: ssl.SSLContext, scheme: str, way: str
) -> None:
    address = url(servers[scheme], scheme)
    dialed = Dialed(servers[scheme].address[1])

    async def later(*asked: Any) -> socket.socket:
        return dialed(*asked)

    options: dict[str, dict[str, Any]] = {
        "by itself": {},
        "net_dial": {"net_dial": dialed},
        "awaitable": {"net_dial": dialed if face.name == "sync" else later},
        "sock": {"sock": dialed("", 0, None) if way == "sock" else None},
    }
    with face.dial(address, ssl=client_tls, **options[way]) as client:
        client.echoes()
    assert len(dialed.asked) == (way != "by itself")


def test_a_dial_function_is_told_where_to_and_how_long(
    face: Face, servers: dict[str, Server]
) -> None:
    dialed = Dialed(servers["ws"].address[1])
    with face.dial("ws://[2001:db8::7]:81/", net_dial=dialed, handshake_timeout=5):
        pass
    face.dial("ws://there.example", net_dial=dialed, handshake_timeout=None).abort()
    assert dialed.asked == [("2001:db8::7", 81), ("there.example", 80)]
    assert dialed.timeouts[0] is not None
    assert 4 < dialed.timeouts[0] <= 5
    assert dialed.timeouts[1] is None


def test_what_a_dial_function_raises_ends_the_dial(face: Face) -> None:
    def net_dial(host: str, port: int, timeout: float | None) -> socket.socket:
        raise LookupError(host)

    with pytest.raises(LookupError, match="there.example"):
        face.dial("ws://there.example", net_dial=net_dial)


def test_a_dial_function_that_returns_no_plain_socket_is_told_so(
    face: Face, servers: dict[str, Server], client_tls: ssl.SSLContext
) -> None:
    with pytest.raises(TypeError, match="net_dial returned None, expected a connected socket"):
        face.dial("ws://there.example", net_dial=lambda *where: None)
    plain = socket.create_connection((HERE, servers["wss"].address[1]))
    with client_tls.wrap_socket(plain, server_hostname=HERE) as secure:
        with pytest.raises(TypeError, match="returned an SSLSocket; return the plain socket"):
            face.dial("ws://there.example", net_dial=lambda *where: secure)


# Ready sockets


def test_over_a_ready_socket_a_redirect_is_a_refusal(face: Face) -> None:
    moved = says("HTTP/1.1 302 Found\nLocation: /there\nContent-Length: 0\n\n")
    with script(moved) as server:
        sock = socket.create_connection((HERE, server.port))
        with pytest.raises(ErrBadHandshake, match="'Found', expected 101"):
            face.dial(server.url, sock=sock)
        face.turn()
        assert sock.fileno() == -1


def test_a_pair_of_sockets_is_enough_for_a_handshake(face: Face) -> None:
    ours, theirs = socket.socketpair()

    def answer() -> None:
        with theirs:
            theirs.settimeout(PATIENCE)
            theirs.sendall(accepted(read_request(theirs)))
            theirs.recv(1)

    done = in_thread(answer)
    face.dial("ws://there.example/", sock=ours).abort()
    done.result(PATIENCE)


# Unix sockets


@contextmanager
def unix_echo(path: Path, context: ssl.SSLContext | None = None) -> Iterator[None]:
    """The server of websockets, on a Unix socket."""

    def handler(connection: websockets.sync.server.ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    with websockets.sync.server.unix_serve(
        handler, str(path), ssl=context, max_size=None
    ) as server:
        done = in_thread(server.serve_forever)
        yield
        server.shutdown()
        done.result(PATIENCE)


def test_the_socket_underneath_and_its_addresses_can_be_seen(
    face: Face, servers: dict[str, Server]
) -> None:
    with face.dial(url(servers["ws"])) as client:
        conn = client.conn
        in_threads = face.name == "sync"
        underneath = conn.socket if in_threads else conn.transport.get_extra_info("socket")
        assert underneath.getsockname() == conn.local_address
        assert underneath.getpeername() == conn.remote_address
        assert conn.remote_address == servers["ws"].address


@pytest.fixture(scope="module")
def unix_servers(
    tmp_path_factory: pytest.TempPathFactory, server_tls: ssl.SSLContext
) -> Iterator[dict[str, Path]]:
    folder = tmp_path_factory.mktemp("u")
    with unix_echo(folder / "plain"), unix_echo(folder / "tls", server_tls):
        yield {"ws": folder / "plain", "wss": folder / "tls"}


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_unix_socket_leads_to_a_server(
    face: Face, unix_servers: dict[str, Path], client_tls: ssl.SSLContext, scheme: str
) -> None:
    way = {"unix": unix_servers[scheme], "ssl": client_tls, "proxy": True}
    with face.dial(f"{scheme}://example.com/x", **way) as client:
        assert client.conn.request.headers["Host"] == "example.com"
        client.echoes()


def test_a_unix_socket_that_is_not_there_is_an_os_error(face: Face, unix_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        face.dial("ws://example.com/", unix=str(unix_path))


def test_a_unix_socket_whose_queue_is_full_is_waited_for(
    face: Face, unix_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def make_room() -> None:
        until(lambda: "connecting to the Unix socket" in caplog.text)
        time.sleep(ROOM)  # it asks once before there is room
        with full.accept()[0], full.accept()[0] as sock:
            sock.sendall(accepted(read_request(sock)))
            sock.recv(1)

    caplog.set_level(logging.DEBUG, "koko.dialing")
    with socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as first:
        full.bind(str(unix_path))
        full.listen(0)
        full.settimeout(PATIENCE)
        first.connect(str(unix_path))
        done = in_thread(make_room)
        face.dial("ws://example.com/", unix=unix_path).abort()
        done.result(PATIENCE)


# Names with many addresses (RFC 8305)


def at(*where: Any) -> Any:
    family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
    return family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", where


def race(face: Face, *addresses: Any, timeout: float = PATIENCE) -> socket.socket:
    attempts = Attempts("ws://there.example/", "there.example", 80, addresses)
    if face.name == "sync":
        return koko.sync.network.Race(attempts, monotonic() + timeout).run()

    async def run() -> socket.socket:
        async with asyncio.timeout(timeout):
            return await koko.aio.network.Race(attempts).run()

    found = face.wait(run())
    assert isinstance(found, socket.socket)
    return found


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server((HERE, 0)) as listener:
        yield listener


@pytest.fixture
def black_hole() -> Iterator[Any]:
    """An address that answers no one: the queue of its listener is full."""
    with full_queue() as where:
        yield at(*where)


def open_files() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


@pytest.fixture
def dead() -> Any:
    """An address where nobody listens."""
    return at(HERE, free_port())


def test_an_address_that_does_not_answer_delays_the_next_by_a_quarter_of_a_second(
    face: Face, listener: socket.socket, black_hole: Any
) -> None:
    before, began = open_files(), monotonic()
    with race(face, black_hole, at(*listener.getsockname())) as sock:
        assert sock.getpeername() == listener.getsockname()
    assert monotonic() - began >= DELAY
    assert open_files() <= before, "who lost the race is closed"


def test_an_address_that_refuses_delays_nothing(
    face: Face, listener: socket.socket, dead: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial_steps, "DELAY", 2 * PATIENCE)  # the race would be over
    with race(face, *[dead] * 5, at(*listener.getsockname())) as sock:
        assert sock.getpeername() == listener.getsockname()


def test_a_race_that_nobody_wins_in_time_leaves_nothing_open(face: Face, black_hole: Any) -> None:
    before = open_files()
    with pytest.raises(TimeoutError):
        race(face, black_hole, timeout=0.02)
    assert open_files() <= before


def test_addresses_that_all_refuse_are_named_with_their_reasons(face: Face, dead: Any) -> None:
    with pytest.raises(ConnectionRefusedError) as caught:
        race(face, dead, at("::1", 9, 0, 0))
    reasons = "there.example port 80: 127.0.0.1: Connection refused; ::1: "
    assert f"no connection to {reasons}" in str(caught.value)


def test_a_port_where_nobody_listens_is_an_os_error_that_names_it(face: Face, dead: Any) -> None:
    port = dead[4][1]
    with pytest.raises(ConnectionRefusedError, match=rf"{HERE} port {port}: {HERE}: Conn"):
        face.dial(f"ws://{HERE}:{port}")


def test_a_name_that_is_unknown_is_an_error_that_names_it(face: Face) -> None:
    with pytest.raises(socket.gaierror, match=r"'no\.such\.name\.invalid'"):
        face.dial("ws://no.such.name.invalid")


@pytest.mark.parametrize("host", [HERE, "::1", "fe80::1%1"])
def test_an_address_needs_no_resolver(
    face: Face, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()
    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", asked.set)
    monkeypatch.setattr(uvloop.Loop, "getaddrinfo", asked.set)
    monkeypatch.setattr(threading.Thread, "start", asked.set)
    step = Resolve(host, 80)
    if face.name == "sync":
        (found,) = koko.sync.network.resolve(step, monotonic() + PATIENCE)
    else:
        (found,) = face.wait(koko.aio.network.resolve(step))
    scope = (0, 1) if "%" in host else (0, 0)
    family, kind, _, _, where = found
    assert kind == socket.SOCK_STREAM
    assert (family, where[1:]) == (
        (socket.AF_INET6, (80, *scope)) if ":" in host else (socket.AF_INET, (80,))
    )
    assert where[0].partition("%")[0] == host.partition("%")[0]
    assert not asked.is_set()


# Names: whom we connect to, what Host says, what the certificate must say


@pytest.mark.parametrize(
    ("scheme", "netloc", "options", "asked", "host"),
    [
        ("ws", HERE, {}, (HERE, 80), HERE),
        ("wss", HERE, {}, (HERE, 443), HERE),
        ("ws", HERE, {"headers": {"Host": "bad.example"}}, (HERE, 80), "bad.example"),
        ("wss", HERE, {"headers": {"Host": "bad.example"}}, (HERE, 443), "bad.example"),
        ("ws", "example.com", {}, ("example.com", 80), "example.com"),
        ("wss", "example.com", {}, ("example.com", 443), "example.com"),
        ("ws", "bad.example", {"headers": {"Host": "example.com"}}, ("bad.example", 80),
         "example.com"),
        ("wss", "bad.example", {"headers": {"Host": "example.com"}}, ("bad.example", 443), None),
        ("wss", "bad.example", {"insecure": True}, ("bad.example", 443), "bad.example"),
        ("wss", "bad.example", {"server_hostname": "example.com"}, ("bad.example", 443),
         "bad.example"),
        ("wss", "example.com:8443", {}, ("example.com", 8443), "example.com:8443"),
    ],
)  # fmt: skip
def test_address_host_and_certificate_go_by_these_names(
    face: Face,
    servers: dict[str, Server],
    authority: trustme.CA,
    client_tls: ssl.SSLContext,
    scheme: str,
    netloc: str,
    options: dict[str, Any],
    asked: tuple[str, int],
    host: str | None,
) -> None:
    context = client_tls
    if options.get("insecure"):
        context = client_context(authority)
        context.check_hostname = False
    options = {name: value for name, value in options.items() if name != "insecure"}
    dialed = Dialed(servers[scheme].address[1])
    where = f"{scheme}://{netloc}/"
    if host is None:
        with pytest.raises(ssl.SSLCertVerificationError):
            face.dial(where, net_dial=dialed, ssl=context, **options)
    else:
        with face.dial(where, net_dial=dialed, ssl=context, **options) as client:
            assert client.conn.request.headers["Host"] == host
    assert dialed.asked == [asked]


# TLS


def test_a_clients_certificate_is_shown_to_the_server_that_asks_for_it(
    face: Face, authority: trustme.CA
) -> None:
    demanding = server_context(authority, HERE)
    demanding.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(demanding)
    known, unknown = client_context(authority), client_context(authority)
    authority.issue_cert("me@example.com").configure_cert(known)
    with serving(ssl=demanding) as server:
        with face.dial(url(server, "wss"), ssl=known) as client:
            client.echoes()
        with pytest.raises((OSError, HandshakeError)):
            face.dial(url(server, "wss"), ssl=unknown)


def test_a_server_that_nobody_vouches_for_is_refused(
    face: Face, servers: dict[str, Server]
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        face.dial(url(servers["wss"], "wss"))


def test_the_systems_certificates_are_loaded_once_and_never_by_the_loop(
    face: Face, servers: dict[str, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, real = [], ssl.create_default_context

    def make() -> ssl.SSLContext:
        made.append(threading.current_thread())
        return real()

    monkeypatch.setattr(koko.default_context, "_made", {})
    monkeypatch.setattr(ssl, "create_default_context", make)
    for _ in range(2):
        with pytest.raises(ssl.SSLCertVerificationError):
            face.dial(url(servers["wss"], "wss"))
    (thread,) = made
    assert (thread is threading.current_thread()) == (face.name == "sync")


def test_a_server_that_speaks_no_tls_is_an_error(
    face: Face, servers: dict[str, Server], client_tls: ssl.SSLContext
) -> None:
    with pytest.raises(OSError, match="SSL|TLS"):
        face.dial(url(servers["ws"], "wss"), ssl=client_tls)


def test_a_context_that_offers_http_2_is_told_so(face: Face, authority: trustme.CA) -> None:
    modern, shared = server_context(authority, HERE), client_context(authority)
    modern.set_alpn_protocols(["h2", "http/1.1"])
    shared.set_alpn_protocols(["h2", "http/1.1"])
    with serving(ssl=modern) as server:
        with pytest.raises(HandshakeError, match="chose 'h2' in ALPN; ssl= may offer only"):
            face.dial(url(server, "wss"), ssl=shared)
        face.turn()
        shared.set_alpn_protocols(["http/1.1"])
        with face.dial(url(server, "wss"), ssl=shared) as client:
            client.echoes()
