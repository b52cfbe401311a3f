"""A command on a socket, on threads: messages are lines of its stdin, its output comes back.

python examples/command.py sh           PORT=8080 in the environment; Ctrl-C stops

Every connection has a process of its own, which ends with it. Needs a POSIX system.
"""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from select import PIPE_BUF, select
from subprocess import PIPE, STDOUT, Popen, TimeoutExpired
from threading import Thread
from typing import IO

from koko import CloseError, Request, Response
from koko.sync import Conn, Server, serve

PATIENCE = 1.0  # seconds for the process to take a line
GRACE = 0.5  # seconds for each way of asking it to end
PAGE = Path(__file__).with_suffix(".html").read_text("utf-8")
COMMAND = sys.argv[1:] or sys.exit(__doc__)


def run(conn: Conn) -> None:
    """Run the command for one connection."""
    # A group of its own: signals reach what the command has started, Ctrl-C only us.
    process = Popen(
        COMMAND,
        stdin=PIPE,
        stdout=PIPE,
        stderr=STDOUT,
        bufsize=1,
        encoding="utf-8",
        errors="replace",
        process_group=0,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    printing = Thread(target=print_lines, args=[process.stdout, conn], daemon=True)
    printing.start()
    try:
        type_lines(conn, process.stdin)
    finally:
        stop(process, process.stdin)
        printing.join(GRACE)  # what it said last is still sent


def type_lines(conn: Conn, stdin: IO[str]) -> None:
    with suppress(BrokenPipeError):  # it ended, or wants no more
        for line in conn:
            if isinstance(line, bytes):
                return conn.close(1003, "a line is text")
            # A pipe that is ready takes PIPE_BUF bytes without blocking, and no line is longer.
            if not select([], [stdin], [], PATIENCE)[1]:
                return conn.close(1013, f"the command has read nothing for {PATIENCE:g} s")
            stdin.write(f"{line}\n")


def print_lines(stdout: IO[str], conn: Conn) -> None:
    with suppress(CloseError), stdout:
        while line := stdout.readline(PIPE_BUF):
            conn.send(line.removesuffix("\n"))
        conn.close(1000, "the command has ended")


def stop(process: Popen[str], stdin: IO[str]) -> None:
    """End the process and what it has started: no more input, an interrupt, then by force."""
    with suppress(BrokenPipeError):
        stdin.close()
    for number in (signal.SIGINT, signal.SIGKILL):
        with suppress(TimeoutExpired):
            process.wait(GRACE)
        with suppress(ProcessLookupError):  # nobody is left in its group
            os.killpg(process.pid, number)
    process.wait()


def page(request: Request) -> Response:
    if request.path != "/":
        return Response(404, "here is only /\n")
    return Response(200, PAGE, {"Content-Type": "text/html; charset=utf-8"})


def announce(server: Server) -> None:
    print("open http://{}:{}/".format(*server.address), flush=True)


# Whoever connects can do what the command can do. So only this machine may: it listens on
# 127.0.0.1, and lets in only its own page. Without an origin check every page that you visit
# could connect from your own browser; the default one compares the Origin with the Host, and
# a site whose name is made to point at 127.0.0.1 would choose both. Here it has no choice.
port = int(os.environ.get("PORT", "8080"))
ours = [f"http://{name}:{port}" for name in ("127.0.0.1", "localhost")]
serve(run, "127.0.0.1", port, http=page, origins=ours, read_limit=PIPE_BUF - 1, on_start=announce)
