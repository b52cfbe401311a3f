"""The examples, each run as it stands there; in a browser: ``test_examples_in_a_browser``."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from select import select
from time import strptime
from urllib.parse import quote
from urllib.request import ProxyHandler, build_opener

import pytest

from koko import CloseError, ErrBadHandshake, Kind
from koko.sync import Conn, dial
from tests.examples.example import EXAMPLES, PATIENCE, example, serving


def connect(address: str, path: str = "/", **options: object) -> Conn:
    return dial(address.replace("http", "ws") + path, proxy=None, **options)


def ends(conn: Conn) -> CloseError:
    """Read to the end of a connection and return how it ended."""
    with pytest.raises(CloseError) as ended:
        while True:
            conn.recv(timeout=PATIENCE)
    return ended.value


@pytest.mark.once
def test_readme_has_a_line_for_each_example() -> None:
    there = {path.name for path in EXAMPLES.glob("*.py")}
    readme = (EXAMPLES / "README.md").read_text("utf-8")
    assert there <= set(re.findall(r"\]\(([\w.]+)\)", readme))


# Echo


@pytest.mark.once
def test_echo_client_hears_the_time_it_says_and_closes_with_1000_on_ctrl_c() -> None:
    with serving("echo_server.py") as address, example("echo_client.py", address) as client:
        assert client.stdout is not None
        for _ in range(2):
            strptime(client.stdout.readline().strip(), "%H:%M:%S")
        client.send_signal(signal.SIGINT)
        said, _ = client.communicate(timeout=PATIENCE)
        assert said.splitlines()[-1] == "we closed with 1000 (normal); peer answered 1000"


@pytest.mark.once
def test_echo_client_ends_with_its_server_and_says_so() -> None:
    with ExitStack() as outer:
        with serving("echo_server.py") as address:
            client = outer.enter_context(example("echo_client.py", address))
            assert client.stdout is not None
            client.stdout.readline()
        said, _ = client.communicate(timeout=PATIENCE)
        assert said.splitlines()[-1] == "peer closed with 1001 (going away); we answered 1001"


# Chat


@pytest.fixture(scope="module")
def chat() -> Iterator[str]:
    with serving("chat.py") as address:
        yield address


@pytest.mark.once
def test_chat_tells_everybody_what_one_says(chat: str) -> None:
    with connect(chat) as ada:
        ada.send("alone")
        assert ada.recv(timeout=PATIENCE) == "alone"
        with connect(chat) as grace:
            grace.send("to both")
            assert grace.recv(timeout=PATIENCE) == "to both"
            assert ada.recv(timeout=PATIENCE) == "to both"
        ada.send("alone again")
        assert ada.recv(timeout=PATIENCE) == "alone again"


@pytest.mark.once
def test_chat_drops_who_does_not_read_and_holds_up_nobody(chat: str) -> None:
    with connect(chat, ping_interval=None) as slow, connect(chat) as quick:
        slow.send("here")
        assert quick.recv(timeout=PATIENCE) == "here"
        text = "x" * 4000
        for _ in range(10_000):  # more than all the buffers between the hub and the slow one
            quick.send(text)
            assert quick.recv(timeout=PATIENCE) == text
            if slow.ending is not None:
                break
        assert ends(slow).code == 1006


@pytest.mark.once
def test_chat_is_text(chat: str) -> None:
    with connect(chat) as conn:
        conn.send(b"\xff")
        assert ends(conn).code == 1003


# Command


@pytest.mark.once
def test_command_prints_what_its_process_does_with_each_line() -> None:
    with serving("command.py", "sed", "-u", "s/a/b/") as address, connect(address) as conn:
        for line, printed in (("banana", "bbnana"), ("", ""), ("ähre", "ähre")):
            conn.send(line)
            assert conn.recv(timeout=PATIENCE) == printed


@pytest.mark.once
def test_command_that_ends_closes_with_1000_behind_its_last_words() -> None:
    with serving("command.py", "sh") as address, connect(address) as conn:
        conn.send("echo out; echo err >&2; printf 'no newline, no \\377 UTF-8'; exit 3")
        said = [conn.recv(timeout=PATIENCE) for _ in range(3)]
        assert said == ["out", "err", "no newline, no \N{REPLACEMENT CHARACTER} UTF-8"]
        ended = ends(conn)
        assert (ended.code, ended.reason) == (1000, "the command has ended")


STUBBORN = """
trap '' INT
sleep 1000 &
echo $$ $!
while true; do sleep 1000; done
"""


@pytest.mark.once
@pytest.mark.parametrize(
    "script",
    [
        pytest.param("echo $$; cat", id="ends with its input"),
        pytest.param("echo $$; exec sleep 1000", id="ends when interrupted"),
        pytest.param("sleep 1000 & echo $! $$; exec cat", id="leaves a child behind"),
        pytest.param(STUBBORN, id="is killed, and its children too"),
    ],
)
def test_process_ends_with_its_connection_however_stubborn(script: str) -> None:
    with serving("command.py", "sh", "-c", script) as address, connect(address) as conn:
        said = conn.recv(timeout=PATIENCE)
        assert isinstance(said, str)
        conn.close()
        for process in map(int, said.split()):
            ended(process)


def ended(process: int) -> None:
    """Wait until a process that is not our child has ended."""
    try:
        handle = os.pidfd_open(process)
    except ProcessLookupError:
        return
    with open(handle, "rb", buffering=0) as held:
        readable, _, _ = select([held], [], [], PATIENCE)
    assert readable, f"process {process} did not end"


@pytest.mark.once
def test_process_ends_with_the_server() -> None:
    with serving("command.py", "sh", "-c", "echo $$; exec sleep 1000") as address:
        conn = connect(address)
        process = int(conn.recv(timeout=PATIENCE))
    assert ends(conn).code == 1001
    ended(process)


@pytest.mark.once
def test_command_that_reads_nothing_is_not_waited_for() -> None:
    with serving("command.py", "sleep", "1000") as address, connect(address) as conn:
        with pytest.raises(CloseError):
            while True:
                conn.send("x" * 500, timeout=PATIENCE)
        assert ends(conn).code == 1013


@pytest.mark.once
@pytest.mark.parametrize(
    ("origin", "host"),
    [
        pytest.param("http://elsewhere.example", None, id="another site"),
        pytest.param("http://rebound.example", "rebound.example", id="DNS rebinding"),
    ],
)
def test_pages_of_others_may_run_nothing(origin: str, host: str | None) -> None:
    headers = {"Origin": origin} | ({"Host": host} if host else {})
    with serving("command.py", "sh", refuses=True) as address:
        assert address.startswith("http://127.0.0.1:")
        with pytest.raises(ErrBadHandshake) as refusal:
            connect(address, headers=headers)
        assert refusal.value.status == 403


# Filewatch


@pytest.mark.once
def test_filewatch_pushes_only_what_is_not_shown_yet(tmp_path: Path) -> None:
    file = tmp_path / "watched"
    file.write_text("one")
    with serving("filewatch.py", str(file)) as address:
        with connect(address) as conn:
            first = conn.read_json(timeout=PATIENCE)
        assert first["contents"] == "one"
        with connect(address, f"/?shown={first['version']}") as conn:
            file.write_text("two")
            pushes(conn, "two")
            file.unlink()
            pushes(conn, f"[Errno 2] No such file or directory: '{file}'")
            file.write_bytes(b"three \xff")
            pushes(conn, "three \N{REPLACEMENT CHARACTER}")


def pushes(conn: Conn, contents: str) -> None:
    """Wait for the file's contents; a write is two changes, and the first leaves it empty."""
    pushed = conn.read_json(timeout=PATIENCE)["contents"]
    if pushed == "":
        pushed = conn.read_json(timeout=PATIENCE)["contents"]
    assert pushed == contents


@pytest.mark.once
def test_change_between_the_page_and_its_socket_is_pushed(tmp_path: Path) -> None:
    file = tmp_path / "watched"
    file.write_text("before")
    with serving("filewatch.py", str(file)) as address:
        with build_opener(ProxyHandler({})).open(f"{address}/") as page:
            shown = re.search(r'data-version="([^"]+)"', page.read().decode())
        assert shown
        file.write_text("between")
        with connect(address, f"/?shown={quote(shown[1])}") as conn:
            pushes(conn, "between")


# Autobahn


@pytest.fixture(scope="module")
def autobahn() -> Iterator[str]:
    with serving("autobahn.py") as address:
        yield address


@pytest.mark.parametrize("path", ["/m", "/p", "/r", "/f", "/c"])
@pytest.mark.parametrize("compression", [False, True])
def test_autobahn_echoes_every_message_at_every_path(
    autobahn: str, path: str, compression: bool
) -> None:
    messages = ["", "hello", "κόσμε", "x" * 200_000, b"", b"\x00\xff", bytes(range(256)) * 1000]
    with connect(autobahn, path, compression=compression) as conn:
        assert bool(conn.response.headers.get("Sec-WebSocket-Extensions")) is compression
        for message in messages:
            conn.send(message)
            assert conn.read_message(timeout=PATIENCE) == (
                Kind.TEXT if isinstance(message, str) else Kind.BINARY,
                message,
            )


def test_autobahn_names_its_paths_to_who_asks_for_another(autobahn: str) -> None:
    with connect(autobahn, "/elsewhere") as conn:
        assert "/m" in ends(conn).reason


@pytest.mark.once
@pytest.mark.parametrize("name", ["command.py", "filewatch.py"])
def test_without_its_argument_an_example_says_how_it_is_run(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert f"python examples/{name}" in done.stderr
