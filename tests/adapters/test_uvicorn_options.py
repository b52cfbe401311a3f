"""Each option of uvicorn's and of Koko's in it, each way to start it, each way it ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import trustme

from koko import CloseError
from koko.sync import Conn, dial
from tests.adapters.conftest import PATIENCE, ROOT, STARTUP, Site
from tests.adapters.test_servers import UPGRADE, read_until
from tests.adapters.test_uvicorn import hears, refused
from tests.adapters.uvicorn_server import APP, CLASS, serving, started, with_tls

pytestmark = pytest.mark.integration("uvicorn")

AIO = ["-k", "koko.adapters.gunicorn.Worker"]
HURRIED = "tests.adapters.asgi_site:Hurried"


def echoes(conn: Conn) -> bool:
    conn.send("hello")
    return conn.recv(PATIENCE) == "hello"


def first_end(site: Site) -> str:
    """Wait until the application was told of an end, and return it."""
    give_up_at = time.monotonic() + PATIENCE
    while not (told := site.state()["ends"]):
        assert time.monotonic() < give_up_at, "it was told of none"
    return str(told[0])


def test_ws_max_size(tmp_path: Path) -> None:
    with serving(tmp_path / "log", "--ws-max-size", "100") as site:
        with dial(site.url("/echo"), proxy=None) as conn:
            conn.send(bytes(100))
            assert conn.recv(PATIENCE) == bytes(100)
            conn.send(bytes(101))
            with pytest.raises(CloseError) as closed:
                conn.recv(PATIENCE)
        assert closed.value.code == 1009
        assert "1009 " in first_end(site)


def test_a_silent_client_is_pinged_and_given_up(tmp_path: Path) -> None:
    options = ["--ws-ping-interval", "0.1", "--ws-ping-timeout", "0.1"]
    with serving(tmp_path / "log", *options) as site, site.connect() as raw:
        raw.sendall(UPGRADE % (b"/echo", b""))
        heard = read_until(raw, b"\x03\xf3keepalive ping timeout")
        assert b"\x89\x04" in heard
        assert raw.recv(1) == b""
        end = first_end(site)
    assert end.startswith("1005 no answer to a ping within 0.1 s, last heard the opening handshake")


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_the_limits_of_requests_count_a_websocket_and_refuse_none(
    http: str, tmp_path: Path
) -> None:
    options = ["--limit-concurrency", "2", "--limit-max-requests", "1", "--timeout-keep-alive", "0"]
    with serving(tmp_path / "log", "--http", http, *options) as site, ExitStack() as opened:
        conns = [opened.enter_context(dial(site.url("/echo"), proxy=None)) for _ in range(4)]
        assert all(map(echoes, conns))
        with site.connect() as page:  # the one request: uvicorn stops behind it
            page.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert read_until(page, b"\r\n").startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize("none", ["0", "-1"])
def test_ws_max_size_can_be_turned_off(tmp_path: Path, none: str) -> None:
    with serving(tmp_path / "log", "--ws-max-size", none) as site:
        with dial(site.url("/echo"), proxy=None, read_limit=None) as conn:
            conn.send(bytes(17 << 20))
            assert conn.recv(PATIENCE) == bytes(17 << 20)


@pytest.mark.parametrize("off", ["0", "0.0", "-1", "nan", "inf"])
def test_pings_can_be_turned_off(tmp_path: Path, off: str) -> None:
    options = ["--ws-ping-interval", off, "--ws-ping-timeout", "0.1"]
    with serving(tmp_path / "log", *options) as site, site.connect() as raw:
        raw.sendall(UPGRADE % (b"/echo", b""))
        read_until(raw, b"\r\n\r\n")
        raw.settimeout(0.4)
        with pytest.raises(TimeoutError):
            raw.recv(1)


def test_compression_can_be_turned_off(tmp_path: Path) -> None:
    with serving(tmp_path / "log", "--ws-per-message-deflate", "false") as site:
        with dial(site.url("/echo"), proxy=None, compression=True) as conn:
            assert "Sec-WebSocket-Extensions" not in conn.response.headers


def test_window_bits_and_context_takeover_are_set_by_the_environment(tmp_path: Path) -> None:
    bits = {"KOKO_WINDOW_BITS": "10", "KOKO_CONTEXT_TAKEOVER": "1"}
    with serving(tmp_path / "log", **bits) as site:
        with dial(site.url("/echo"), proxy=None, compression=True) as conn:
            said = conn.response.headers["Sec-WebSocket-Extensions"]
            assert echoes(conn)
    assert "server_max_window_bits=10" in said
    assert "client_max_window_bits=10" in said


def test_a_variable_that_cannot_be_read_stops_uvicorn_with_a_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "uvicorn", APP, "--ws", CLASS],
        cwd=ROOT,
        env={"KOKO_CLOSE_TIMEOUT": "soon"},
        capture_output=True,
        text=True,
        timeout=STARTUP,
    )
    assert done.returncode == 1
    assert "KOKO_CLOSE_TIMEOUT='soon': a number of seconds, 0 or more" in done.stderr


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("KOKO_ORIGINS", "app.example", "'app.example' is not '*', 'null' or scheme://host[:port]"),
        ("KOKO_WINDOW_BITS", "99", "KOKO_WINDOW_BITS='99': a whole number, 8 to 15"),
        ("KOKO_COMPRESSION_LEVEL", "10", "KOKO_COMPRESSION_LEVEL='10': a whole number, 0 to 9"),
    ],
)
def test_a_value_that_no_handshake_could_use_is_an_error_of_its_variable(
    name: str, value: str, sentence: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import koko.uvicorn"],
        cwd=ROOT,
        env={name: value},
        capture_output=True,
        text=True,
        timeout=STARTUP,
    )
    assert name in done.stderr.splitlines()[-1]
    assert sentence in done.stderr


def test_a_variable_that_is_mistyped_or_of_another_server_is_a_warning(tmp_path: Path) -> None:
    mistaken = {"KOKO_ORIGIN": "https://app.example", "KOKO_PING_INTERVAL": "5", "KOKO_SHOP": "a"}
    with serving(tmp_path / "log", **mistaken):
        pass
    log = (tmp_path / "log").read_text()
    assert "WARNING:  KOKO_ORIGIN is not read here; did you mean KOKO_ORIGINS?" in log
    assert "KOKO_PING_INTERVAL is not read here; did you mean --ws-ping-interval?" in log
    assert "KOKO_SHOP" not in log


@pytest.mark.parametrize(
    "command",
    [
        ["uvicorn", APP, "--ws", CLASS, "--port", "0", "--workers", "2"],
        ["gunicorn", APP, "-k", "tests.adapters.asgi_site.Worker", "-b", "127.0.0.1:0"],
        ["gunicorn", "tests.adapters.aio_site:handler", *AIO, "-b", "127.0.0.1:0"],
    ],
    ids=["uvicorn", "uvicorn-worker", "koko's worker"],
)
@pytest.mark.integration("gunicorn", "uvicorn_worker")
def test_workers_are_not_started_for_ever_for_a_variable_that_cannot_be_read(
    command: list[str],
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**os.environ, "KOKO_ORIGINS": "soon"},
        capture_output=True,
        text=True,
        timeout=STARTUP,
    )
    assert "KOKO_ORIGINS='soon': origins: 'soon' is not " in done.stderr
    assert "Traceback" not in done.stderr


def test_an_origin_of_a_subclass_that_is_none_is_told_where_it_is_written() -> None:
    from koko.uvicorn import Protocol

    with pytest.raises(ValueError, match=r"'app.example' is not '\*', 'null' or scheme://host"):
        type("Sockets", (Protocol,), {"origins": ["app.example"]})


def test_the_log_is_in_uvicorns_form(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving(log, "--log-level", "trace") as site:
        with dial(site.url("/echo?x=1"), proxy=None) as conn:
            host, port = conn.local_address
        refused(site, "/refuse")
        with site.connect() as raw:
            raw.sendall((UPGRADE % (b"/old", b"")).replace(b"Version: 13", b"Version: 8"))
            assert b" 426 " in read_until(raw, b"\r\n")
    said = log.read_text()
    assert f'INFO:     {host}:{port} - "WebSocket /echo" [accepted]\n' in said  # a token was there
    assert "?x=1" not in said
    assert re.search(r'INFO:     127.0.0.1:\d+ - "WebSocket /refuse" 403\n', said)
    denied = "426: header 'Sec-WebSocket-Version' is '8', expected '13' (RFC 6455 §4.4)"
    assert f'"WebSocket /old" {denied}\n' in said
    assert f"TRACE:    {host}:{port} - WebSocket connection made\n" in said
    assert f"TRACE:    {host}:{port} - WebSocket connection lost\n" in said


def test_an_application_that_raises_a_cancellation_of_its_own_has_failed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving(log) as site:
        assert refused(site, "/cancelled").status == 500
    assert "ERROR:    Exception in ASGI application" in log.read_text()


def test_a_client_that_a_proxy_names_cannot_write_into_the_terminal(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving(log, "--http", "h11") as site, site.connect() as raw:
        raw.sendall(UPGRADE % (b"/echo", b"X-Forwarded-For: \x1b[31mred\r\n"))
        read_until(raw, b"\r\n\r\n")
    said = log.read_text()
    assert "\x1b" not in said
    assert '"WebSocket /echo" [accepted]' in said


def test_a_log_handler_that_raises_leaves_no_client_without_its_answer(tmp_path: Path) -> None:
    with serving(tmp_path / "log", ws=HURRIED, FAILING_LOG="1") as site:
        with dial(site.url("/echo"), proxy=None) as conn:
            assert echoes(conn)
        assert refused(site, "/echo", origin="https://elsewhere.example").status == 403
        assert refused(site, "/sleep").status == 503
    assert "the disk is full" in (tmp_path / "log").read_text()


def test_a_proxy_that_is_trusted_says_who_the_client_is(tmp_path: Path) -> None:
    said = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}
    log = tmp_path / "log"
    with serving(log, "--root-path", "/api", "--forwarded-allow-ips", "127.0.0.1") as site:
        with dial(site.url("/scope"), proxy=None, headers=said) as conn:
            scope = json.loads(str(conn.recv(PATIENCE)))
    assert scope["client"] == ["203.0.113.7", 0]
    assert scope["scheme"] == "wss"
    assert (scope["root_path"], scope["path"]) == ("/api", "/api/scope")
    assert '203.0.113.7:0 - "WebSocket /api/scope" [accepted]' in log.read_text()


def test_uds(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    running = re.compile("running on unix socket (.*?) ")
    command = ["-m", "uvicorn", APP, "--uds", path, "--ws", CLASS]
    with started(tmp_path / "log", *command, wait_for=running):
        with dial("ws://localhost/echo", unix=path, proxy=None) as conn:
            assert echoes(conn)


def test_fd(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.set_inheritable(True)
        code = (
            "import os, sys; "
            f"os.execv(sys.executable, [sys.executable, *{['-m', 'uvicorn', APP, '--ws', CLASS]}, "
            "'--fd', sys.argv[1]])"
        )
        log = tmp_path / "log"
        with log.open("w") as complaints:
            process = subprocess.Popen(
                [sys.executable, "-c", code, str(listener.fileno())],
                cwd=ROOT,
                pass_fds=[listener.fileno()],
                stdout=complaints,
                stderr=complaints,
            )
        try:
            give_up_at = time.monotonic() + STARTUP
            while "running on socket" not in log.read_text():
                assert time.monotonic() < give_up_at, log.read_text()
                time.sleep(0.01)
            with dial("ws://localhost/echo", unix=path, proxy=None) as conn:
                assert echoes(conn)
        finally:
            process.terminate()
            process.wait(STARTUP)


def listens(site: Site) -> None:
    """Wait until a process that uvicorn has started listens: it says that it runs before that."""
    give_up_at = time.monotonic() + STARTUP
    while True:
        try:
            return socket.create_connection((site.host, site.port), PATIENCE).close()
        except ConnectionRefusedError:
            assert time.monotonic() < give_up_at, site.log.read_text()
            time.sleep(0.01)


@pytest.mark.parametrize("options", [["--reload"], ["--workers", "2"]])
def test_processes_that_uvicorn_starts(tmp_path: Path, options: list[str]) -> None:
    log = tmp_path / "log"
    with serving(log, *options) as site:
        listens(site)
        with dial(site.url("/echo"), proxy=None) as conn:
            assert echoes(conn)
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "TLS"])
def test_tcp_keeps_no_small_write_back(
    secured: bool, authority: trustme.CA, tmp_path: Path
) -> None:
    log, tls = tmp_path / "log", None
    options = ["--workers", "2", "--loop", "asyncio"]  # it has no such sockets hasten
    if secured:
        more, tls = with_tls(authority, tmp_path)
        options += more
    with serving(log, *options, tls=tls) as site:
        listens(site)
        with dial(site.url("/hasty"), proxy=None, ssl=tls) as conn:
            assert conn.recv(PATIENCE) == "1"


def test_each_way_to_start(tmp_path: Path) -> None:
    run = (
        f"import uvicorn; from koko.uvicorn import Protocol as P; uvicorn.run('{APP}', port=0, ws="
    )
    ways = {
        "UVICORN_WS": (["-m", "uvicorn", APP, "--port", "0"], {"UVICORN_WS": CLASS}),
        "name": (["-c", f"{run}'{CLASS}')"], {}),
        "class": (["-c", f"{run}P)"], {}),
    }
    for way, (command, environment) in ways.items():
        with started(tmp_path / way, *command, **environment) as (_, port):
            with dial(f"ws://127.0.0.1:{port}/native", proxy=None) as conn:
                assert conn.response.headers["X-Native"] == "yes"


@pytest.mark.integration("gunicorn", "uvicorn_worker")
def test_gunicorn_with_uvicorns_worker(tmp_path: Path) -> None:
    listening = re.compile(r"Listening at: http://127\.0\.0\.1:(\d+)")
    worker = "tests.adapters.asgi_site.Worker"
    command = ["-m", "gunicorn", APP, "-b", "127.0.0.1:0", "-k", worker, "-w", "2"]
    command += ["--worker-tmp-dir", "/dev/shm"]
    with started(tmp_path / "log", *command, wait_for=listening) as (_, port):
        with dial(f"ws://127.0.0.1:{port}/native", proxy=None) as conn:
            assert conn.response.headers["X-Native"] == "yes"
            assert echoes(conn)


# What Koko adds


def test_an_application_that_does_not_accept_is_given_up(tmp_path: Path) -> None:
    with serving(tmp_path / "log", ws=HURRIED) as site:
        error = refused(site, "/sleep")
        hears(site, "1006")
    assert error.status == 503
    assert error.response.body == b"the application took too long to answer"
    assert "did not accept within 3 s" in (tmp_path / "log").read_text()


def test_an_application_that_accepts_after_the_loop_was_blocked_is_not(tmp_path: Path) -> None:
    with serving(tmp_path / "log", KOKO_HANDSHAKE_TIMEOUT="0.5") as site:
        with dial(site.url("/block"), proxy=None) as conn:
            assert echoes(conn)
    assert "did not accept" not in (tmp_path / "log").read_text()


def test_foreign_pages_can_be_refused(tmp_path: Path) -> None:
    with serving(tmp_path / "log", ws=HURRIED) as site:
        with dial(site.url("/echo"), proxy=None, headers={"Origin": "https://app.example"}) as conn:
            assert echoes(conn)
        error = refused(site, "/echo", headers={"Origin": "https://evil.example"})
    assert error.status == 403
    assert "WARNING:  127.0.0.1:" in (tmp_path / "log").read_text()
    assert '"WebSocket /echo" 403: origin' in (tmp_path / "log").read_text()


def test_a_close_that_is_not_answered_is_bounded(tmp_path: Path) -> None:
    with serving(tmp_path / "log", ws=HURRIED) as site, site.connect() as raw:
        began = time.monotonic()
        raw.sendall(UPGRADE % (b"/close", b""))
        read_until(raw, b"\x0f\xa0bye")
        assert raw.recv(1) == b""
        assert 0.2 < time.monotonic() - began < 9  # without a bound it would be 10


# The end of the server


def test_a_sigterm_closes_every_connection_with_1012(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = ["-m", "uvicorn", APP, "--port", "0", "--ws", CLASS]
    with (
        started(log, *command, KOKO_SHUTDOWN_TIMEOUT="0.5") as (process, port),
        ExitStack() as stack,
    ):
        site = Site("uvicorn", int(port), None, log)
        conns = [stack.enter_context(dial(site.url("/echo"), proxy=None)) for _ in range(20)]
        silent = stack.enter_context(site.connect())
        silent.sendall(UPGRADE % (b"/echo", b""))
        read_until(silent, b"\r\n\r\n")
        waiting = stack.enter_context(site.connect())
        waiting.sendall(UPGRADE % (b"/sleep", b""))
        assert all(map(echoes, conns))
        process.send_signal(signal.SIGTERM)
        for conn in conns:
            with pytest.raises(CloseError) as closed:
                conn.recv(PATIENCE)
            assert closed.value.code == 1012
        assert read_until(silent, b"\x88\x02\x03\xf4")
        assert b" 503 " in read_until(waiting, b"try again later")
        process.wait(5)
    said = log.read_text()
    assert "Finished server process" in said
    assert "Traceback" not in said


# Versions


@pytest.mark.integration("pip")
def test_the_oldest_version_that_is_supported(tmp_path: Path) -> None:
    from koko.adapters._uvicorn_seam import NEWEST, OLDEST

    where = ROOT / "build" / "uvicorn" / OLDEST
    if not where.exists():
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--target", str(where)]
        subprocess.run([*pip, f"uvicorn=={OLDEST}"], check=True)
    for http in ("h11", "httptools"):
        with serving(tmp_path / http, "--http", http, PYTHONPATH=str(where)) as site:
            with dial(site.url("/echo"), proxy=None) as conn:
                assert echoes(conn)
            hears(site, "1000")
            assert refused(site, "/deny").status == 401
    import uvicorn

    assert uvicorn.__version__ == NEWEST, "try it, and write it down"


def test_a_uvicorn_that_has_changed_is_told_with_its_version() -> None:
    from koko.uvicorn import Protocol

    async def made() -> None:
        config = SimpleNamespace(loaded=True, loaded_app=None)
        Protocol(config, SimpleNamespace(tasks=set()), {})

    with pytest.raises(RuntimeError, match=r"uvicorn 0\.\d+\.\d+ is not as .*'connections'"):
        asyncio.run(made())


def test_the_page_names_the_versions() -> None:
    from koko.adapters._uvicorn_seam import NEWEST, OLDEST

    page = (ROOT / "docs" / "uvicorn.md").read_text()
    assert f"{OLDEST} to {NEWEST}" in page


def test_every_variable_is_on_the_page() -> None:
    source = ROOT / "src" / "koko" / "adapters"
    page = (ROOT / "docs" / "uvicorn.md").read_text()
    names = {
        name
        for file in ("uvicorn.py", "_environment.py")
        for name in re.findall(r'"(KOKO_\w+)"', (source / file).read_text())
    }
    assert len(names) == 9
    assert all(f"`{name}`" in page for name in names)
