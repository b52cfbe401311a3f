"""``koko dial``: one WebSocket, from a terminal or a pipe.

Lines are sent as text messages, messages are printed on stdout, and notes about the
connection on stderr. The main thread receives, a second one reads the lines and sends: a
thread that reads from a terminal cannot be interrupted, so it cannot notice the end.
"""

from __future__ import annotations

import argparse
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Protocol

from koko import CloseError, Kind, format_close_message
from koko.sync import Conn, dial

NORMAL = frozenset({1000, 1001, 1005})
HEX_SHOWN = 256  # bytes of a binary message that a terminal is shown

# What a peer sends must not drive the terminal: no escape sequences, no bells.
HARMLESS = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}


def run(args: argparse.Namespace) -> int:
    """Connect, talk until one side closes, and return the exit code."""
    with dial(args.url, headers=args.header, **_options(args)) as conn:
        _note(_greeting(conn))
        lines = _lines()
        with lines.screen():
            sender = _Sender(conn, lines)
            sender.start()
            try:
                _receive(conn)
            finally:
                lines.stop()
    return _exit_code(conn, sender.failure)


def _options(args: argparse.Namespace) -> dict[str, Any]:
    options: dict[str, Any] = {
        "subprotocols": args.subprotocol,
        "compression": args.compression,
        "read_limit": None,
    }
    if args.insecure:
        options["ssl"] = context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if args.proxy is not None:
        options["proxy"] = args.proxy
    return options


def _greeting(conn: Conn) -> str:
    said = "connected"
    if conn.subprotocol is not None:
        said += f", subprotocol {conn.subprotocol!r}"
    if "Sec-WebSocket-Extensions" in conn.response.headers:
        said += f", {conn.response.headers['Sec-WebSocket-Extensions']}"
    return said + ("; Ctrl-D closes" if sys.stdin.isatty() else "")


def _receive(conn: Conn) -> None:
    with suppress(CloseError):  # conn.ending has it, too
        for message in conn:
            _show(message)


def _exit_code(conn: Conn, failure: Exception | None) -> int:
    if failure is not None:
        raise failure
    ending = conn.ending
    if ending is not None and getattr(ending, "code", None) not in NORMAL:
        raise ending
    _note(str(ending))
    return 0


# Out


def _show(message: str | bytes) -> None:
    terminal = sys.stdout.isatty()
    if isinstance(message, str):
        print(message.translate(HARMLESS) if terminal else message, flush=True)
    elif terminal:
        _note(f"binary message of {len(message)} bytes")
        print(message[:HEX_SHOWN].hex(" ") + (" …" if len(message) > HEX_SHOWN else ""), flush=True)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(message)
        sys.stdout.buffer.flush()


def _note(sentence: str) -> None:
    print(f"koko: {sentence.translate(HARMLESS)}", file=sys.stderr, flush=True)


# In


class _Sender(threading.Thread):
    """Sends the lines and then a Close; messages on their way come before the peer's answer."""

    def __init__(self, conn: Conn, lines: _Lines) -> None:
        super().__init__(name="koko-dial-lines", daemon=True)
        self.failure: Exception | None = None
        self._conn = conn
        self._lines = lines

    def run(self) -> None:
        try:
            for line in self._lines:
                self._conn.send(line)
        except CloseError:
            return  # the receiving thread reports the end
        except Exception as error:
            self.failure = error
        self._say_goodbye()

    def _say_goodbye(self) -> None:
        # Not close(): it would drop messages that the receiving thread should still print.
        with suppress(CloseError):
            self._conn.write_control(Kind.CLOSE, format_close_message(1000))


class _Lines(Protocol):
    """A source of lines."""

    def __iter__(self) -> Iterator[str]: ...
    def screen(self) -> AbstractContextManager[None]: ...
    def stop(self) -> None: ...


def _lines() -> _Lines:
    if sys.stdin.isatty() and sys.stdout.isatty():
        try:
            return _PromptLines()
        except ImportError:
            pass  # the extra ``cli`` is optional
    return _PlainLines()


class _PlainLines:
    """The lines of stdin as they are, without an editor of our own."""

    def __iter__(self) -> Iterator[str]:
        # Not sys.stdin: Python takes the lock of stdin at exit, and this thread may hold it.
        with open(sys.stdin.fileno(), "rb", closefd=False) as stdin:
            for number, line in enumerate(stdin, 1):
                yield self._text(number, line)

    def screen(self) -> AbstractContextManager[None]:
        return nullcontext()

    def stop(self) -> None:
        pass  # the thread is a daemon and dies in its read

    def _text(self, number: int, line: bytes) -> str:
        try:
            return line.removesuffix(b"\n").removesuffix(b"\r").decode()
        except UnicodeDecodeError:
            raise ValueError(
                f"line {number} of stdin is not UTF-8, a text message must be (RFC 6455 §5.6)"
            ) from None


class _PromptLines:
    """Lines edited with prompt_toolkit: history, and messages that appear above the prompt."""

    def __init__(self) -> None:
        from prompt_toolkit import PromptSession

        self._session: PromptSession[str] = PromptSession("> ")
        self._stopped = False
        self._left = threading.Event()

    def __iter__(self) -> Iterator[str]:
        try:
            while True:
                yield self._session.prompt(pre_run=self._leave_if_stopped)
        except (EOFError, KeyboardInterrupt):
            return
        finally:
            self._left.set()

    @contextmanager
    def screen(self) -> Iterator[None]:
        from prompt_toolkit.patch_stdout import patch_stdout

        # Stay in raw mode between two prompts and while a message is printed: what is typed
        # then must not be lost, least of all a Ctrl-D.
        self._session.input.cooked_mode = nullcontext  # type: ignore[method-assign]
        with self._session.input.raw_mode(), patch_stdout():
            yield

    def stop(self) -> None:
        """End the prompt and restore the terminal; called by another thread."""
        self._stopped = True
        loop = self._session.app.loop
        if loop is not None:
            loop.call_soon_threadsafe(self._leave_if_stopped)
        self._left.wait(1)

    def _leave_if_stopped(self) -> None:
        app = self._session.app
        if self._stopped and app.is_running and not app.is_done:
            app.exit(exception=EOFError)
