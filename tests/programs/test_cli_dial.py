"""``koko dial``: what scripts rely on, and what a person at a terminal sees."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from select import select
from typing import Self

import pytest

from koko.sync import Conn
from tests.programs.command import KOKO, PATIENCE, answering, complaint, koko, url
from tests.programs.served import Served, served

FACES = pytest.mark.parametrize("face", ["aio", "sync"])


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served() as server:
        yield server


# From a script


@FACES
def test_lines_go_out_as_text_and_answers_come_back_before_the_close(face: str) -> None:
    with served("--face", face) as server:
        lines = "".join(f"line {number}\n" for number in range(1000)) + "\nthe last without an end"
        done = koko("dial", url(server), stdin=lines)
    assert (done.returncode, done.stdout.decode()) == (0, lines + "\n")
    assert "1000 (normal)" in done.stderr.decode()


@pytest.mark.once
def test_headers_subprotocols_and_compression_are_sent() -> None:
    def tell(conn: Conn) -> None:
        for name in ("X-One", "X-Two", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions"):
            conn.send(conn.request.headers[name])

    with answering(tell) as address:
        options = "--header,X-One: 1,--header,X-Two:2: 3,--subprotocol,chat,--subprotocol,talk"
        done = koko("dial", address, "--compression", *options.split(","))
    assert done.returncode == 0
    *heard, extensions = done.stdout.decode().splitlines()
    assert heard == ["1", "2: 3", "chat, talk"]
    assert "permessage-deflate" in extensions


def test_binary_message_goes_into_a_pipe_as_it_is() -> None:
    with answering(lambda conn: conn.send(b"\x00\xff\n\x1b")) as address:
        assert koko("dial", address).stdout == b"\x00\xff\n\x1b"


def test_refusing_server_is_exit_code_1_and_one_sentence() -> None:
    pipe = subprocess.PIPE
    with (
        answering(lambda conn: conn.close(1008, "not today")) as address,
        subprocess.Popen([*KOKO, "dial", address], stdin=pipe, stderr=pipe, text=True) as client,
    ):
        assert client.wait(PATIENCE) == 1  # with its stdin still open
        assert client.stderr is not None
        assert client.stderr.read() == (
            "koko: connected\n"
            "koko: peer closed with 1008 (policy violation) 'not today'; we answered 1008\n"
        )


@pytest.mark.once
@pytest.mark.parametrize("address", ["ws://127.0.0.1:1/", "http:/x", "ws://host:port/"])
def test_url_that_leads_nowhere_is_one_sentence(address: str) -> None:
    complaint(koko("dial", address))


@pytest.mark.once
def test_refused_handshake_is_one_sentence_with_the_status(server: Served) -> None:
    origin = "Origin: http://elsewhere.example"
    assert "403" in complaint(koko("dial", url(server), "--header", origin))


@pytest.mark.once
def test_line_that_is_not_utf8_is_not_sent(server: Served) -> None:
    done = koko("dial", url(server), stdin=b"good\nbad \xff\n")
    assert (done.returncode, done.stdout) == (1, b"good\n")
    assert b"line 2 of stdin is not UTF-8" in done.stderr


@pytest.mark.once
def test_header_without_a_colon_is_mistyped() -> None:
    done = koko("dial", "ws://127.0.0.1:1/", "--header", "X-One")
    assert done.returncode == 2
    assert b"'X-One' is not of the form 'Name: value'" in done.stderr


# At a terminal

RUN = "import sys; from koko.cli import main; sys.exit(main(sys.argv[1:]))"
BRACKETED_PASTE = "\x1b[?2004h"  # what prompt_toolkit turns on when it is ready


class Terminal:
    """A ``koko dial`` with a pseudo-terminal for its stdin, stdout and stderr."""

    def __init__(self, address: str, before: str) -> None:
        self.shown = ""
        self._ours, theirs = pty.openpty()
        command = [sys.executable, "-c", before + RUN, "dial", address]
        environment = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        self._process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
        )
        os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def until(self, *texts: str) -> None:
        """Read until these are shown, one after the other."""
        for text in texts:
            while text not in self.shown:
                assert self._read(), f"left without showing {text!r} after {self.shown!r}"
            self.shown = self.shown.partition(text)[2]

    def end(self) -> int:
        """Read to the end and return the exit code."""
        while self._read():
            pass
        return self._process.wait(PATIENCE)

    def _read(self) -> bool:
        assert select([self._ours], [], [], PATIENCE)[0], f"nothing follows {self.shown!r}"
        try:
            self.shown += os.read(self._ours, 4096).decode()
        except OSError:  # how Linux says that everybody has left a terminal
            return False
        return True


@pytest.fixture(params=["plain", "prompt_toolkit"])
def terminal(request: pytest.FixtureRequest) -> Callable[[str], Terminal]:
    """Return what opens a terminal and waits until lines may be typed."""
    if request.param == "plain":
        before, ready = "import sys; sys.modules['prompt_toolkit'] = None; ", "\n"
    else:
        pytest.importorskip("prompt_toolkit", reason="the extra cli is not installed")
        before, ready = "", BRACKETED_PASTE

    def open_terminal(address: str) -> Terminal:
        opened = Terminal(address, before)
        opened.until("Ctrl-D closes", ready)
        return opened

    return open_terminal


@pytest.mark.once
def test_at_a_terminal_lines_are_echoed_and_ctrl_d_closes(
    terminal: Callable[[str], Terminal], server: Served
) -> None:
    with terminal(url(server)) as typist:
        typist.type(b"hello\r")
        typist.until("hello", "hello")  # as it was typed, and as it came back
        typist.type(b"\x04")
        assert typist.end() == 0
        assert "1000 (normal)" in typist.shown


@pytest.mark.once
def test_at_a_terminal_the_end_of_the_connection_ends_the_program(
    terminal: Callable[[str], Terminal],
) -> None:
    with answering(lambda conn: conn.recv()) as address, terminal(address) as typist:
        typist.type(b"hello\r")
        assert typist.end() == 0


@pytest.mark.once
def test_at_a_terminal_messages_cannot_drive_it() -> None:
    def attack(conn: Conn) -> None:
        conn.send("\x1b]0;taken\x07\x9b2J")
        conn.send(b"\x1b\x07")

    plain = "import sys; sys.modules['prompt_toolkit'] = None; "
    with answering(attack) as address, Terminal(address, plain) as terminal:
        assert terminal.end() == 0
        assert r"\x1b]0;taken\x07\x9b2J" in terminal.shown
        assert "1b 07" in terminal.shown
        assert not re.search("[\x1b\x07\x9b]", terminal.shown)
