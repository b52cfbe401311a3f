"""The opening handshake of a client: what goes out, what comes back, in what time."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from contextlib import suppress
from functools import partial
from http.cookiejar import CookieJar
from typing import Any

import pytest

from koko import ErrBadHandshake, HandshakeError
from koko.http import Request
from koko.opening.handshake import make_key
from koko.sync import Conn, Upgrader
from tests.dialing.conftest import (
    HERE,
    Face,
    accepted,
    echo,
    read_request,
    says,
    script,
    serving,
    url,
)
from tests.sync.conftest import PATIENCE, in_thread
from tests.wire import wire

MOVED = says("HTTP/1.1 302 Found\nLocation: /there\nContent-Length: 0\n\n")


# What goes out and comes back


def test_a_dial_asks_for_its_path_and_query_and_is_echoed(face: Face) -> None:
    def handler(conn: Conn) -> None:
        conn.send(conn.request.target)
        echo(conn)

    with serving(handler=handler) as server:
        with face.dial(url(server, path="/a/b?x=y")) as client:
            assert client.recv() == "/a/b?x=y"
            client.echoes()


def test_the_response_shows_cookies_and_the_subprotocol_that_was_chosen(face: Face) -> None:
    upgrader = Upgrader(subprotocols=["p0", "p1"], origins=["https://app.example"])
    with serving(upgrader=upgrader) as server:
        options = {"subprotocols": ["p1", "p2"], "origin": "https://app.example"}
        with face.dial(url(server), **options) as client:
            assert client.conn.subprotocol == "p1"
            assert client.conn.request.headers["Sec-WebSocket-Protocol"] == "p1, p2"
    with script(lambda asked: accepted(asked, "Set-Cookie: a=1\n")) as server:
        with face.dial(server.url) as client:
            assert client.conn.response.headers["Set-Cookie"] == "a=1"
            client.abort()


def test_headers_of_the_call_replace_those_of_the_dialer(face: Face) -> None:
    with script(accepted) as server:
        dialer = face.dialer(headers={"X-Who": "all", "X-All": "yes"})
        face.open(dialer, server.url, {"X-Who": "me"}).abort()
    assert server.heard[0].headers.getall("X-Who") == ["me"]
    assert server.heard[0].headers["X-All"] == "yes"


def test_headers_that_only_the_handshake_writes_are_refused_before_anything_is_opened(
    face: Face,
) -> None:
    with socket.create_server((HERE, 0)) as listener:
        listener.setblocking(False)
        for name in ("Upgrade", "connection", "Sec-WebSocket-Key", "SEC-WEBSOCKET-EXTENSIONS"):
            with pytest.raises(ValueError, match=f"header '{name}' cannot be given"):
                face.dial(f"ws://{HERE}:{listener.getsockname()[1]}", {name: "x"})
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_jar_gives_its_cookies_and_keeps_those_of_the_answer(face: Face) -> None:
    set_cookie = "Set-Cookie: taste=sweet; Path=/\n"
    jar = CookieJar()
    with script(lambda asked: accepted(asked, set_cookie), accepted) as server:
        for _ in range(2):
            face.dial(server.url, jar=jar).abort()
    assert [asked.headers.get("Cookie") for asked in server.heard] == [None, "taste=sweet"]
    assert [cookie.value for cookie in jar] == ["sweet"]


def test_user_and_password_of_the_url_become_basic_authorization(face: Face) -> None:
    with script(accepted) as server:
        face.dial(server.url.replace("//", "//me:s%3Acret@")).abort()
    assert server.heard[0].headers["Authorization"] == "Basic bWU6czpjcmV0"


def test_compression_is_agreed_on_and_messages_come_through(face: Face) -> None:
    with serving(upgrader=Upgrader(compression=True)) as server:
        with face.dial(url(server), compression=True) as client:
            answer = client.conn.response.headers["Sec-WebSocket-Extensions"]
            assert answer.startswith("permessage-deflate")
            client.echoes("compress me " * 1000)


def test_more_tokens_than_needed_in_the_answer_are_no_error(face: Face) -> None:
    def answer(asked: Any) -> bytes:
        more = accepted(asked).replace(b": websocket", b": foo, WebSocket")
        return more.replace(b": Upgrade", b": keep-alive, upgrade")

    with script(answer) as server:
        face.dial(server.url).abort()


def test_frames_right_behind_the_acceptance_are_read_first(face: Face) -> None:
    early = wire("1 000 0001 0 len", b"early") + wire("1 000 0001 0 len", b"bird")
    with script(lambda asked: accepted(asked, behind=early)) as server:
        client = face.dial(server.url)
        assert [client.recv(), client.recv()] == ["early", "bird"]
        client.abort()


# Redirects


def test_a_redirect_is_followed_with_its_cookies(face: Face) -> None:
    moved = MOVED.replace(b"Content", b"Set-Cookie: seen=1\r\nContent")
    with script(moved, accepted) as server:
        client = face.dial(f"{server.url}here", jar=CookieJar())
        assert client.conn.request.target == "/there"
        client.abort()
    assert [asked.target for asked in server.heard] == ["/here", "/there"]
    assert server.heard[1].headers["Cookie"] == "seen=1"


def test_no_header_that_may_be_a_secret_follows_a_redirect_to_another_origin(face: Face) -> None:
    secrets = {"X-Api-Key": "k", "Authorization": "Bearer t", "Cookie": "c=1", "Host": "v.example"}
    with script(accepted) as there:
        moved = says(f"HTTP/1.1 307 Over There\nLocation: {there.url}\nContent-Length: 0\n\n")
        with script(moved) as here:
            dialer = face.dialer(headers={"X-Api-Key": "k"}, origin="https://app.example")
            face.open(dialer, here.url.replace("//", "//me:pw@"), secrets).abort()
    assert set(secrets) <= set(here.heard[0].headers)
    assert set(there.heard[0].headers) - {"User-Agent", "Origin", "Host"} == {
        "Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version",
    }  # fmt: skip
    assert there.heard[0].headers["Host"] == f"{HERE}:{there.port}"


def test_a_redirect_from_tls_to_plain_text_is_refused(
    face: Face, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    moved = MOVED.replace(b"/there", b"ws://example.com/")
    with script(moved, context=server_tls) as server:
        with pytest.raises(ErrBadHandshake, match="from TLS to plain text, which is never"):
            face.dial(server.url, ssl=client_tls)


def test_redirects_without_end_are_refused(face: Face) -> None:
    with script(*[MOVED] * 3) as server:
        with pytest.raises(ErrBadHandshake, match="max_redirects=2"):
            face.dial(server.url, max_redirects=2)


# Refusals


@pytest.mark.parametrize(
    "body",
    [
        says("Content-Length: 8\n\nno entry"),
        says("Transfer-Encoding: chunked\n\n8\nno entry\n0\n\n"),
    ],
    ids=["length", "chunks"],
)
def test_a_refusal_is_an_error_with_status_headers_and_body(face: Face, body: bytes) -> None:
    refused = says("HTTP/1.1 401 Unauthorized\nWWW-Authenticate: Basic\n") + body
    with script(refused) as server, pytest.raises(ErrBadHandshake, match="no entry") as caught:
        face.dial(server.url)
    response = caught.value.response
    assert (caught.value.status, response.status, response.body) == (401, 401, b"no entry")
    assert response.headers["WWW-Authenticate"] == "Basic"


def test_of_a_long_refusal_the_first_kib_is_shown(face: Face) -> None:
    endless = says("HTTP/1.1 500 Sorry\n\n") + bytes(100_000)
    with script(endless) as server, pytest.raises(ErrBadHandshake) as caught:
        face.dial(server.url)
    assert caught.value.response.body == bytes(1024)


def test_an_origin_that_is_not_welcome_is_a_403(face: Face) -> None:
    with serving() as server, pytest.raises(ErrBadHandshake) as caught:
        face.dial(url(server), origin="https://evil.example")
    assert caught.value.response.status == 403


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_url_of_another_scheme_is_refused(face: Face, scheme: str) -> None:
    with pytest.raises(ValueError, match=f"has the scheme '{scheme}'"):
        face.dial(f"{scheme}://{HERE}/")


def test_an_answer_that_is_not_http_is_an_error_that_says_so(face: Face) -> None:
    with script(b"220 mail.example ESMTP\r\n") as server:
        with pytest.raises(HandshakeError, match="220 mail"):
            face.dial(server.url)


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_the_head_of_an_answer_has_at_most_head_limit_bytes(
    face: Face, scheme: str, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    answer = partial(accepted, lines=f"X-Large: {'x' * 20_000}\n")
    size = len(answer(Request("GET", "/", {"Sec-WebSocket-Key": make_key()})))
    context = server_tls if scheme == "wss" else None
    with script(answer, answer, answer, context=context) as server:
        options = {"ssl": client_tls}
        for limit in ({}, {"head_limit": size - 1}):
            with pytest.raises(HandshakeError, match="larger than the limit of"):
                face.dial(server.url, **options, **limit)
        face.dial(server.url, **options, head_limit=size).abort()


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_head_limit_holds_for_the_answer_of_a_proxy_and_for_the_one_behind_it(
    face: Face, scheme: str, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    large = f"X-Large: {'x' * 20_000}\r\n\r\n".encode()

    def play() -> None:
        for through in (False, True):
            sock = listener.accept()[0]
            sock.settimeout(PATIENCE)
            with sock, suppress(ConnectionResetError):
                read_request(sock)
                sock.sendall(b"HTTP/1.1 200 OK\r\n" + large)
                if through:
                    inner = server_tls.wrap_socket(sock, server_side=True) if tls else sock
                    with inner:
                        asked = read_request(inner)
                        inner.sendall(accepted(asked)[:-2] + large)
                        inner.recv(1)

    tls = scheme == "wss"
    with socket.create_server((HERE, 0)) as listener:
        done = in_thread(play)
        options = {"ssl": client_tls, "proxy": f"http://{HERE}:{listener.getsockname()[1]}"}
        with pytest.raises(HandshakeError, match="larger than the limit of"):
            face.dial(f"{scheme}://{HERE}:9/", **options)
        face.dial(f"{scheme}://{HERE}:9/", **options, head_limit=1 << 15).abort()
        done.result(PATIENCE)


def test_an_acceptance_for_another_key_is_refused(face: Face) -> None:
    with script(lambda asked: accepted(asked).replace(b"Accept: ", b"Accept: x")) as server:
        with pytest.raises(ErrBadHandshake, match="Sec-WebSocket-Accept"):
            face.dial(server.url)


# Time


SOON = 0.3


@pytest.mark.parametrize("timeout", [-1, 0])
def test_a_timeout_that_is_over_before_it_begins_is_refused(face: Face, timeout: float) -> None:
    with pytest.raises(ValueError, match=f"handshake_timeout={timeout}: a number of seconds"):
        face.dial("ws://127.0.0.1:9/", handshake_timeout=timeout)


def test_a_dial_that_is_cancelled_or_out_of_the_callers_time_leaves_nothing_open(
    face: Face,
) -> None:
    if face.name == "sync":
        return  # threads have handshake_timeout alone

    async def impatient(address: str) -> None:
        async with asyncio.timeout(SOON):
            await face.dialer().dial(address)

    with script(b"") as server:  # which waits until we hang up
        with pytest.raises(TimeoutError):
            face.wait(impatient(server.url))
        face.turn()


# Tracing


def test_each_step_is_told_to_the_log_and_no_secret_is(
    face: Face,
    caplog: pytest.LogCaptureFixture,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
) -> None:
    with serving(ssl=server_tls) as server, caplog.at_level(logging.DEBUG, "koko.dialing"):
        where, port = url(server, "wss"), server.address[1]
        with face.dial(where.replace("//", "//me:s3cret@"), {"X-Key": "s3cret"}, ssl=client_tls):
            pass
    told = [record.getMessage() for record in caplog.records if record.name == "koko.dialing"]
    way, resolving, connecting, connected, securing, secured, asking, answered = told
    assert way == f"{where}: through no proxy"
    assert resolving == f"{where}: resolving '{HERE}'"
    assert connecting == f"{where}: connecting to {HERE}:{port}"
    assert connected.startswith(f"connected to {HERE} port {port}: ")
    assert securing == f"{where}: beginning TLS with {HERE}"
    assert asking == f"{where}: sending the request"
    assert secured.startswith(f"TLS with {HERE}: TLSv1.")
    assert answered == f"{where}: answered 101 Switching Protocols"
    assert "s3cret" not in caplog.text
