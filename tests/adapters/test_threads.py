"""Conversations with a thread of their own: the server's few threads go on with its pages."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import pytest

from koko import CloseError, ErrBadHandshake
from koko.sync import dial
from tests.adapters.conftest import GUNICORN, PATIENCE, ROOT, said, stop

pytestmark = [pytest.mark.once, pytest.mark.integration("flask", "django", "gunicorn", "gevent")]
LISTENING = re.compile(r"(?:Running on|server at|Listening at:) http://127\.0\.0\.1:(\d+)")
FLASK, DJANGO = "tests.adapters.flask_site:app", "tests.adapters.django_site:application"


def gunicorn(worker: str, app: str, *options: str) -> list[str]:
    given = [option for option in GUNICORN if not option.startswith("tests.")]
    given[given.index("--threads") + 1] = "2"
    return [*given, "--worker-class", worker, *options, app]


@contextmanager
def running(log: Path, command: list[str]) -> Iterator[str]:
    """Run a site and give its address."""
    environment = {"PYTHONUNBUFFERED": "1", "SITE_DATABASE": str(log.with_name("database"))}
    with log.open("w") as told:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT, env={**os.environ, **environment}, stdout=told, stderr=told,
        )  # fmt: skip
    try:
        yield f"127.0.0.1:{said(process, log, LISTENING)}"
    finally:
        stop(process)


def get(site: str, path: str = "/") -> str:
    with build_opener(ProxyHandler({})).open(f"http://{site}{path}", timeout=PATIENCE) as answer:
        return str(answer.read().decode())


FLASKS = {
    "gthread": gunicorn("gthread", FLASK),
    "sync": gunicorn("sync", FLASK, "--threads", "1"),
    "gevent": gunicorn("gevent", FLASK),
    "werkzeug": [
        "-m", "flask", "--app", "tests.adapters.flask_site:app", "run", "--port", "0",
        "--without-threads",
    ],
}  # fmt: skip


@pytest.mark.parametrize("server", FLASKS)
def test_ten_conversations_and_pages_need_no_more_than_the_threads_of_the_server(
    server: str, tmp_path: Path
) -> None:
    with running(tmp_path / "log", FLASKS[server]) as site, ExitStack() as conns:
        talks = [
            conns.enter_context(dial(f"ws://{site}/talk/{number}", proxy=None))
            for number in range(10)
        ]
        for _ in range(2):
            for number, conn in enumerate(talks):
                conn.send("hello")
                expected = f"None in {number} at /talk/{number}, None: hello"
                assert conn.recv(PATIENCE) == expected
            assert get(site)
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_the_session_comes_along_and_the_request_is_torn_down_after_the_conversation(
    tmp_path: Path,
) -> None:
    with running(tmp_path / "log", FLASKS["gthread"]) as site:
        with build_opener(ProxyHandler({})).open(f"http://{site}/") as answer:
            cookie = answer.headers["Set-Cookie"].partition(";")[0]
        with dial(f"ws://{site}/private", headers={"Cookie": cookie}, proxy=None) as conn:
            conn.send("hello")
            assert conn.recv(PATIENCE) == "ada in private at /private, None: hello"
            assert "koko-" not in get(site, "/torn")
        give_up_at = time.monotonic() + PATIENCE
        while "koko-127.0.0.1:" not in get(site, "/torn"):
            assert time.monotonic() < give_up_at


def test_a_handler_that_raises_in_its_thread_is_logged_and_closes_with_1011(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running(log, FLASKS["gthread"]) as site:
        with dial(f"ws://{site}/fails", proxy=None) as conn:
            assert str(conn.recv(PATIENCE)).startswith("koko-127.0.0.1:")
            with pytest.raises(CloseError) as closed:
                conn.recv(PATIENCE)
        assert closed.value.code == 1011
        assert get(site)
    assert "at /fails failed\nTraceback" in log.read_text()
    assert "LookupError: on purpose" in log.read_text()


def test_more_conversations_than_there_may_be_are_answered_with_503(tmp_path: Path) -> None:
    with running(tmp_path / "log", FLASKS["gthread"]) as site, ExitStack() as conns:
        first, _ = (conns.enter_context(dial(f"ws://{site}/two", proxy=None)) for _ in range(2))
        with pytest.raises(ErrBadHandshake) as refused:
            dial(f"ws://{site}/two", proxy=None)
        assert refused.value.status == 503
        assert refused.value.response.headers["Retry-After"]
        assert b"max_connections=2" in refused.value.response.body
        first.send("done")
        assert first.recv(PATIENCE) == "done"
        with pytest.raises(CloseError):
            first.recv(PATIENCE)
        give_up_at = time.monotonic() + PATIENCE
        while True:
            try:
                conns.enter_context(dial(f"ws://{site}/two", proxy=None))
                break
            except ErrBadHandshake:
                assert time.monotonic() < give_up_at


DJANGOS = {
    "gthread": gunicorn("gthread", DJANGO),
    "runserver": ["-m", "tests.adapters.django_site"],
}


@pytest.mark.parametrize("server", DJANGOS)
def test_the_database_connections_of_a_conversation_are_closed_at_its_end(
    server: str, tmp_path: Path
) -> None:
    with running(tmp_path / "log", DJANGOS[server]) as site:
        with ExitStack() as conns:
            talks = [
                conns.enter_context(dial(f"ws://{site}/query/{number}", proxy=None))
                for number in range(10)
            ]
            for number, conn in enumerate(talks):
                conn.send("and one more?")
                assert conn.recv(PATIENCE) == f"{number + 1} koko-"
            assert get(site) == "10"
        give_up_at = time.monotonic() + PATIENCE
        while get(site) != "0":
            assert time.monotonic() < give_up_at
    assert "Traceback" not in (tmp_path / "log").read_text()
