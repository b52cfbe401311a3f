"""The server for threads, over real sockets, its clients as rude as they come."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import Any

import pytest

from koko import serving
from koko.errors import CloseError, ErrBadHandshake
from koko.http import Request, Response
from koko.sync import Conn, Dialer, Server, Upgrader, dial, serve
from tests.sync.conftest import PATIENCE, in_thread, until
from tests.wire import wire

UPGRADE = (
    b"GET /chat HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def echo(conn: Conn) -> None:
    for message in conn:
        conn.send(message)


def linger(conn: Conn) -> None:
    """A handler that never comes out by itself."""
    conn.wait_closed()


@contextmanager
def running(handler: Any = echo, **options: Any) -> Iterator[Server]:
    with Server(handler, "127.0.0.1", **options) as server:
        yield server


def connect(server: Server) -> socket.socket:
    return socket.create_connection(server.address, timeout=PATIENCE)


def url(server: Server, path: str = "/") -> str:
    return f"ws://127.0.0.1:{server.address[1]}{path}"


def read_all(raw: socket.socket) -> bytes:
    received = b""
    while piece := raw.recv(65536):
        received += piece
    return received


def ask(server: Server, request: bytes) -> bytes:
    with connect(server) as raw:
        raw.sendall(request)
        return read_all(raw)


# Conversations


def test_an_echo() -> None:
    with running() as server, dial(url(server)) as conn:
        conn.send("hello")
        assert conn.recv(PATIENCE) == "hello"
        conn.send(bytes(300_000))
        assert conn.recv(PATIENCE) == bytes(300_000)


def test_an_echo_through_tls(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    with running(ssl=server_tls) as server:
        address = f"wss://127.0.0.1:{server.address[1]}/"
        with dial(address, ssl=client_tls) as conn:
            conn.send("hello")
            assert conn.recv(PATIENCE) == "hello"
        assert str(conn.ending) == "we closed with 1000 (normal); peer answered 1000"


def test_what_the_client_sends_behind_its_request_comes_first() -> None:
    with running() as server, connect(server) as raw:
        raw.sendall(UPGRADE + wire("1 000 0001  1 0000010", b"hi"))
        expected = wire("1 000 0001  0 0000010", b"hi")
        received = b""
        while not received.endswith(expected):
            received += raw.recv(1000)
        assert received.startswith(b"HTTP/1.1 101 ")


def test_both_ends_may_send_much_at_once() -> None:
    much = bytes(10_000_000)

    def send_and_receive(conn: Conn) -> int:
        sender = in_thread(conn.send, much)
        received = conn.recv(PATIENCE)
        sender.result(PATIENCE)
        return len(received)

    with running(send_and_receive, upgrader=Upgrader(read_limit=None)) as server:
        with dial(url(server), read_limit=None) as conn:
            assert send_and_receive(conn) == len(much)


def test_a_handler_sees_the_request() -> None:
    def tell(conn: Conn) -> None:
        conn.send(f"{conn.request.path} {conn.request.query} {conn.subprotocol}")

    upgrader = Upgrader(subprotocols=["chat"])
    with (
        running(tell, upgrader=upgrader) as server,
        dial(url(server, "/a?b"), subprotocols=["chat"]) as conn,
    ):
        assert conn.recv(PATIENCE) == "/a b chat"
        assert conn.subprotocol == "chat"


def test_a_handler_that_returns_closes_with_1000() -> None:
    with running(lambda conn: None) as server, dial(url(server)) as conn:
        assert list(conn) == []
        assert str(conn.ending) == "peer closed with 1000 (normal); we answered 1000"


def test_a_handler_that_raises_closes_with_1011_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(conn: Conn) -> None:
        raise LookupError("nothing there")

    with running(fail) as server, dial(url(server)) as conn:
        with pytest.raises(CloseError) as caught:
            conn.recv(PATIENCE)
        assert caught.value.code == 1011
    assert "LookupError: nothing there" in caplog.text


def test_a_close_error_that_leaves_a_handler_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "koko.server")
    with running(lambda conn: conn.recv()) as server:
        dial(url(server, "/here")).close(4000, "enough")
    (line,) = [said for said in caplog.messages if "/here: " in said]
    assert "/here: peer closed with 4000 'enough'; we answered 4000; after " in line


def test_connections_are_those_that_are_open() -> None:
    with running() as server:
        assert server.connections == set()
        with dial(url(server)) as conn:
            until(lambda: server.connections)
            (ours,) = server.connections
            assert ours.remote_address == conn.local_address
        until(lambda: not server.connections)


# Handshakes that fail


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", b"426"),
        (UPGRADE.replace(b"GET", b"POST"), b"405"),
        (UPGRADE.replace(b"\r\n\r\n", b"\r\nOrigin: https://evil.example\r\n\r\n"), b"403"),
        (b"no http at all", b"400"),
        (b"GET / HTTP/1.1\r\nHost: " + b"a" * 20_000, b"431"),
    ],
)
def test_a_refusal_says_why_and_hangs_up(request_: bytes, status: bytes) -> None:
    with running() as server:
        answer = ask(server, request_)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"\r\nConnection: " in answer


@pytest.mark.parametrize("limit", [300, 30_000])
def test_a_head_has_at_most_head_limit_bytes(limit: int) -> None:
    before, after = UPGRADE[:-2] + b"Cookie: ", b"\r\n\r\n"
    room = limit - len(before + after)
    with running(upgrader=Upgrader(head_limit=limit)) as server:
        for more, status in ((0, b"101"), (1, b"431")):
            with connect(server) as raw:
                raw.sendall(before + b"x" * (room + more) + after)
                assert raw.recv(100).startswith(b"HTTP/1.1 " + status)


def test_a_refusal_arrives_though_much_of_the_request_was_never_read() -> None:
    with running() as server, connect(server) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nX: " + bytes(1_000_000))
        assert read_all(raw).startswith(b"HTTP/1.1 4")


def test_a_head_that_drips_is_cut_off_at_the_deadline() -> None:
    start = monotonic()
    with running(upgrader=Upgrader(handshake_timeout=0.1)) as server, connect(server) as raw:
        raw.settimeout(0.005)
        cut_off = False
        for drop in b"GET / HTTP/1.1\r\nX: " + b"a" * 10_000:
            try:
                raw.sendall(bytes([drop]))
                cut_off = raw.recv(1) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                cut_off = True
            if cut_off:
                break
        assert cut_off
        assert 0.1 <= monotonic() - start < PATIENCE


def test_a_client_that_never_says_a_word_is_cut_off(server_tls: ssl.SSLContext) -> None:
    for context in (None, server_tls):
        upgrader = Upgrader(handshake_timeout=0.05)
        with running(upgrader=upgrader, ssl=context) as server, connect(server) as raw:
            assert raw.recv(1) == b""


def test_plain_http_on_a_tls_port_harms_nobody(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    with running(ssl=server_tls) as server:
        ask(server, UPGRADE)
        with dial(f"wss://127.0.0.1:{server.address[1]}", ssl=client_tls) as conn:
            conn.send("still here")
            assert conn.recv(PATIENCE) == "still here"


# Other requests


def page(request: Request) -> Response | None:
    if request.path == "/broken":
        raise FileNotFoundError("no such page")
    return Response(200, "all is well") if request.path == "/health" else None


def test_http_answers_what_is_no_upgrade() -> None:
    with running(http=page) as server:
        answer = ask(server, b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\nall is well")
        assert ask(server, b"GET /other HTTP/1.1\r\nHost: here\r\n\r\n").startswith(b"HTTP/1.1 426")
        with dial(url(server, "/health")) as conn:
            conn.send("an upgrade is not asked")
            assert conn.recv(PATIENCE) == "an upgrade is not asked"


def test_head_gets_the_head_alone() -> None:
    with running(http=page) as server:
        answer = ask(server, b"HEAD /health HTTP/1.1\r\nHost: here\r\n\r\n")
    assert b"Content-Length: 11\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_http_that_raises_is_a_500_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with running(http=page) as server:
        answer = ask(server, b"GET /broken HTTP/1.1\r\nHost: here\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"no such page" not in answer
    assert "FileNotFoundError: no such page" in caplog.text


# Closing


def test_closing_says_1001_to_everybody_and_waits_for_the_handlers() -> None:
    left = []

    def handler(conn: Conn) -> None:
        list(conn)
        left.append(conn)

    with running(handler) as server, ExitStack() as stack:
        conns = [stack.enter_context(dial(url(server))) for _ in range(3)]
        until(lambda: len(server.connections) == 3)
        closing = in_thread(server.close, reason="deploying")
        for conn in conns:
            with pytest.raises(CloseError) as caught:
                conn.recv(PATIENCE)
            assert (caught.value.code, caught.value.reason) == (1001, "deploying")
        closing.result(PATIENCE)
        assert len(left) == 3


def test_closing_is_bounded_by_clients_that_never_answer() -> None:
    with running(linger) as server, connect(server) as raw:
        raw.sendall(UPGRADE)
        until(lambda: server.connections)
        (conn,) = server.connections
        server.close(timeout=0.05)
        assert b"\x88\x02\x03\xe9" in read_all(raw)
        assert conn.socket.fileno() == -1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("koko-1")]


def test_a_request_that_is_not_whole_yet_gets_503_when_the_server_closes() -> None:
    with running() as server, connect(server) as raw:
        raw.sendall(UPGRADE[:20])
        until(lambda: server._clients.threads)
        closing = in_thread(server.close)
        assert read_all(raw).startswith(b"HTTP/1.1 503 ")
        raw.close()
        closing.result(PATIENCE)


def test_a_closed_server_listens_no_more() -> None:
    with running() as server:
        address = server.address
    assert all(listener.fileno() == -1 for listener in server.sockets)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    server.close()
    server.wait_closed()


def test_closing_with_a_code_that_may_not_be_sent_closes_nothing() -> None:
    with running(linger) as server, dial(url(server)) as conn:
        until(lambda: server.connections)
        with pytest.raises(ValueError, match="close code 42"):
            server.close(42)
        assert conn.ping(timeout=PATIENCE) > 0
        with dial(url(server)) as another:
            assert another.ping(timeout=PATIENCE) > 0
        in_thread(server.close).result(PATIENCE)
        in_thread(server.wait_closed).result(PATIENCE)


def recv_on(conn: Conn) -> None:
    while True:
        conn.send(conn.recv())


def fail(conn: Conn) -> None:
    raise LookupError("on purpose")


@pytest.mark.parametrize("leave", [Conn.close, Conn.abort])
@pytest.mark.parametrize("handler", [echo, recv_on, fail, linger])
@pytest.mark.parametrize("way", ["handler", "http"])
def test_a_connection_that_has_ended_waits_for_no_garbage_collector(
    way: str, handler: Any, leave: Any
) -> None:
    seen: list[weakref.ref[Conn]] = []

    def remember(conn: Conn) -> None:
        seen.append(weakref.ref(conn))
        handler(conn)

    def upgrade(request: Request) -> None:
        remember(Upgrader().upgrade(request))

    gc.collect()
    logging.disable()  # pytest keeps records, with what was raised, and so the frames
    gc.disable()
    try:
        given: Any = {"http": upgrade} if way == "http" else {}
        with running(None if given else remember, **given) as server:
            with dial(url(server)) as conn:
                until(lambda: seen)
                leave(conn)
            until(lambda: seen[0]() is None)
    finally:
        logging.disable(logging.NOTSET)
        gc.enable()


def test_a_handler_may_close_its_server() -> None:
    holder: list[Server] = []

    def handler(conn: Conn) -> None:
        holder[0].close()

    with running(handler) as server:
        holder.append(server)
        with dial(url(server)) as conn:
            assert list(conn) == []  # 1001 is an end in order
        server.wait_closed()


def test_a_server_that_runs_out_of_files_goes_on_when_there_are_some_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(serving, "RETRY", 0.01)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with running() as server, ExitStack() as stack:
        raw = stack.enter_context(connect(server))
        until(lambda: server._clients.threads)
        clients = [stack.enter_context(socket.socket()) for _ in range(5)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (os.dup(raw.fileno()), hard))
        os.close(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        try:
            for client in clients:
                client.connect(server.address)
            until(lambda: "cannot accept: too many open files; next try in 0.01 s" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        with dial(url(server)) as conn:
            conn.send("again")
            assert conn.recv(PATIENCE) == "again"


# Where it listens


def test_every_address_of_a_name_gets_the_same_port() -> None:
    with Server(echo, ["127.0.0.1", "localhost"]) as server:
        assert len({sock.getsockname()[1] for sock in server.sockets}) == 1
        with dial(f"ws://localhost:{server.address[1]}") as conn:
            conn.send("hello")
            assert conn.recv(PATIENCE) == "hello"


def test_a_port_in_use_is_an_error_at_the_start() -> None:
    with running() as server, pytest.raises(OSError, match="in use"):
        Server(echo, *server.address).start()


def test_a_socket_of_ones_own_is_listened_on() -> None:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    with Server(echo, sock=sock) as server, dial(url(server)) as conn:
        conn.send("hello")
        assert conn.recv(PATIENCE) == "hello"


# serve


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_returns_when_it_gets_a_signal(number: signal.Signals) -> None:
    script = """
import os, signal
from koko.sync import serve
before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
# Not print(), which the signal may have interrupted.
signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b"not ours\\n"))
serve(lambda conn: list(conn), "127.0.0.1", on_start=lambda s: print(s.address[1], flush=True))
assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
print("done")
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with dial(f"ws://127.0.0.1:{port}") as conn:
            process.send_signal(signal.SIGUSR1)
            assert process.stdout.readline() == "not ours\n"
            assert conn.ping(timeout=PATIENCE) > 0
            process.send_signal(number)
            with pytest.raises(CloseError) as caught:
                conn.recv(PATIENCE)
            assert caught.value.code == 1001
        assert process.wait(PATIENCE) == 0
        assert process.stdout.read() == "done\n"


def test_serve_runs_in_any_thread_until_its_server_is_closed() -> None:
    servers: list[Server] = []
    serving = in_thread(serve, echo, "127.0.0.1", on_start=servers.append, compression=True)
    until(lambda: servers)
    with Dialer(compression=True).dial(url(servers[0])) as conn:
        conn.send("a" * 1000)
        assert conn.recv(PATIENCE) == "a" * 1000
        assert conn.compression_level is not None
    servers[0].close()
    serving.result(PATIENCE)


def test_serve_takes_an_upgrader_or_its_options() -> None:
    with pytest.raises(TypeError, match="not both: compression"):
        serve(echo, upgrader=Upgrader(), compression=True)


def test_a_page_from_elsewhere_is_told_so() -> None:
    with running() as server, pytest.raises(ErrBadHandshake, match="evil.example") as caught:
        dial(url(server), origin="https://evil.example")
    assert caught.value.status == 403
