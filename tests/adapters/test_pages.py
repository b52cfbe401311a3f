"""The pages for Flask and Django, done as they say: their files, under gunicorn, with clients."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from compliance.ports import free_port
from koko import CloseError
from koko.sync import Conn, dial
from tests.adapters.conftest import PATIENCE, said, stop
from tests.pages import written

pytestmark = [pytest.mark.once, pytest.mark.integration("flask", "django", "gunicorn")]
LISTENING = re.compile(r"(?:Running on|server at|Listening at:) http://127\.0\.0\.1:(\d+)")


@contextmanager
def running(folder: Path, command: list[str], says: re.Pattern[str] = LISTENING) -> Iterator[str]:
    log = folder / f"log of {command[0]}"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with log.open("w") as told:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=folder, env=environment, stdout=told, stderr=told
        )
    try:
        yield f"127.0.0.1:{said(process, log, says)}"
    finally:
        stop(process)
    assert "Traceback" not in log.read_text()


def gunicorn(app: str, *options: str) -> list[str]:
    return ["-m", "gunicorn", "--bind", "127.0.0.1:0", *options, app]


Open = Callable[[str], Conn]


@pytest.fixture
def opened() -> Iterator[Open]:
    with ExitStack() as conns:
        yield lambda url: conns.enter_context(dial(url, proxy=None))


def test_flask_a_first_view(tmp_path: Path, opened: Open) -> None:
    written("flask.md", tmp_path)
    flask = ["-m", "flask", "--app", "app", "run", "--port", "0"]
    for command in (flask, gunicorn("app:app")):
        with running(tmp_path, command) as site:
            conn = opened(f"ws://{site}/echo/ada")
            conn.send("hello")
            assert conn.recv(PATIENCE) == "ada: hello"
            conn.close()


def test_flask_rooms_under_gunicorn_and_a_goodbye(tmp_path: Path, opened: Open) -> None:
    written("flask.md", tmp_path)
    with running(tmp_path, gunicorn("chat:app")) as site:
        kitchen = [opened(f"ws://{site}/chat/kitchen") for _ in range(10)]
        cellar = opened(f"ws://{site}/chat/cellar")
        for conn in (*kitchen, cellar):
            assert conn.ping(timeout=PATIENCE)
        settle(kitchen)
        cellar.send("dark here")
        assert cellar.recv(PATIENCE) == "dark here"
    for conn in (*kitchen, cellar):
        with pytest.raises(CloseError) as closed:
            conn.recv(PATIENCE)
        assert closed.value.code == 1001


def settle(room: list[Conn]) -> None:
    """Talk until all have heard the same: each is in its room a moment after the handshake."""
    give_up_at = time.monotonic() + 4 * PATIENCE  # each who is not there yet costs a second
    heard = [False] * len(room)
    number = 0
    while not all(heard):
        assert time.monotonic() < give_up_at, heard
        number += 1
        room[0].send(f"{number}")
        for at, conn in enumerate(room):
            heard[at] = hears(conn, f"{number}")


def hears(conn: Conn, wanted: str) -> bool:
    try:
        while conn.recv(1.0) != wanted:
            pass
    except TimeoutError:
        return False
    return True


def test_flask_two_workers_and_a_hub(tmp_path: Path, opened: Open) -> None:
    written("flask.md", tmp_path)
    port = free_port()
    for name in ("hub.py", "several.py"):
        path = tmp_path / name
        path.write_text(path.read_text().replace("8765", f"{port}"))
    hub = [
        "-c",
        f"import logging; logging.basicConfig(level=20)\n{(tmp_path / 'hub.py').read_text()}",
    ]
    workers = gunicorn("several:app", "--workers", "2", "--threads", "4")
    with running(tmp_path, hub, re.compile("listening on ()")), running(tmp_path, workers) as site:
        settle([opened(f"ws://{site}/chat/kitchen") for _ in range(12)])


def test_django_rooms_and_the_database(tmp_path: Path, opened: Open) -> None:
    def admin(*command: str) -> None:
        subprocess.run([sys.executable, *command], cwd=tmp_path, check=True, capture_output=True)

    admin("-m", "django", "startproject", "mysite", ".")
    written("django.md", tmp_path)
    urls = tmp_path / "mysite" / "urls.py"
    urls.write_text(
        "from mysite.count import count\n"
        f"{urls.read_text()}\nurlpatterns += [path('count', count)]\n"
    )
    admin("manage.py", "migrate")
    runserver = ["manage.py", "runserver", "--noreload", "127.0.0.1:0"]
    for command in (gunicorn("mysite.wsgi"), runserver):
        with running(tmp_path, command) as site:
            settle([opened(f"ws://{site}/chat/kitchen") for _ in range(10)])
            conn = opened(f"ws://{site}/count")
            for name, count in (("ada", "1"), ("ada", "1")):
                conn.send(name)
                assert conn.recv(PATIENCE) == count
            conn.close()
