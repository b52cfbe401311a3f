"""close_all: every client of the process is told, and its handler waited for."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from koko import CloseError
from koko.adapters import http_server
from koko.adapters.closing import close_all
from koko.sync import Conn, Upgrader, dial

pytestmark = pytest.mark.once
ended: list[str] = []


class Site(BaseHTTPRequestHandler):
    @http_server.websocket(Upgrader(), thread=True)
    def do_GET(self, conn: Conn) -> None:
        conn.send("welcome")
        conn.wait_closed()
        ended.append(self.path)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Site) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_everybody_gets_the_close_and_the_handlers_have_ended(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "koko.server")
    ended.clear()
    with dial(f"{url}/a") as first, dial(f"{url}/b") as second:
        assert {first.recv(), second.recv()} == {"welcome"}
        close_all(1012, "restart")
        assert sorted(ended) == ["/a", "/b"]
        for conn in (first, second):
            with pytest.raises(CloseError) as closed:
                conn.recv()
            assert (closed.value.code, closed.value.reason) == (1012, "restart")
    assert caplog.records[0].getMessage().startswith("closing: waiting up to 10 s for 2 conn")
    close_all()  # there is nobody
    assert not [each for each in threading.enumerate() if each.name.startswith("koko-127")]


def test_a_client_that_does_not_answer_is_dropped_when_the_time_is_over(url: str) -> None:
    raw = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 10)
    with raw:
        raw.sendall(
            b"GET /c HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        while b"welcome" not in raw.recv(1000):
            pass
        ended.clear()
        close_all(timeout=0.05)
        assert ended == ["/c"]
        heard = b""
        while piece := raw.recv(1000):
            heard += piece
        assert heard.endswith(b"\x88\x02\x03\xe9")


def test_what_cannot_be_said_or_waited_for_is_an_error_and_nobody_is_told(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with dial(url) as conn:
        conn.recv()
        with pytest.raises(ValueError, match="1006"):
            close_all(1006)
        for timeout in ("5", float("nan"), float("inf")):
            with pytest.raises((TypeError, ValueError), match="^timeout="):
                close_all(timeout=timeout)  # type: ignore[arg-type]
        assert not [each for each in caplog.messages if each.startswith("closing")]
        assert conn.ping(timeout=10) > 0


def test_our_own_clients_are_left_alone(url: str) -> None:
    with dial(url) as conn:
        conn.recv()
        close_all()
        assert str(conn.ending or "peer closed").startswith("peer closed")


def test_a_handler_may_call_it(url: str) -> None:
    done = threading.Event()

    class Stops(BaseHTTPRequestHandler):
        @http_server.websocket(Upgrader(), thread=True)
        def do_GET(self, conn: Conn) -> None:
            close_all()
            done.set()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Stops) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        with dial(f"ws://127.0.0.1:{server.server_port}/") as conn:
            with pytest.raises(CloseError):
                conn.recv(5)
            assert done.wait(5)
        thread.join()
