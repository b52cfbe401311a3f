"""Servers behind a proxy that passes TCP on, and says first whose connection it is."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

import pytest
import trustme

from koko import HandshakeError, Response, aio, serving, sync
from koko.sync import dial
from tests.logged import of_client, of_clients
from tests.opening.test_proxy_protocol import FOUR, OVER_TLS, tlv, v2
from tests.test_servers import PLAIN, Serve, on_asyncio, on_threads, read_all

CLIENT, SHOWN = ("203.0.113.9", 51312), "203.0.113.9:51312"
LINE = b"PROXY TCP4 203.0.113.9 10.0.0.1 51312 443\r\n"
BINARY = v2(0x21, 0x11, FOUR)
LOCAL = v2(0x20, 0x00)
ON: dict[str, Any] = {"proxy_protocol": True}
NO_HEADER = "there is no PROXY header, the stream begins with "


@pytest.fixture(params=[on_threads, on_asyncio], ids=["threads", "asyncio"])
def serve(request: pytest.FixtureRequest) -> Serve:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "koko.server")


@pytest.fixture(scope="module")
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("127.0.0.1").configure_cert(ours)
    authority.configure_trust(theirs)
    return ours, theirs


def echo(conn: Any) -> Any:
    conn.send(repr(conn.remote_address))
    for message in conn:
        conn.send(message)


async def echo_aio(conn: aio.Conn) -> None:
    await conn.send(repr(conn.remote_address))
    async for message in conn:
        await conn.send(message)


def echoes(serve: Serve) -> Callable[[Any], Any]:
    return echo if serve is on_threads else echo_aio


def behind(*pieces: bytes) -> Callable[..., socket.socket]:
    """Return a ``net_dial`` of a proxy that says this first."""

    def connect(host: str, port: int, timeout: float | None) -> socket.socket:
        sock = socket.create_connection((host, port), 10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            sock.sendall(piece)
            time.sleep(0.02 if len(pieces) > 1 else 0)  # so that it is read by itself
        return sock

    return connect


def through(server: Any, *pieces: bytes, **options: Any) -> sync.Conn:
    scheme = "wss" if "ssl" in options else "ws"
    url = f"{scheme}://127.0.0.1:{server.address[1]}/chat"
    return dial(url, net_dial=behind(*pieces), **options)


def says(server: Any, octets: bytes, hangs_up: bool = False) -> tuple[bytes, str]:
    """Say something to a server; return what it answers, and our address as its log has it."""
    with socket.create_connection(server.address, 10) as sock:
        sock.sendall(octets)
        if hangs_up:
            sock.shutdown(socket.SHUT_WR)
        host, port = sock.getsockname()
        try:
            return read_all(sock), f"{host}:{port}"
        except ConnectionResetError:  # it had not read all of that
            return b"", f"{host}:{port}"


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize(
    "pieces",
    [(LINE,), (BINARY,), (LINE[:3], LINE[3:]), (BINARY[:14], BINARY[14:20], BINARY[20:])],
    ids=["v1", "v2", "v1 in pieces", "v2 in pieces"],
)
def test_the_client_is_known_by_the_header(
    serve: Serve, pieces: Any, secured: bool, tls: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = tls if secured else (None, None)
    options = {"ssl": theirs} if secured else {}
    with serve(echoes(serve), ssl=ours, compression=True, **ON) as server:
        with through(server, *pieces, compression=True, **options) as conn:
            assert conn.recv(10) == repr(CLIENT)
            for message in ("hello", bytes(1 << 20)):
                conn.send(message)
                assert conn.recv(10) == message
    (line,) = of_clients(caplog)
    assert line.startswith(f"koko.server INFO {SHOWN} /chat: peer closed with 1000")


def test_what_comes_in_one_segment_with_the_header_is_not_lost(serve: Serve) -> None:
    with serve(lambda conn: None, http=lambda request: Response(200, "hello"), **ON) as server:
        assert says(server, BINARY + PLAIN)[0].endswith(b"hello")


def test_on_asyncio_a_connection_still_has_our_own_transport_where_it_was_built() -> None:
    ours, kinds = aio.transport.ours, []

    async def handle(conn: Any) -> None:
        kinds.append(type(conn.transport))

    with on_asyncio(handle, **ON) as server, through(server, LINE) as conn:
        conn.wait_closed(10)
    assert kinds == ([ours.SocketTransport] if ours else kinds[:1])


def test_without_a_header_it_is_refused_and_the_operator_told(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(echoes(serve), **ON) as server:
        answer, peer = says(server, PLAIN)
        assert answer == b""
    (line,) = of_clients(caplog)
    begins = repr(PLAIN[:16])
    assert line.startswith(f"koko.server WARNING {peer} -: {NO_HEADER}{begins}; have the proxy")


def test_without_one_tls_is_refused_too(
    serve: Serve, tls: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(echoes(serve), ssl=tls[0], **ON) as server:
        with pytest.raises(OSError):  # noqa: PT011 - reset or closed, as the system has it
            dial(f"wss://127.0.0.1:{server.address[1]}/", ssl=tls[1])
    (line,) = of_clients(caplog)
    assert " WARNING " in line
    assert NO_HEADER in line


@pytest.mark.parametrize(
    ("octets", "said"),
    [
        (b"PROXY TCP4 a b 1 2\r\n", "the PROXY header is malformed: b'PROXY TCP4 a b 1 2"),
        (v2(0x21, 0x99), "the PROXY header is malformed: family and protocol are 0x99"),
        (v2(0x21, 0x11, b"", 0xFFFF), "header of 65551 bytes, at most 4096 are read"),
        (b"PROXY " + bytes(200), "line of more than 107 bytes"),
    ],
)
def test_a_header_that_may_not_be_sent_is_one_line(
    serve: Serve, octets: bytes, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(echoes(serve), **ON) as server:
        assert says(server, octets)[0] == b""
    (line,) = of_clients(caplog)
    assert said in line


@pytest.mark.parametrize("octets", [b"", b"PROXY TCP4", BINARY[:20]])
def test_a_client_that_leaves_before_its_header_is_whole_is_one_line(
    serve: Serve, octets: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(echoes(serve), **ON) as server:
        _, peer = says(server, octets, hangs_up=True)
    assert of_clients(caplog) == [f"koko.server INFO {peer} -: {serving.HUNG_UP}"]


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("octets", [b"", LINE[:-1], BINARY, b"P"])
def test_header_and_request_have_one_bound(
    serve: Serve, octets: bytes, secured: bool, tls: Any, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"ssl": tls[0]} if secured else {}
    known, within = (SHOWN, 2) if octets is BINARY else (None, 0.2)  # it has to be read in time
    with serve(echoes(serve), handshake_timeout=within, **options, **ON) as server:
        _, peer = says(server, octets)
    said = f"the request was not whole within {within} s"
    assert of_clients(caplog) == [f"koko.server INFO {known or peer} -: {said}"]


def test_a_server_that_closes_does_not_wait_for_headers(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(echoes(serve), handshake_timeout=60, **ON) as server:
        sock = socket.create_connection(server.address, 10)
        sock.sendall(LINE[:5])
        says(server, b"x")  # whoever came before has been accepted, too
        began = time.monotonic()
    assert time.monotonic() - began < 10
    assert sock.recv(1) == b""
    peer = "{}:{}".format(*sock.getsockname())
    sock.close()
    (line,) = of_client(caplog, peer)
    assert line.endswith(" -: the server is going away")


# Who may send one


def test_only_a_trusted_proxy_may_say_so_where_any_is_named(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(echoes(serve), trusted_proxies=["192.0.2.0/24"], **ON) as server:
        answer, peer = says(server, LINE + PLAIN)
        assert answer == b""
    said = "a PROXY header is taken from trusted_proxies= only"
    assert of_clients(caplog) == [f"koko.server INFO {peer} -: {said}"]
    with serve(echoes(serve), trusted_proxies=["127.0.0.1"], **ON) as server:
        with through(server, LINE) as conn:
            assert conn.recv(10) == repr(CLIENT)


@pytest.mark.parametrize("header", [BINARY, b"PROXY UNKNOWN\r\n", v2(0x21, 0x00)])
def test_what_a_client_behind_it_writes_is_not_the_proxy_s_word(
    serve: Serve, header: bytes
) -> None:
    forged = [("X-Forwarded-For", "1.1.1.1"), ("X-Forwarded-Host", "app.example")]
    with serve(echoes(serve), trusted_proxies=["127.0.0.1"], **ON) as server:
        with through(server, header, headers=forged) as conn:
            expected = CLIENT if header is BINARY else conn.local_address
            assert conn.recv(10) == repr(expected)
        with pytest.raises(HandshakeError, match="403"):
            through(server, header, headers=[*forged, ("Origin", "https://app.example")])


def test_a_proxy_behind_the_proxy_is_believed_if_it_is_named(serve: Serve) -> None:
    told = [("X-Forwarded-For", "198.51.100.7")]
    with serve(echoes(serve), trusted_proxies=["127.0.0.1", "203.0.113.0/24"], **ON) as server:
        with through(server, BINARY, headers=told) as conn:
            assert conn.recv(10) == repr(("198.51.100.7", 0))


def test_a_client_that_came_to_the_proxy_over_tls_is_secure(serve: Serve) -> None:
    page = [("Origin", "http://app.example"), ("Host", "app.example")]
    over_tls = v2(0x21, 0x11, FOUR + OVER_TLS)
    plain = v2(0x21, 0x11, FOUR + tlv(0x20, bytes(5)))
    with serve(echoes(serve), **ON) as server:
        through(server, plain, headers=page).close()
        with pytest.raises(HandshakeError, match="403"):
            through(server, over_tls, headers=page)


# A proxy that speaks for itself, to see whether we live


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "TLS"])
def test_a_check_of_the_proxy_is_no_line(
    serve: Serve, secured: bool, tls: Any, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"ssl": tls[0]} if secured else {}
    with serve(echoes(serve), **options, **ON) as server:
        _, peer = says(server, LOCAL, hangs_up=True)
        assert of_clients(caplog) == []
        caplog.set_level(logging.DEBUG, "koko.server")
        _, peer = says(server, LOCAL, hangs_up=True)
    said = "TLS failed: the client hung up" if secured else serving.HUNG_UP
    assert f"koko.server DEBUG {peer} -: {said}" in of_clients(caplog, logging.DEBUG)


def test_a_check_that_asks_is_answered(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    with serve(lambda conn: None, http=lambda request: Response(200, "I live"), **ON) as server:
        assert says(server, LOCAL + PLAIN)[0].endswith(b"I live")
    assert of_clients(caplog) == []


# A server that is full


def test_one_that_finds_no_room_is_told_so_behind_the_header(
    serve: Serve, tls: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(echoes(serve), max_connections=1, ssl=tls[0], **ON) as server:
        with through(server, LINE, ssl=tls[1]):
            with pytest.raises(HandshakeError, match="503"):
                through(server, BINARY, ssl=tls[1])
    assert [line for line in of_clients(caplog) if f" {SHOWN} /chat: 503" in line]


def test_a_line_for_each_and_a_server_that_holds_nothing(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(echoes(serve), **ON) as server:
        peers = [says(server, octets)[1] for octets in (b"x", b"PROXY x\r\n")]
        with through(server, LINE) as conn:
            assert conn.recv(10) == repr(CLIENT)
    assert all(len(of_client(caplog, peer)) == 1 for peer in peers)
    assert len(of_clients(caplog)) == 3


# Misuse


def test_a_loop_that_watches_no_descriptors_cannot_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Blind(asyncio.SelectorEventLoop):
        def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:
            raise NotImplementedError

        _add_reader = asyncio.SelectorEventLoop._add_reader  # its own, for its pipe

    async def main() -> None:
        with pytest.raises(RuntimeError, match="a loop that can watch descriptors"):
            await aio.Server(echo_aio, "127.0.0.1", **ON).start()

    with asyncio.Runner(loop_factory=Blind) as runner:
        runner.run(main())
