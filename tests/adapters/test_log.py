"""What an operator reads of a client that a view turned away."""

from __future__ import annotations

import logging
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Event, Thread
from urllib.parse import urlsplit

import pytest

from koko import ErrBadHandshake, Request
from koko.adapters import http_server
from koko.sync import Conn, Upgrader, dial
from tests.test_servers import UPGRADE

pytestmark = pytest.mark.once


class Site(BaseHTTPRequestHandler):
    @http_server.websocket(Upgrader())
    def do_GET(self, conn: Conn) -> None:
        conn.send("welcome")

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(site: type[BaseHTTPRequestHandler] = Site) -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), site) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def test_a_refused_origin_is_a_warning_that_says_what_to_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "koko.server")
    with serving() as url, pytest.raises(ErrBadHandshake, match="403"):
        dial(f"{url}chat?token=secret", origin="https://app.example")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    line = r"127\.0\.0\.1:[1-9]\d* /chat: 403: origin 'https://app\.example' is not the"
    assert re.match(line, record.getMessage())
    assert "add 'https://app.example' to origins=" in record.getMessage()


def test_a_view_that_is_full_says_whom_it_refused(caplog: pytest.LogCaptureFixture) -> None:
    class Full(Site):
        @http_server.websocket(Upgrader(), thread=True, max_connections=1)
        def do_GET(self, conn: Conn) -> None:
            conn.wait_closed()

    caplog.set_level(logging.INFO, "koko.server")
    with serving(Full) as url, dial(url):
        with pytest.raises(ErrBadHandshake, match="503"):
            dial(f"{url}chat?token=secret")
        (line,) = caplog.messages
    assert re.match(r"127\.0\.0\.1:[1-9]\d* /chat: 503: the server is full \(max_conn", line)


def test_the_address_of_a_refused_client_is_what_a_trusted_proxy_tells(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Proxied(Site):
        @http_server.websocket(Upgrader(trusted_proxies=["127.0.0.1"]))
        def do_GET(self, conn: Conn) -> None:
            """Never be called."""

    headers = {"X-Forwarded-For": "203.0.113.9", "Origin": "https://evil.example"}
    with serving(Proxied) as url, pytest.raises(ErrBadHandshake, match="403"):
        dial(f"{url}chat", headers=headers)
    (line,) = caplog.messages
    assert line.startswith("203.0.113.9 /chat: 403: origin 'https://evil.example' is not the host")


def test_a_log_handler_that_raises_leaves_no_refused_client_without_its_answer() -> None:
    def fail(record: logging.LogRecord) -> bool:
        raise OSError("the disk is full")

    logger = logging.getLogger("koko.server")
    logger.addFilter(fail)
    try:
        with serving() as url, pytest.raises(ErrBadHandshake, match="is not the host"):
            dial(url, origin="https://app.example")
    finally:
        logger.removeFilter(fail)


def test_a_view_of_the_wrong_kind_is_named_as_the_application_named_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Yields(Site):
        @http_server.websocket(Upgrader())
        def do_GET(self, conn: Conn) -> object:
            return (each for each in "never")

    caplog.set_level(logging.ERROR, "koko.server")
    with serving(Yields) as url, dial(url) as conn:
        conn.wait_closed(10)
        assert getattr(conn.ending, "code", None) == 1011
    said = "returned an object of type generator, which nothing runs; it must not yield"
    assert caplog.messages == [f"handler Yields.do_GET() {said}"]


def test_a_client_that_is_gone_before_it_is_answered_is_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked, gone = Event(), Event()

    def check(request: Request) -> bool:
        asked.set()
        return gone.wait(10)

    class Late(Site):
        @http_server.websocket(Upgrader(check_origin=check))
        def do_GET(self, conn: Conn) -> None:
            """Never be called."""

    caplog.set_level(logging.INFO, "koko.server")
    with serving(Late) as url:
        sock = socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), 10)
        host, port = sock.getsockname()
        sock.sendall(UPGRADE)
        assert asked.wait(10)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        gone.set()
    said = "the client hung up before it was answered"
    assert caplog.messages == [f"{host}:{port} /: {said}"]
