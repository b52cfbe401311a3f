"""The examples for Flask and Django as their users run them: the page in a real browser."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from koko import ErrBadHandshake
from koko.sync import dial
from tests.adapters.conftest import GUNICORN, PATIENCE, ROOT, STARTUP, said
from tests.examples.browser import Browser

pytestmark = pytest.mark.integration("flask", "django", "gunicorn", "gevent")
LISTENING = re.compile(r"(?:Running on|server at|Listening at:) http://127\.0\.0\.1:(\d+)")
BY_ITSELF = [sys.executable]


def under(worker: str, app: str) -> list[str]:
    options = [option for option in GUNICORN if not option.startswith("tests.")]
    return [
        sys.executable, *options, "--worker-class", worker, "--chdir", str(ROOT / "examples"), app,
    ]  # fmt: skip


@contextmanager
def running(log: Path, command: list[str]) -> Iterator[str]:
    """Run an example and give its address."""
    with log.open("w") as told:
        process = subprocess.Popen(
            command,
            stdout=told,
            stderr=told,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PORT": "0"},
        )
    try:
        yield f"127.0.0.1:{said(process, log, LISTENING)}"
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STARTUP)
        finally:
            process.kill()
            process.wait()
    assert "Traceback" not in log.read_text()


FLASK = [
    [sys.executable, "examples/flask_chat.py"],
    under("gthread", "flask_chat:app"),
    under("gevent", "flask_chat:app"),
]


@pytest.mark.parametrize("command", FLASK, ids=["werkzeug", "gthread", "gevent"])
def test_what_is_said_in_one_window_is_heard_in_the_other(
    command: list[str], tmp_path: Path
) -> None:
    with running(tmp_path / "log", command) as site, Browser() as browser:
        windows = [browser.open(f"http://{site}/kitchen") for _ in range(2)]
        elsewhere = browser.open(f"http://{site}/cellar")
        for window in (*windows, elsewhere):
            window.wait_for("document.querySelector('output').value === 'open'")
        for number, window in enumerate(windows):  # it is in its room a moment after it is open
            window.type("input", f"number {number}")
            window.wait_for(
                f"document.querySelector('#said').innerText.includes('number {number}')"
            )
        windows[0].type("input", "<b>hello</b>")
        windows[1].type("input", "ciao")
        for window in windows:
            window.wait_for("document.querySelector('#said').innerText.includes('<b>hello</b>')")
            window.wait_for("document.querySelector('#said').innerText.includes('ciao')")
        assert elsewhere.run("document.querySelector('#said').innerText") == ""
        elsewhere.type("input", "x" * 5000)
        elsewhere.wait_for("document.querySelector('output').value.includes('1009')")


def test_flask_refuses_the_page_of_another_site(tmp_path: Path) -> None:
    with running(tmp_path / "log", FLASK[0]) as site:
        with pytest.raises(ErrBadHandshake) as refused:
            dial(
                f"ws://{site}/kitchen/chat",
                headers={"Origin": "https://evil.example"},
                proxy=None,
            )
        assert refused.value.status == 403
        assert b"origin 'https://evil.example' is not the host" in refused.value.response.body


@pytest.mark.parametrize(
    ("example", "said"),
    [
        ("flask_chat", "needs Flask: pip install flask"),
        ("django_echo", "needs Django: pip install"),
    ],
)
def test_without_its_framework_an_example_says_what_to_install(
    example: str, said: str, tmp_path: Path
) -> None:
    for framework in ("flask", "django"):
        (tmp_path / f"{framework}.py").write_text("raise ModuleNotFoundError")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, f"examples/{example}.py"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr == f"this example {said}{'' if 'flask' in said else ' django'}\n"


DJANGO = [
    [sys.executable, "examples/django_echo.py"],
    under("gthread", "django_echo:application"),
]


@pytest.mark.parametrize("command", DJANGO, ids=["runserver", "gthread"])
def test_django_answers_in_the_voice_of_its_route(command: list[str], tmp_path: Path) -> None:
    with running(tmp_path / "log", command) as site:
        with dial(f"ws://{site}/echo/loud", proxy=None) as conn:
            conn.send("hello")
            assert conn.recv(PATIENCE) == "HELLO"
        assert str(conn.ending) == "we closed with 1000 (normal); peer answered 1000"
        with pytest.raises(ErrBadHandshake, match="403"):
            dial(f"ws://{site}/echo/low", headers={"Origin": "http://x.example"}, proxy=None)
        with pytest.raises(ErrBadHandshake, match="404"):
            dial(f"ws://{site}/elsewhere", proxy=None)
