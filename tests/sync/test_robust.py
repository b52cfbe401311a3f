"""What the application or the system does to us once: nothing is left behind, and we go on."""

from __future__ import annotations

import logging
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from compliance.ports import free_port
from koko import CloseError, ErrBadHandshake, HandshakeError, serving
from koko.dialing import Opened
from koko.sync import Conn, Dialer, Server, Upgrader, dial
from koko.sync.housekeeper import housekeeper
from koko.sync.signals import stop_signals
from tests.logged import of_clients
from tests.sync.conftest import PATIENCE, Link, in_thread, until
from tests.wire import wire

PING = wire("1 000 1001  1 0000001", b"?")
HI = wire("1 000 0001  1 0000010", b"hi")


class Stop(BaseException):
    """What a test framework raises: no ``Exception``."""


LEAVING: list[BaseException] = [Stop("enough"), SystemExit(3), BaseExceptionGroup("all", [Stop()])]
leaving = pytest.mark.parametrize("error", LEAVING, ids=lambda error: type(error).__name__)


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*args: object) -> Any:
        raise error

    return fail


def url(server: Server) -> str:
    return f"ws://127.0.0.1:{server.address[1]}/"


# The application


@leaving
def test_handler_that_leaves_by_what_is_no_exception_ends_its_connection_alone(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(conn: Conn) -> None:
        if conn.recv() == "fail":
            raise error
        conn.send("served")

    with Server(handler, "127.0.0.1", max_connections=1) as server:
        with dial(url(server), proxy=None) as conn:
            conn.send("fail")
            with pytest.raises(CloseError) as raised:
                conn.recv(timeout=PATIENCE)
            assert raised.value.code == 1011
        until(lambda: not (server._clients.served or server._clients.refused))
        with dial(url(server), proxy=None) as conn:  # there is a place again
            conn.send("work")
            assert conn.recv(timeout=PATIENCE) == "served"
    assert "handler of <koko.sync.Conn" in caplog.text


@leaving
def test_http_that_leaves_by_what_is_no_exception_is_a_500(error: BaseException) -> None:
    with (
        Server(None, "127.0.0.1", http=raising(error)) as server,
        pytest.raises(ErrBadHandshake) as raised,
    ):
        dial(url(server), proxy=None)
    assert raised.value.status == 500


@leaving
def test_check_that_leaves_by_what_is_no_exception_is_a_500(error: BaseException) -> None:
    upgrader = Upgrader(check_origin=raising(error))
    with (
        Server(list, "127.0.0.1", upgrader=upgrader) as server,
        pytest.raises(ErrBadHandshake) as raised,
    ):
        dial(url(server), proxy=None, origin="http://example.org")
    assert raised.value.status == 500


@leaving
@pytest.mark.parametrize("which", ["ping_handler", "pong_handler", "close_handler"])
def test_control_handler_that_leaves_by_what_is_no_exception_ends_the_connection(
    link: Link, error: BaseException, which: str
) -> None:
    conn, peer = link()
    setattr(conn, which, raising(error))
    opcode, payload = {
        "ping": ("1001", b""),
        "pong": ("1010", b""),
        "close": ("1000", b"\x03\xe8"),
    }[which.removesuffix("_handler")]
    peer.sends(wire(f"1 000 {opcode}  1 len", payload))
    with pytest.raises(type(error)):
        conn.recv(timeout=PATIENCE)
    assert conn.ending is error
    (close,) = peer.reads_messages(1)
    assert close.payload[:2] == b"\x03\xf3"  # 1011


def test_log_handler_that_fails_does_not_end_a_server() -> None:
    logger = logging.Logger("failing")
    logger.addFilter(raising(Stop()))

    def echo(conn: Conn) -> None:
        for message in conn:
            conn.send(message)

    server = Server(echo, "127.0.0.1", max_connections=1, logger=logger)
    with pytest.raises(Stop), server:  # whoever closes it is told, when that is done
        for _ in range(2):
            with dial(url(server), proxy=None) as conn:
                conn.send("hello")
                assert conn.recv(timeout=PATIENCE) == "hello"
            until(lambda: not (server._clients.served or server._clients.refused))
    assert server._closed.is_set()


@pytest.mark.parametrize("deed", ["close", "detach", "shutdown"])
def test_nothing_is_written_to_what_got_the_number_of_a_socket_that_was_closed(deed: str) -> None:
    def quiet(conn: Conn) -> None:
        conn.wait_closed()

    with Server(quiet, "127.0.0.1") as server:
        conn = dial(url(server), proxy=None)
        number = conn.socket.fileno()
        number = {
            "close": conn.socket.close,
            "detach": conn.socket.detach,
            "shutdown": lambda: conn.socket.shutdown(socket.SHUT_RDWR),
        }[deed]() or number
        if deed == "detach":
            os.close(number)
        pairs = [socket.socketpair()]
        while deed != "shutdown" and number not in map(socket.socket.fileno, pairs[-1]):
            assert number > min(map(socket.socket.fileno, pairs[-1])), "another one has got it"
            pairs.append(socket.socketpair())  # lower numbers were free, since an earlier test
        ours, theirs = pairs.pop()
        for left in (end for pair in pairs for end in pair):
            left.close()
        with ours, theirs, pytest.raises(CloseError):
            assert deed == "shutdown" or number in (ours.fileno(), theirs.fileno())
            try:
                for _ in range(2):
                    conn.send("secret")
                conn.recv(timeout=PATIENCE)
            finally:
                for end in (ours, theirs):
                    end.setblocking(False)
                    with pytest.raises(BlockingIOError):
                        end.recv(100)
        conn.abort()


@pytest.mark.parametrize("timeout", [0.0, 5.0])
def test_timeout_that_the_application_sets_on_the_socket_harms_nothing(
    link: Link, timeout: float
) -> None:
    conn, peer = link()
    conn.socket.settimeout(timeout)
    receiving = in_thread(conn.recv)
    until(lambda: conn._driver.turns.reader)
    time.sleep(0.01)
    peer.sends(HI)
    assert receiving.result(PATIENCE) == "hi"
    conn.send("hi")
    peer.reads(wire("1 000 0001  0 len", b"hi"))


# The system


def no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", raising(RuntimeError("can't start new thread")))


@pytest.mark.parametrize("what", ["thread", "socketpair", "selector"])
def test_start_that_fails_leaves_no_port_bound(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    address = "127.0.0.1", free_port()
    server = Server(list, *address)
    with monkeypatch.context() as patch:
        if what == "thread":
            no_thread(patch)
        else:
            where, name = {
                "socketpair": (socket, "socketpair"),
                "selector": (selectors, "DefaultSelector"),
            }[what]
            patch.setattr(where, name, raising(OSError(24, "too many open files")))
        with pytest.raises((RuntimeError, OSError)):
            server.start()
    with server:  # the port is free, and it starts
        assert server.address == address


def test_a_client_without_a_thread_is_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "koko.server")
    monkeypatch.setattr(serving, "RETRY", 0.01)
    with Server(list, "127.0.0.1") as server, monkeypatch.context() as patch:
        no_thread(patch)
        with socket.create_connection(server.address, PATIENCE) as client:
            host, port = client.getsockname()
            assert client.recv(1) == b""
            until(lambda: len(of_clients(caplog)) == 2)
    assert of_clients(caplog) == [
        f"koko.server INFO {host}:{port} -: the system has no thread for it",
        "koko.server ERROR cannot accept: can't start new thread; next try in 0.01 s",
    ]


def test_dial_without_a_thread_for_the_housekeeper_leaves_no_socket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(housekeeper, "_thread", None)  # as before the first connection
    monkeypatch.setattr(Dialer, "check", lambda *_: Opened(None, None))
    for fails in (True, False):
        ours, theirs = socket.socketpair()
        theirs.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        with theirs, monkeypatch.context() as patch:
            if fails:
                no_thread(patch)
                with pytest.raises(RuntimeError, match="can't start new thread"):
                    dial("ws://example.org/", sock=ours)
                assert ours.fileno() == -1
            else:  # what failed once is tried again
                dial("ws://example.org/", sock=ours).abort()


def test_socket_of_net_dial_that_is_refused_is_closed() -> None:
    class Wrapped(socket.socket):
        unwrap = None

    sock = Wrapped()
    with pytest.raises(TypeError, match="net_dial returned"):
        Dialer(net_dial=lambda *_: sock, proxy=None).dial("ws://example.org/")
    assert sock.fileno() == -1


def test_answer_that_is_no_http_leaves_no_socket() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(b"220 mail.example.org\r\n")
        with pytest.raises(HandshakeError):
            dial("ws://example.org/", sock=ours, proxy=None)
    assert ours.fileno() == -1


# Signals


def test_signals_are_given_back_as_they_were() -> None:
    before = signal.set_wakeup_fd(-1)
    reading, writing = socket.socketpair()
    with reading, writing:
        writing.setblocking(False)
        signal.set_wakeup_fd(writing.fileno())
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        try:
            with stop_signals() as signals:
                signal.raise_signal(signal.SIGTERM)
                assert signals.wait()
                signals.tell()
                assert not signals.wait()
            assert handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
            assert signal.set_wakeup_fd(before) == writing.fileno()
        finally:
            signal.set_wakeup_fd(before)


SERVE = """
import logging, sys, threading, time
from koko.sync import serve
logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
def stuck(conn):
    conn.recv()
    time.sleep(60)
serve(stuck, "127.0.0.1", close_timeout=30)
print("done", flush=True)
"""


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_means_now_and_the_log_says_whom_it_waits_for(second: signal.Signals) -> None:
    command = [sys.executable, "-c", SERVE]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            listens, port = process.stdout.readline().rsplit(":", 1)
            assert listens == "INFO listening on 127.0.0.1"
            conn = dial(f"ws://127.0.0.1:{int(port)}", proxy=None)
            conn.send("hang")
            time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            host, own_port = conn.local_address
            waits = process.stdout.readline()
            assert waits == (
                f"INFO closing: waiting up to 30 s for 1 connections: {host}:{own_port}\n"
            )
            process.send_signal(second)
            lines = process.stdout.read().splitlines()
            assert lines[0] == "WARNING closing now: stopped a second time"
            assert lines[1] == f"WARNING closing: 1 handlers did not end in time: {host}:{own_port}"
            assert re.fullmatch(r"INFO closed within \d.\d s; no longer listening on .*", lines[2])
            assert lines[3:] == ["done"]
            assert process.wait(PATIENCE) == 0
            conn.abort()
        finally:
            process.kill()  # the block waits for its end


# Children


FORK = """
import os, socket, sys, threading, time, warnings
from koko import CloseError
from koko.sync import Server, dial
warnings.simplefilter("ignore")  # Python warns of forks among threads, which is the point
def echo(conn):
    for message in conn: conn.send(message)
server = Server(echo, "127.0.0.1"); server.start()
url = f"ws://127.0.0.1:{server.address[1]}/"
conn = dial(url, proxy=None)
conn.send("before"); assert conn.recv(timeout=10) == "before"
go, gone = os.pipe()
ready, is_ready = os.pipe()
child = os.fork()
if not child:
    os.close(gone)
    try: conn.send("from the child")
    except CloseError as error: assert "belongs to the parent process" in str(error), error
    else: os._exit(1)
    conn.close(); server.close()
    os.write(is_ready, b"!")
    os.read(go, 1)  # lives on until the parent is done
    os._exit(0)
os.close(is_ready)
os.read(ready, 1)
conn.send("after"); assert conn.recv(timeout=10) == "after", "the child has harmed it"
conn.close(); assert conn.ending.code == 1000
address = server.address
server.close()
try: socket.create_connection(address, timeout=10)
except ConnectionRefusedError: pass
else: sys.exit("the child holds the port")
os.close(gone)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_child_that_lives_on_holds_and_harms_nothing_of_its_parent() -> None:
    command = [sys.executable, "-X", "faulthandler", "-c", FORK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=6 * PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
