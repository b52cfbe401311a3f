"""What the README shows, run as it stands there, on a port of its own."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from compliance.ports import free_port

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PATIENCE = 60  # seconds


pytestmark = pytest.mark.once


@pytest.fixture
def port() -> int:
    return free_port()


def test_server_and_client_of_the_readme_talk_to_each_other(port: int) -> None:
    server, client = (block.replace("8765", str(port)) for block in blocks("python"))
    with running([sys.executable, "-c", server], port):
        said = run([sys.executable, "-c", client]).splitlines()
    assert said[0] == "hello"
    assert re.fullmatch(r"\d+\.\d ms there and back", said[1])


def test_commands_of_the_readme_say_what_it_says(port: int) -> None:
    in_one_terminal, in_another = (
        block.replace("8765", str(port)).removeprefix("$ ") for block in blocks("console")
    )
    serve, listening = in_one_terminal.split("\n", 1)
    dial, shown = in_another.split("\n", 1)
    answer = "".join(line for line in shown.splitlines(True) if not line.startswith("koko: "))
    with running([*koko(serve), "--port", str(port)], port) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == listening
        echo, command = dial.split(" | ")
        assert echo.split() == ["echo", "hello"]
        assert run(koko(command), "hello\n") == answer


def test_readme_names_targets_that_make_knows() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"\bmake (\w+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target} does not exist"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def koko(command: str) -> list[str]:
    name, *arguments = shlex.split(command)
    assert name == "koko"
    return [sys.executable, "-m", "koko", *arguments]


def run(command: list[str], stdin: str = "") -> str:
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def running(command: list[str], port: int) -> Iterator[subprocess.Popen[str]]:
    """Run a server and go on when it accepts; SIGTERM must end it cleanly."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            wait_until_it_accepts(server, port)
            yield server
        finally:
            server.terminate()
            try:
                _, complaints = server.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                server.kill()
                raise
        assert server.returncode == 0, complaints


def wait_until_it_accepts(server: subprocess.Popen[str], port: int) -> None:
    give_up_at = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("localhost", port), timeout=1).close()
        except OSError:
            assert server.poll() is None, f"the server ended with {server.returncode}"
            assert time.monotonic() < give_up_at, f"nobody listens on {port}"
        else:
            return
