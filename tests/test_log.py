"""What a log says of each client, on both faces: one line, with its address and no secret."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from koko import CloseError, ErrBadHandshake, HandshakeError, Request, Response, aio, sync
from tests.logged import of_client, of_clients
from tests.test_servers import HERE, PLAIN, UPGRADE, Serve, on_asyncio, on_threads, read_all

PATIENCE = 10.0  # seconds after which a test has failed; nothing waits so long


@pytest.fixture(params=[on_threads, on_asyncio], ids=["threads", "asyncio"])
def serve(request: pytest.FixtureRequest) -> Serve:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "koko.server")


def until(condition: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.005)


def ignore(conn: Any) -> None:
    pass


def connected(server: Any) -> tuple[socket.socket, str]:
    """Return a client, and its address as a log has it."""
    sock = socket.create_connection(server.address, PATIENCE)
    host, port = sock.getsockname()
    return sock, f"{host}:{port}"


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Leaver:
    """An ``http=`` that answers when its client has gone."""

    def __init__(self, serve: Serve, answer: Callable[[], Response]) -> None:
        self.asked, self.gone = threading.Event(), threading.Event()
        self._answer = answer
        self.http: Any = self._ask if serve is on_threads else self._ask_in_a_thread

    def _ask(self, request: Request) -> Response:
        self.asked.set()
        assert self.gone.wait(PATIENCE)
        return self._answer()

    async def _ask_in_a_thread(self, request: Request) -> Response:
        return await asyncio.to_thread(self._ask, request)


def page(*_: object) -> Response:
    return Response(200, "page")


def refuses(*_: object) -> Response:
    raise HandshakeError(401, "no token")


def fails(*_: object) -> Response:
    raise ValueError("of the application")


# One line


@pytest.mark.parametrize("answer", [page, refuses, fails])
def test_a_client_that_resets_before_its_answer_is_one_line(
    answer: Callable[[], Response], serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    leaver = Leaver(serve, answer)
    with serve(ignore, http=leaver.http) as server:
        sock, peer = connected(server)
        sock.sendall(PLAIN)
        assert leaver.asked.wait(PATIENCE)
        reset(sock)
        leaver.gone.set()
        until(lambda: of_client(caplog, peer))
    assert len(of_client(caplog, peer)) == 1


def test_a_client_that_is_refused_and_resets_is_one_line(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    peers = []
    with serve(ignore) as server:
        for _ in range(50):  # some of them before the answer is written
            sock, peer = connected(server)
            sock.sendall(b"\x80no HTTP\r\n\r\n")
            reset(sock)
            peers.append(peer)
        until(lambda: all(of_client(caplog, peer) for peer in peers))
    assert [len(of_client(caplog, peer)) for peer in peers] == [1] * len(peers)


def test_a_failed_answer_is_an_error_and_the_line_of_its_client(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(ignore, http=fails) as server:
        sock, peer = connected(server)
        with sock:
            sock.sendall(PLAIN)
            assert read_all(sock).startswith(b"HTTP/1.1 500 ")
    assert of_clients(caplog) == [
        "koko.server ERROR could not answer /",
        f"koko.server INFO {peer} /: 500: the server failed to answer",
    ]


def test_user_and_password_of_a_target_are_not_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    target = b"GET http://me:s3cret@a.example/in?token=s3cret"
    with serve(ignore) as server:
        sock, peer = connected(server)
        with sock:
            sock.sendall(UPGRADE.replace(b"GET /", target))
            assert sock.recv(4096).startswith(b"HTTP/1.1 101 ")
    (line,) = of_clients(caplog)
    assert line.startswith(f"koko.server INFO {peer} http://a.example/in: ")


# What is no refusal of ours


@pytest.mark.parametrize(
    "error",
    [
        ErrBadHandshake("of another server", Response(101, b"", {"Upgrade": "websocket"})),
        ErrBadHandshake("of another server", Response(401, b"", {"Set-Cookie": "a=s3cret"})),
        HandshakeError(0, "bad answer from another server"),
        HandshakeError(101, "come in"),
        HandshakeError(99, "no status"),
    ],
    ids=["another's 101", "another's 401", "no HTTP", "101", "99"],
)
@pytest.mark.parametrize("way", ["http", "check_origin", "select_subprotocol"])
def test_what_another_server_answered_is_not_passed_on(
    way: str, error: HandshakeError, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def dials(*_: object) -> Any:
        raise error

    with serve(None if way == "http" else ignore, **{"http": page, way: dials}) as server:
        sock, _ = connected(server)
        with sock:
            sock.sendall(UPGRADE)
            answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"s3cret" not in answer
    assert "could not answer /" in caplog.messages


# An answer that comes late


def test_on_threads_an_answer_that_comes_late_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    def late(request: Any) -> Response:
        request.handshake._deadline = time.monotonic() - 1
        return page()

    with on_threads(ignore, http=late) as server:
        sock, peer = connected(server)
        with sock:
            sock.sendall(PLAIN)
            assert read_all(sock).endswith(b"page")
    assert of_clients(caplog) == [f"koko.server INFO {peer} /: answered 200"]


@pytest.mark.parametrize("stubborn", [False, True], ids=["", "and is not cancelled"])
def test_on_asyncio_an_http_that_takes_too_long_is_answered_for(
    stubborn: bool, caplog: pytest.LogCaptureFixture
) -> None:
    ended = threading.Event()

    async def slow(request: Any) -> Response:
        loop = asyncio.get_running_loop()
        loop.call_soon(request.handshake.on_timer)
        try:
            return await loop.create_future()  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            if not stubborn:
                raise
            return page()
        finally:
            ended.set()

    with on_asyncio(ignore, http=slow) as server:
        sock, peer = connected(server)
        with sock:
            sock.sendall(PLAIN)
            answer = read_all(sock)
        assert ended.wait(PATIENCE)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    said = "503: the application took too long to answer; http= has handshake_timeout=10 s"
    assert of_clients(caplog) == [f"koko.server WARNING {peer} /: {said}"]


# Log handlers that raise


def test_a_server_closes_though_its_log_handler_raises_in_the_main_thread() -> None:
    def fail(record: logging.LogRecord) -> bool:
        raise OSError("the disk is full")

    assert threading.current_thread() is threading.main_thread()
    logger = logging.Logger("failing", logging.INFO)
    logger.addFilter(fail)
    with sync.Server(lambda conn: conn.wait_closed(), HERE, logger=logger) as server:
        conn = sync.dial(f"ws://{HERE}:{server.address[1]}/", proxy=None)
        until(lambda: server.connections)
        closing = threading.Thread(target=conn.wait_closed)
        closing.start()
        server.close()
        closing.join(PATIENCE)
    assert getattr(conn.ending, "code", None) == 1001


def ends_of(face: Any, url: str) -> list[int]:
    """Return how two connections of ``reconnect`` ended; then the loop is left."""

    async def on_asyncio() -> list[int]:
        codes: list[int] = []
        async for conn in aio.reconnect(url, backoff=aio.Backoff(base=0), proxy=None):
            await conn.wait_closed(PATIENCE)
            codes.append(getattr(conn.ending, "code", 0))
            if len(codes) == 2:
                break
        return codes

    if face is aio:
        return asyncio.run(on_asyncio())
    codes: list[int] = []
    for conn in sync.reconnect(url, backoff=sync.Backoff(base=0), proxy=None):
        conn.wait_closed(PATIENCE)
        codes.append(getattr(conn.ending, "code", 0))
        if len(codes) == 2:
            break
    return codes


@pytest.mark.parametrize("face", [sync, aio], ids=["threads", "asyncio"])
def test_a_client_dials_and_comes_back_though_its_log_handlers_raise(face: Any) -> None:
    def fail(record: logging.LogRecord) -> bool:
        said.append(record.getMessage())
        raise OSError("the disk is full")

    said: list[str] = []
    with ExitStack() as stack:
        for name, level in (("koko.dialing", logging.DEBUG), ("koko.client", logging.INFO)):
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            stack.callback(logger.removeFilter, fail)
            logger.setLevel(level)
            logger.addFilter(fail)
        with on_threads(ignore) as server:
            assert ends_of(face, f"ws://{HERE}:{server.address[1]}/") == [1000, 1000]
    assert any(line.endswith("answered 101 Switching Protocols") for line in said)
    assert any("next try in" in line for line in said)


# The end of a block


@pytest.mark.parametrize("face", [sync, aio], ids=["threads", "asyncio"])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CloseError(1001), 1000),
        (ExceptionGroup("", [CloseError(1001), ExceptionGroup("", [CloseError(1006)])]), 1000),
        (ExceptionGroup("", [CloseError(1001), ValueError()]), 1011),
    ],
    ids=["a CloseError", "a group of them", "another error among them"],
)
def test_a_block_that_is_left_by_ends_of_connections_has_not_failed(
    error: Exception, code: int, face: Any
) -> None:
    async def leave() -> None:
        async with aio.dial(url, proxy=None):
            raise error

    def wait(conn: sync.Conn) -> None:
        conn.wait_closed()
        ends.append(conn.ending)

    ends: list[Any] = []
    with on_threads(wait) as server:
        url = f"ws://{HERE}:{server.address[1]}/"
        with pytest.raises(type(error)):
            if face is aio:
                asyncio.run(leave())
            with sync.dial(url, proxy=None):
                raise error
        until(lambda: ends)
    assert ends[0].code == code
