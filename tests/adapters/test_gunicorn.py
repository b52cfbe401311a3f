"""gunicorn told to stop, to reload, to be quick: what clients hear, and when it is over."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

import pytest
import trustme

from koko import CloseError, ErrBadHandshake
from koko.sync import Conn, dial
from tests.adapters.conftest import PATIENCE, ROOT, STARTUP, said, stop

pytestmark = [pytest.mark.once, pytest.mark.integration("flask", "gunicorn", "gevent")]
LISTENING = re.compile(r"Listening at: https?://127\.0\.0\.1:(\d+)")
SOON = 14  # seconds: a worker that ends by itself takes one or two; 15 is what is not soon
UPGRADE = (
    b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
VIEWS = ["tests.adapters.flask_site:app", "--config", "tests/adapters/gunicorn_conf.py"]
AIO = ["tests.adapters.aio_site:handler", "--worker-class", "koko.adapters.gunicorn.Worker"]


@dataclass
class Master:
    """A gunicorn: its process, and the port of its first address."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def dial(self, path: str) -> Conn:
        return dial(f"ws://127.0.0.1:{self.port}{path}", proxy=None)

    def connect(self, path: bytes) -> socket.socket:
        """Return a client that never answers."""
        raw = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        raw.sendall(UPGRADE % path)
        assert raw.recv(1000).startswith(b"HTTP/1.1 101 ")
        return raw

    def says(self, wanted: str) -> str:
        return said(self.process, self.log, re.compile(f"({wanted})"))

    def ends(self) -> float:
        """Wait for its end; return how long it took."""
        began = time.monotonic()
        assert self.process.wait(STARTUP) == 0
        return time.monotonic() - began


@contextmanager
def gunicorn(folder: Path, *options: str, graceful: int = 20) -> Iterator[Master]:
    log = folder / "log"
    command = [
        sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0", *options,
        "--graceful-timeout", str(graceful), "--worker-tmp-dir", "/dev/shm",
    ]  # fmt: skip
    with log.open("w") as told:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"}, stdout=told, stderr=told
        )
    try:
        yield Master(process, int(said(process, log, LISTENING)), log)
    finally:
        stop(process)
    assert "Traceback" not in log.read_text() or "hang" in options[0]
    assert "Warning" not in log.read_text()


def told(conn: Conn) -> int:
    with pytest.raises(CloseError) as closed:
        conn.recv(PATIENCE)
    assert closed.value.received is not None
    return closed.value.code


# Views on threads


@pytest.mark.parametrize(
    ("worker", "paths"),
    [
        ("gthread", ["/held", "/held", "/free", "/free", "/free", "/free"]),
        ("sync", ["/free", "/free", "/held"]),
        ("gevent", ["/held", "/held", "/free", "/free"]),
    ],
)
def test_a_worker_that_is_told_to_stop_says_goodbye_and_lets_handlers_end(
    worker: str, paths: list[str], tmp_path: Path
) -> None:
    options = ["--worker-class", worker, *(["--threads", "4"] if worker == "gthread" else [])]
    with gunicorn(tmp_path, *VIEWS, *options) as master, ExitStack() as conns:
        talks = [conns.enter_context(master.dial(path)) for path in paths]
        assert len({conn.recv(PATIENCE) for conn in talks}) == 1
        master.process.terminate()
        assert [told(conn) for conn in talks] == [1001] * len(paths)
        assert master.ends() < SOON
    log = master.log.read_text()
    assert log.count("handler ended: we closed with 1001") == paths.count("/free")


@pytest.mark.parametrize("worker", ["gthread", "gevent"])
def test_a_client_that_never_answers_holds_the_worker_no_longer_than_graceful_timeout(
    worker: str, tmp_path: Path
) -> None:
    with gunicorn(tmp_path, *VIEWS, "--worker-class", worker, graceful=2) as master:
        with master.connect(b"/free") as free, master.connect(b"/held") as held:
            began = time.monotonic()
            master.process.terminate()
            for raw in (free, held):
                assert read_until(raw, b"\x88\x02\x03\xe9")
            master.ends()
            assert 1 < time.monotonic() - began < SOON
    assert "SIGKILL" not in master.log.read_text()


@pytest.mark.parametrize("worker", ["gthread", "gevent"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_a_worker_that_is_to_be_quick_says_goodbye_as_well(
    worker: str, number: signal.Signals, tmp_path: Path
) -> None:
    with gunicorn(tmp_path, *VIEWS, "--worker-class", worker) as master:
        with master.dial("/free") as conn, master.connect(b"/free"):
            conn.recv(PATIENCE)
            master.process.send_signal(number)
            assert told(conn) == 1001
            assert master.ends() < SOON


@pytest.mark.parametrize("options", [VIEWS, AIO], ids=["views", "aio"])
def test_a_reload_says_goodbye_and_serves_those_who_come_back(
    options: list[str], tmp_path: Path
) -> None:
    with gunicorn(tmp_path, *options) as master, ExitStack() as conns:
        talks = [conns.enter_context(master.dial("/free")) for _ in range(3)]
        (before,) = {conn.recv(PATIENCE) for conn in talks}
        master.process.send_signal(signal.SIGHUP)
        assert [told(conn) for conn in talks] == [1001] * 3
        master.says(rf"Worker exiting \(pid: {before}\)")
        with master.dial("/free") as again:
            assert again.recv(PATIENCE) != before
    assert "SIGKILL" not in master.log.read_text()


@pytest.mark.parametrize("options", [VIEWS, AIO], ids=["views", "aio"])
def test_a_worker_that_has_had_its_max_requests_says_goodbye(
    options: list[str], tmp_path: Path
) -> None:
    with gunicorn(tmp_path, *options, "--max-requests", "3") as master, ExitStack() as conns:
        talks = [conns.enter_context(master.dial("/free")) for _ in range(3)]
        (before,) = {conn.recv(PATIENCE) for conn in talks}
        assert [told(conn) for conn in talks] == [1001] * 3
        master.says(rf"Worker exiting \(pid: {before}\)")
        with master.dial("/free") as again:
            assert again.recv(PATIENCE) != before


def test_without_the_hook_nobody_is_told(tmp_path: Path) -> None:
    with gunicorn(tmp_path, VIEWS[0], "--threads", "2") as master, master.dial("/free") as conn:
        conn.recv(PATIENCE)
        master.process.terminate()
        with pytest.raises(CloseError) as closed:
            conn.recv(PATIENCE)
        assert closed.value.received is None


def read_until(raw: socket.socket, end: bytes) -> bytes:
    heard = b""
    while end not in heard:
        piece = raw.recv(1000)
        assert piece, f"the stream ended after {heard!r}"
        heard += piece
    return heard


# Handlers of koko.aio


def test_two_workers_share_their_addresses_and_each_client_is_a_line_of_the_access_log(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "socket")
    shared = ["--workers", "2", "--bind", f"unix:{path}", "--access-logfile", str(tmp_path / "a")]
    with gunicorn(tmp_path, *AIO, *shared) as master, ExitStack() as conns:
        master.says(r"listening on 127(?:.*\n)+.*listening on 127")
        talks, workers, give_up_at = [], set(), time.monotonic() + PATIENCE
        while len(talks) < 40 or len(workers) < 2:  # a busy machine may prefer one for long
            assert time.monotonic() < give_up_at, f"{len(talks)} clients have one worker"
            for conn in (master.dial("/chat?token=secret"), dial("ws://localhost/", unix=path)):
                talks.append(conns.enter_context(conn))
                workers.add(conn.recv(PATIENCE))
        for conn in talks:
            conn.send("hello")
            assert conn.recv(PATIENCE) == "hello"
        master.process.terminate()
        assert {told(conn) for conn in talks} == {1001}
        assert master.ends() < SOON
    lines = (tmp_path / "a").read_text().splitlines()
    assert len(lines) == len(talks)
    by_tcp = re.compile(r"\[\d\d/\w{3}/\d{4}:.*\] 127\.0\.0\.1:\d+ /chat: we closed with 1001")
    assert sum(bool(by_tcp.match(line)) for line in lines) == len(lines) / 2
    assert not os.path.exists(path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_an_aio_worker_that_is_to_be_quick_says_goodbye_as_well(
    number: signal.Signals, tmp_path: Path
) -> None:
    with gunicorn(tmp_path, *AIO) as master:
        with master.dial("/") as conn, master.connect(b"/"):
            conn.recv(PATIENCE)
            master.process.send_signal(number)
            assert told(conn) == 1001
            assert master.ends() < SOON


def test_an_aio_worker_that_waits_for_its_clients_can_be_hurried(tmp_path: Path) -> None:
    with gunicorn(tmp_path, *AIO) as master, master.connect(b"/"):
        master.process.terminate()
        master.says("closing: waiting up to 15 s")
        master.process.send_signal(signal.SIGINT)
        assert master.ends() < SOON
    assert "closing now: stopped a second time" in master.log.read_text()


def test_an_aio_worker_that_lives_is_not_taken_for_dead_and_one_that_hangs_is(
    tmp_path: Path,
) -> None:
    hanging = ["tests.adapters.aio_site:hang", *AIO[1:], "--timeout", "4"]
    with gunicorn(tmp_path, *hanging) as master:
        with master.dial("/") as conn:
            first = conn.recv(PATIENCE)
            time.sleep(6)
            assert "WORKER TIMEOUT" not in master.log.read_text()
            conn.send("hang")
            master.says("WORKER TIMEOUT")
            with pytest.raises(CloseError):
                conn.recv(PATIENCE)
        master.says(rf"Booting worker with pid: (?!{first}\b)")
        with master.dial("/") as again:
            assert again.recv(PATIENCE) != first


def test_tls_is_gunicorns_and_a_subclass_of_three_lines_has_options_and_pages(
    tmp_path: Path, authority: trustme.CA
) -> None:
    certificate, context = tmp_path / "pem", ssl.create_default_context()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    authority.configure_trust(context)
    options = ["--certfile", str(certificate), "--keyfile", str(certificate)]
    pages = [AIO[0], "--worker-class", "tests.adapters.aio_site.WithPages"]
    with gunicorn(tmp_path, *pages, *options) as master:
        url = f"127.0.0.1:{master.port}/"
        opener = build_opener(ProxyHandler({}), HTTPSHandler(context=context))
        with opener.open(f"https://{url}", timeout=PATIENCE) as page:
            told = page.read().decode()
        with dial(f"wss://{url}", ssl=context, proxy=None, compression=True) as conn:
            assert conn.recv(PATIENCE) == told
            assert "permessage-deflate" in conn.response.headers["Sec-WebSocket-Extensions"]


def test_a_proxy_is_believed_and_options_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KOKO_ORIGINS", "https://app.example https://b.example")
    monkeypatch.setenv("KOKO_COMPRESSION", "1")
    proxied = {"X-Forwarded-For": "203.0.113.7", "Origin": "https://app.example"}
    access = tmp_path / "access"
    with gunicorn(tmp_path, *AIO, "--access-logfile", str(access)) as master:
        url = f"ws://127.0.0.1:{master.port}/chat"
        with dial(url, headers=proxied, proxy=None, compression=True) as conn:
            assert "permessage-deflate" in conn.response.headers["Sec-WebSocket-Extensions"]
        with pytest.raises(ErrBadHandshake, match="'https://c.example' is not in origins="):
            dial(url, headers={"Origin": "https://c.example"}, proxy=None)
    assert "203.0.113.7" in access.read_text()


def test_a_proxy_header_is_required_where_gunicorn_is_told_so(tmp_path: Path) -> None:
    with gunicorn(tmp_path, *AIO, "--proxy-protocol") as master:
        with socket.create_connection(("127.0.0.1", master.port), PATIENCE) as raw:
            raw.sendall(b"PROXY TCP4 203.0.113.7 127.0.0.1 5000 80\r\n" + UPGRADE % b"/")
            assert raw.recv(1000).startswith(b"HTTP/1.1 101 ")
        with socket.create_connection(("127.0.0.1", master.port), PATIENCE) as raw:
            raw.sendall(UPGRADE % b"/")
            with suppress(ConnectionResetError):
                assert raw.recv(1000) == b""


def test_an_application_of_another_kind_is_named_and_not_tried_again(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gunicorn", VIEWS[0], *AIO[1:], "--bind", "127.0.0.1:0"]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=STARTUP, check=False
    )
    assert ended.returncode == 4
    assert "as in async def handler(conn), but 'tests.adapters.flask_site:app' is <Flask" in (
        ended.stderr
    )
    assert "Traceback" not in ended.stderr


A_HANDLER = "async def app(conn):\n    await conn.send('{}')\n    await conn.wait_closed()\n"
A_VIEW = """
from koko.adapters.wsgi import websocket
from koko.sync import Upgrader

@websocket(Upgrader(), thread=True)
def app(conn, environ):
    conn.send("{}")
    conn.wait_closed()
"""


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (A_HANDLER, AIO[1:]),
        (A_HANDLER, [*AIO[1:], "--asgi-loop", "asyncio"]),
        (A_VIEW, ["--threads", "2", "--config", f"{ROOT}/{VIEWS[-1]}"]),
    ],
    ids=["aio", "aio without uvloop", "views"],
)
def test_a_changed_file_starts_the_worker_anew(
    text: str, options: list[str], tmp_path: Path
) -> None:
    module = tmp_path / "changing.py"
    module.write_text(text.format("old"))
    command = ["changing:app", *options, "--chdir", str(tmp_path), "--reload"]
    with gunicorn(tmp_path, *command, "--reload-engine", "poll") as master:
        with master.dial("/") as conn:
            assert conn.recv(PATIENCE) == "old"
            with pytest.raises(CloseError) as closed:
                while True:  # the reloader may not have seen the file as it was before
                    module.write_text(text.format("new and longer"))
                    with suppress(TimeoutError):
                        conn.recv(1.5)
            assert closed.value.code == 1001
        master.says("Worker exiting")
        with master.dial("/") as again:
            assert again.recv(PATIENCE) == "new and longer"
