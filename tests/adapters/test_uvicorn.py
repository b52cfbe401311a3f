"""Koko's class inside uvicorn: the same claims on each HTTP protocol and loop, plain and TLS."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterator

import pytest
import trustme

from koko import CloseError, ErrBadHandshake
from koko.sync import dial
from tests.adapters.conftest import PATIENCE, Site
from tests.adapters.test_servers import UPGRADE, read_until
from tests.adapters.uvicorn_server import serving, with_tls
from tests.wire import wire

pytestmark = [pytest.mark.integration("uvicorn")]

SITES = [
    pytest.param(f"{http}+{loop}{tls}", marks=pytest.mark.integration(http))
    for http in ("httptools", "h11", "zttp")
    for loop in ("uvloop", "asyncio")
    for tls in ("", "+tls")
]


@pytest.fixture(scope="module", params=SITES)
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("uvicorn")
    http, loop, *tls = request.param.split("+")
    options, context = with_tls(authority, folder) if tls else ([], None)
    options += ["--http", http, "--loop", loop]
    with serving(folder / "log", *options, tls=context) as site:
        dial(site.url("/echo"), ssl=context, proxy=None).close()  # one epoll for all that follow
        before = site.state()
        yield site
        left_behind(site, before)
    said = (folder / "log").read_text()
    assert said.count("Traceback") == said.count("LookupError: on purpose"), said
    assert "Task was destroyed" not in said
    assert "Bad file descriptor" not in said
    assert "socket.send() raised exception" not in said


def left_behind(site: Site, before: dict[str, object]) -> None:
    """Wait until the process holds no more than it should."""
    give_up_at = time.monotonic() + PATIENCE
    wanted = {name: before[name] for name in ("tasks", "descriptors")}
    while (told := {name: site.state()[name] for name in wanted}) != wanted:
        assert time.monotonic() < give_up_at, f"it holds {told}, expected {wanted}"


def hears(site: Site, end: str) -> None:
    """Wait until the application was told of this end, the last one."""
    give_up_at = time.monotonic() + PATIENCE
    while (told := site.state()["ends"])[-1:] != [end]:
        assert time.monotonic() < give_up_at, f"told {told[-3:]}, expected {end!r}"


def refused(site: Site, path: str, **options: object) -> ErrBadHandshake:
    with pytest.raises(ErrBadHandshake) as error:
        dial(site.url(path), ssl=site.tls, proxy=None, **options)
    return error.value


def test_messages_are_echoed_compressed_and_not(site: Site) -> None:
    for compression in (True, False):
        with dial(
            site.url("/echo"),
            ssl=site.tls,
            proxy=None,
            compression=compression,
            subprotocols=["soap", "chat"],
        ) as conn:
            assert conn.subprotocol == "chat"
            for message in ("hello", "é" * 1000, bytes(1 << 20), b"", ""):
                conn.send(message)
                assert conn.recv(PATIENCE) == message
        assert str(conn.ending) == "we closed with 1000 (normal); peer answered 1000"
        hears(site, "1000")


def test_messages_in_flight_keep_their_order(site: Site) -> None:
    with dial(site.url("/echo"), ssl=site.tls, proxy=None) as conn:
        with conn.cork():
            for number in range(1000):
                conn.send(str(number))
        assert [conn.recv(PATIENCE) for _ in range(1000)] == [str(n) for n in range(1000)]


def test_a_browsers_offer_is_answered_without_context_takeover(site: Site) -> None:
    offer = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    with site.connect() as raw:
        raw.sendall(UPGRADE % (b"/echo", offer))
        head = read_until(raw, b"\r\n\r\n")
    said = [line for line in head.split(b"\r\n") if line.startswith(b"Sec-WebSocket-Extensions")]
    assert said == [
        b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; "
        b"client_no_context_takeover"
    ]


def test_what_came_in_one_packet_with_the_request_is_heard(site: Site) -> None:
    first = wire("1 000 0001 1 len", b"early")
    with site.connect() as raw:
        raw.sendall(UPGRADE % (b"/echo", b"") + first + first[:4])
        assert read_until(raw, b"\x81\x05early").startswith(b"HTTP/1.1 101 ")
        raw.sendall(first[4:] + wire("1 000 1000 1 len", b"\x03\xe8"))
        assert read_until(raw, b"\x88") == b"\x81\x05early\x88\x02\x03\xe8"
        assert raw.recv(1) == b""


def test_the_scope_is_as_the_specification_has_it(site: Site) -> None:
    with dial(
        site.url("/a%20b/scope?x=1&y=%2F"),
        ssl=site.tls,
        proxy=None,
        headers={"X-Asked": "caf\xe9"},
        subprotocols=["a", "b"],
    ) as conn:
        scope = json.loads(str(conn.recv(PATIENCE)))
        assert conn.response.headers["X-Extra"] == "café"
        assert conn.response.headers["Server"] == "uvicorn"
        assert len(conn.response.headers.getall("Date")) == 1
    assert scope["type"] == "websocket"
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.4"}
    assert scope["http_version"] == "1.1"
    assert scope["scheme"] == ("wss" if site.tls else "ws")
    assert scope["server"] == ["127.0.0.1", site.port]
    assert scope["client"] == list(conn.local_address)
    assert scope["path"] == "/a b/scope"
    assert scope["raw_path"] == "b'/a%20b/scope'"
    assert scope["query_string"] == "b'x=1&y=%2F'"
    assert scope["subprotocols"] == ["a", "b"]
    assert scope["extensions"] == ["koko", "websocket.http.response"]
    assert ["b'x-asked'", "b'caf\\xe9'"] in scope["headers"]


def test_an_application_may_refuse(site: Site) -> None:
    error = refused(site, "/refuse")
    assert error.status == 403
    hears(site, "1006")
    error = refused(site, "/deny")
    assert error.status == 401
    assert error.response.body == b"who are you?"
    assert error.response.headers["Content-Type"] == "text/html"
    assert error.response.headers["Content-Length"] == "12"
    hears(site, "1006")


def test_an_application_that_fails_is_a_500(site: Site) -> None:
    error = refused(site, "/fail")
    assert error.status == 500
    assert error.response.body == b"Internal Server Error"


def test_a_close_ends_a_receive_that_waits(site: Site) -> None:
    # Not with the client of websockets for threads: over TLS it hangs now and then at its
    # handshake, as it does with uvicorn's own classes.
    with dial(site.url("/close"), ssl=site.tls, proxy=None) as conn:
        assert conn.recv(PATIENCE) == "last"
        with pytest.raises(CloseError) as closed:
            conn.recv(PATIENCE)
    assert (closed.value.code, closed.value.reason) == (4000, "bye")
    hears(site, "4000 bye")


def test_codes_and_reasons_of_a_client_are_told(site: Site) -> None:
    with dial(site.url("/echo"), ssl=site.tls, proxy=None) as conn:
        conn.close(4321, "enough")
    hears(site, "4321 enough")


def test_a_client_that_vanishes_is_1005(site: Site) -> None:
    conn = dial(site.url("/echo"), ssl=site.tls, proxy=None)
    conn.abort()
    give_up_at = time.monotonic() + PATIENCE
    while not site.state()["ends"][-1].startswith("1005 "):
        assert time.monotonic() < give_up_at


def test_an_application_that_only_sends_is_told_of_the_end(site: Site) -> None:
    with dial(site.url("/feed"), ssl=site.tls, proxy=None) as conn:
        assert conn.recv(PATIENCE) == "news"
    hears(site, "ClientDisconnected")


def test_a_client_that_does_not_read_holds_the_application_back(site: Site) -> None:
    with site.connect() as raw:
        raw.sendall(UPGRADE % (b"/flood", b""))
        read_until(raw, b"\r\n\r\n")
        before = site.state()["ends"]
        time.sleep(0.2)
        assert site.state()["ends"] == before
        raw.shutdown(socket.SHUT_RDWR)
    hears(site, "bounded")


def test_nothing_is_said_of_what_is_sent_to_a_client_that_has_just_reset(site: Site) -> None:
    raw = site.connect()
    raw.sendall(UPGRADE % (b"/burst", b""))
    read_until(raw, b"go")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()
    hears(site, "sent")


def test_events_out_of_turn_are_told_in_uvicorns_words(site: Site) -> None:
    with dial(site.url("/misuse"), ssl=site.tls, proxy=None) as conn:
        with pytest.raises(CloseError):
            conn.recv(PATIENCE)
    late = "Unexpected ASGI message 'websocket.send', after sending 'websocket.close'."
    hears(site, late)
    early = "Expected ASGI message 'websocket.accept', 'websocket.close' or "
    assert site.state()["ends"][-5:] == [
        early + "'websocket.http.response.start' but got 'websocket.send'.",
        early + "'websocket.http.response.start' but got 'websocket.http.response.body'.",
        "Expected ASGI message 'websocket.send' or 'websocket.close', but got 'websocket.accept'.",
        "websocket.send has neither 'bytes' nor 'text'",
        late,
    ]


def test_the_scope_gives_the_connection_itself(site: Site) -> None:
    with dial(site.url("/native"), ssl=site.tls, proxy=None) as conn:
        assert conn.response.headers["X-Native"] == "yes"
        conn.send("hello")
        assert conn.recv(PATIENCE) == "hello"
    hears(site, "peer closed with 1000 (normal); we answered 1000")


def test_what_is_no_handshake_is_refused_without_the_application(site: Site) -> None:
    with site.connect() as raw:
        raw.sendall((UPGRADE % (b"/echo", b"")).replace(b"Version: 13", b"Version: 12"))
        answer = read_until(raw, b"expected '13' (RFC 6455 \xc2\xa74.4)")
    assert answer.startswith(b"HTTP/1.1 426 ")
    assert b"Sec-WebSocket-Version: 13\r\n" in answer
    assert b"server: uvicorn\r\n" in answer


def test_a_proxy_that_speaks_http_1_0_is_told_so(site: Site) -> None:
    with site.connect() as raw:
        raw.sendall((UPGRADE % (b"/echo", b"")).replace(b"HTTP/1.1", b"HTTP/1.0"))
        answer = read_until(raw, b"request is HTTP/1.0, expected HTTP/1.1")
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_a_target_with_a_host_is_its_path(site: Site) -> None:
    with site.connect() as raw:
        raw.sendall((UPGRADE % (b"/scope?x=1", b"")).replace(b"GET /", b"GET http://elsewhere/"))
        said = read_until(raw, b'"query_string": "b\'x=1\'"')
    assert b'"path": "/scope"' in said
    assert b'"raw_path": "b\'/scope\'"' in said


def test_what_came_behind_the_end_of_a_request_in_two_packets_is_heard(
    site: Site, request: pytest.FixtureRequest
) -> None:
    if request.node.callspec.params["site"].startswith("zttp"):
        return  # it does not say where the head has ended
    head = UPGRADE % (b"/echo", b"")
    with site.connect() as raw:
        raw.sendall(head[:-2])
        time.sleep(0.05)  # or it is one packet, which is heard as well
        raw.sendall(head[-2:] + wire("1 000 0001 1 len", b"early"))
        assert read_until(raw, b"\x81\x05early").startswith(b"HTTP/1.1 101 ")
