"""Through real proxies: CONNECT and SOCKS, with and without credentials, TLS to and through."""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest
import trustme

from koko import ErrBadHandshake
from koko.sync import Server
from tests.dialing.conftest import (
    HERE,
    Face,
    accepted,
    client_context,
    read_request,
    script,
    serving,
    strict_context,
    url,
)
from tests.dialing.proxies import connect_proxy, socks_proxy
from tests.sync.conftest import PATIENCE, in_thread

pytestmark = pytest.mark.once  # a way to a server has no codec

BIG = bytes(range(256)) * 512  # 128 KiB


class Proxies(NamedTuple):
    """The ports of the proxies; those that are closed want the user ``me`` with ``s3cret``."""

    open: int
    closed: int
    secure: int
    socks: int
    closed_socks: int
    trust: ssl.SSLContext  # what a client needs to believe the secure one


@pytest.fixture(scope="module")
def proxies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxies]:
    folder = tmp_path_factory.mktemp("proxies")
    authority = trustme.CA()
    identity = authority.issue_cert(HERE)
    identity.private_key_pem.write_to_path(folder / "key.pem")
    for piece in identity.cert_chain_pems:
        piece.write_to_path(folder / "cert.pem", append=True)
    tls = ("--key-file", str(folder / "key.pem"), "--cert-file", str(folder / "cert.pem"))
    for name in ("open", "closed", "secure"):
        (folder / name).mkdir()
    ways = (
        connect_proxy(folder / "open"),
        connect_proxy(folder / "closed", "--basic-auth", "me:s3cret"),
        connect_proxy(folder / "secure", "--basic-auth", "me:s3cret", *tls),
        socks_proxy(),
        socks_proxy("me:s3cret"),
    )
    with ExitStack() as stack:
        with ThreadPoolExecutor() as side_by_side:
            ports = list(side_by_side.map(stack.enter_context, ways))
        yield Proxies(*ports, client_context(authority))


@pytest.fixture(scope="module")
def plain(authority: trustme.CA) -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def secure(server_tls: ssl.SSLContext) -> Iterator[Server]:
    with serving(ssl=server_tls) as server:
        yield server


def converse(face: Face, address: str, port: int, **options: Any) -> None:
    with face.dial(address, **options) as client:
        assert client.conn.remote_address[1] == port, "we did not go through the proxy"
        client.echoes("through", BIG)


# CONNECT


def test_connect_opens_the_way_through_a_proxy(face: Face, proxies: Proxies, plain: Server) -> None:
    converse(face, url(plain), proxies.open, proxy=f"http://{HERE}:{proxies.open}")


def test_a_proxy_gets_its_user_and_password(face: Face, proxies: Proxies, plain: Server) -> None:
    proxy = f"http://me:s3cret@{HERE}:{proxies.closed}"
    converse(face, url(plain), proxies.closed, proxy=proxy)


@pytest.mark.parametrize("credentials", ["", "me:wrong@"])
def test_a_proxy_that_refuses_is_an_error_with_its_status_and_headers(
    face: Face, proxies: Proxies, plain: Server, credentials: str
) -> None:
    with pytest.raises(ErrBadHandshake, match="the proxy http://127.* answered 'Pro") as caught:
        face.dial(url(plain), proxy=f"http://{credentials}{HERE}:{proxies.closed}")
    assert caught.value.status == 407
    assert caught.value.response.headers["Proxy-Authenticate"] == "Basic"
    assert "wrong" not in str(caught.value)


def test_tls_runs_through_a_proxy(
    face: Face, proxies: Proxies, secure: Server, client_tls: ssl.SSLContext
) -> None:
    proxy = f"http://{HERE}:{proxies.open}"
    converse(face, url(secure, "wss"), proxies.open, proxy=proxy, ssl=client_tls)


def test_tls_runs_to_a_proxy_and_plain_text_through_it(
    face: Face, proxies: Proxies, plain: Server
) -> None:
    proxy = f"https://me:s3cret@{HERE}:{proxies.secure}"
    converse(face, url(plain), proxies.secure, proxy=proxy, proxy_ssl=proxies.trust)


def test_tls_runs_to_a_proxy_and_through_it(
    face: Face, proxies: Proxies, secure: Server, client_tls: ssl.SSLContext
) -> None:
    proxy = f"https://me:s3cret@{HERE}:{proxies.secure}"
    options = {"proxy": proxy, "proxy_ssl": proxies.trust, "ssl": client_tls}
    converse(face, url(secure, "wss"), proxies.secure, **options)


def test_one_context_serves_for_the_proxy_and_the_server(
    face: Face, proxies: Proxies, secure: Server, authority: trustme.CA
) -> None:
    both = proxies.trust
    authority.configure_trust(both)
    proxy = f"https://me:s3cret@{HERE}:{proxies.secure}"
    converse(face, url(secure, "wss"), proxies.secure, proxy=proxy, ssl=both)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("there", ["ws", "wss"])
def test_net_dial_reaches_the_proxy_and_nothing_else(
    face: Face,
    proxies: Proxies,
    plain: Server,
    secure: Server,
    client_tls: ssl.SSLContext,
    scheme: str,
    there: str,
) -> None:
    port = proxies.secure if scheme == "https" else proxies.closed
    asked: list[tuple[str, int]] = []

    def net_dial(host: str, port: int, timeout: float | None) -> Any:
        asked.append((host, port))
        return socket.create_connection((HERE, port), timeout)

    converse(
        face,
        url(secure if there == "wss" else plain, there),
        port,
        proxy=f"{scheme}://me:s3cret@{HERE}:{port}",
        proxy_ssl=proxies.trust,
        ssl=client_tls,
        net_dial=net_dial,
    )
    assert asked == [(HERE, port)]


def test_a_proxy_whose_certificate_nobody_vouches_for_is_not_asked(
    face: Face, proxies: Proxies, client_tls: ssl.SSLContext
) -> None:
    proxy = f"https://me:s3cret@{HERE}:{proxies.secure}"
    with script() as server, pytest.raises(ssl.SSLCertVerificationError):
        face.dial(server.url, proxy=proxy, proxy_ssl=strict_context())
    face.turn()


def test_a_server_whose_certificate_nobody_vouches_for_is_refused_behind_a_proxy(
    face: Face, proxies: Proxies, secure: Server
) -> None:
    proxy = f"https://me:s3cret@{HERE}:{proxies.secure}"
    options = {"proxy": proxy, "proxy_ssl": proxies.trust, "ssl": strict_context()}
    with pytest.raises(ssl.SSLCertVerificationError):
        face.dial(url(secure, "wss"), **options)
    face.turn()


def test_a_proxy_that_cannot_reach_the_server_is_quoted(face: Face, proxies: Proxies) -> None:
    with pytest.raises(ErrBadHandshake, match="answered 'Bad Gateway'") as caught:
        face.dial(f"ws://{HERE}:9/", proxy=f"http://{HERE}:{proxies.open}")
    assert caught.value.status == 502


def test_the_wire_of_a_connect_is_this(face: Face) -> None:
    with script(b"HTTP/1.1 407 \r\nContent-Length: 11\r\n\r\nWho are you") as proxy:
        with pytest.raises(ErrBadHandshake) as caught:
            face.dial("ws://there.example/", proxy=f"http://me:p%40ss@{HERE}:{proxy.port}")
    (asked,) = proxy.heard
    assert (asked.method, asked.target) == ("CONNECT", "there.example:80")
    assert asked.headers["Host"] == "there.example:80"
    assert asked.headers["Proxy-Authorization"] == "Basic bWU6cEBzcw=="
    assert caught.value.response.body == b"Who are you"


# SOCKS


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "socks4", "socks4a"])
def test_socks_opens_the_way(face: Face, proxies: Proxies, plain: Server, scheme: str) -> None:
    converse(face, url(plain), proxies.socks, proxy=f"{scheme}://{HERE}:{proxies.socks}")


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_a_name_is_looked_up_here_or_by_the_socks_proxy(
    face: Face, proxies: Proxies, plain: Server, scheme: str
) -> None:
    address = url(plain).replace(HERE, "localhost")
    converse(face, address, proxies.socks, proxy=f"{scheme}://{HERE}:{proxies.socks}")


def test_a_socks_proxy_gets_its_user_and_password_and_tls_runs_through_it(
    face: Face, proxies: Proxies, secure: Server, client_tls: ssl.SSLContext
) -> None:
    port = proxies.closed_socks
    proxy = f"socks5h://me:s3cret@{HERE}:{port}"
    converse(face, url(secure, "wss"), port, proxy=proxy, ssl=client_tls)


@pytest.mark.parametrize("credentials", ["", "me:wrong@"])
def test_a_socks_proxy_that_refuses_is_named_without_the_password(
    face: Face, proxies: Proxies, plain: Server, credentials: str
) -> None:
    proxy = f"socks5://{credentials}{HERE}:{proxies.closed_socks}"
    with pytest.raises(ConnectionError, match=f"the proxy socks5://{HERE}") as caught:
        face.dial(url(plain), proxy=proxy)
    assert "wrong" not in str(caught.value)
    face.turn()


def test_the_bytes_of_socks5_are_these(face: Face) -> None:
    """RFC 1928 §3, §4, §6 and RFC 1929 §2, and then a WebSocket."""
    heard: list[bytes] = []

    def play() -> None:
        with listener.accept()[0] as sock:
            sock.settimeout(PATIENCE)
            for size, answer in (
                (4, b"\x05\x02"),
                (11, b"\x01\x00"),
                (20, b"\x05\x00\x00\x01" + bytes(6)),
            ):
                heard.append(sock.recv(size, socket.MSG_WAITALL))
                sock.sendall(answer)
            sock.sendall(accepted(read_request(sock)))
            sock.recv(1)

    with socket.create_server((HERE, 0)) as listener:
        done = in_thread(play)
        proxy = f"socks5h://me:s3cret@{HERE}:{listener.getsockname()[1]}"
        face.dial("ws://there.example/", proxy=proxy).abort()
        done.result(PATIENCE)
    assert heard == [
        b"\x05\x02\x00\x02",  # version 5, two methods: none, or user and password
        b"\x01\x02me\x06s3cret",
        b"\x05\x01\x00\x03\x0dthere.example\x00\x50",  # connect, by name, port 80
    ]


def test_a_socks_proxy_without_the_extra_names_it(
    face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "python_socks", None)
    with pytest.raises(ImportError, match=r"pip install 'koko\[proxy\]'") as caught:
        face.dial("ws://here.example", proxy=f"socks5://me:s3cret@{HERE}:1")
    assert "s3cret" not in str(caught.value)


# Which proxy


def test_the_proxy_of_the_environment_is_used(face: Face, environment: Callable[..., None]) -> None:
    with script(b"HTTP/1.1 403 not there\r\nContent-Length: 0\r\n\r\n") as played:
        environment(http_proxy=f"http://me:s3cret@{HERE}:{played.port}")
        with pytest.raises(ErrBadHandshake, match="not there"):
            face.dial("ws://there.example", proxy=True)
    (request,) = played.heard
    assert (request.method, request.target) == ("CONNECT", "there.example:80")
    assert request.headers["Proxy-Authorization"] == "Basic bWU6czNjcmV0"


def test_the_proxy_of_the_environment_is_not_for_loopback(
    face: Face, plain: Server, environment: Callable[..., None]
) -> None:
    environment(http_proxy=f"http://{HERE}:9")
    converse(face, url(plain), plain.address[1], proxy=True)


def test_a_function_may_name_the_proxy(face: Face, proxies: Proxies, plain: Server) -> None:
    asked: list[str] = []

    def proxy(address: str) -> str:
        asked.append(address)
        return f"http://{HERE}:{proxies.open}"

    converse(face, url(plain).replace("//", "//me:s3cret@"), proxies.open, proxy=proxy)
    assert asked == [url(plain)]


def test_a_function_that_names_no_proxy_means_none(face: Face, plain: Server) -> None:
    converse(face, url(plain), plain.address[1], proxy=lambda address: None)


def test_what_a_function_for_the_proxy_raises_ends_the_dial(face: Face, plain: Server) -> None:
    def proxy(address: str) -> str:
        raise LookupError(f"no way to {address}")

    with pytest.raises(LookupError, match="no way to ws://"):
        face.dial(url(plain), proxy=proxy)
