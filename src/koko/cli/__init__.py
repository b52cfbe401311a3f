"""The command ``koko``: its arguments, and which module runs each subcommand.

Scripts rely on the names and defaults here, on what goes to stdout, and on the exit codes
(0 done, 1 failed, 2 mistyped, 130 interrupted). A failure is one sentence on stderr, never a
traceback. A module is imported only when its command is run, so ``koko dial`` loads no event
loop.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

from koko import WebSocketError, __version__
from koko.cli.failure import Failure
from koko.core import codec, deflate


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit code."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.command is None:
        parser.print_usage(sys.stderr)
        return 2
    run = importlib.import_module(f"koko.cli.{args.command}").run
    try:
        return int(run(args))
    except KeyboardInterrupt:
        return 130
    # ValueError: an invalid option or URL; ImportError: an extra that is not installed;
    # TimeoutError is an OSError. Any other error is a bug: its traceback is shown.
    except (Failure, WebSocketError, OSError, ValueError, ImportError) as error:
        print(f"koko: {error or type(error).__name__}", file=sys.stderr)
        return 1


def versions() -> str:
    """Say which Koko this is and what it runs on here."""
    loop = _with_version("uvloop")
    fast = deflate.IMPLEMENTATION
    why = f"\nthe native codec is not used: {codec.WHY}" if codec.WHY else ""
    return (
        f"koko {__version__} (codec: {codec.IMPLEMENTATION}, loop: {loop or 'asyncio'}, "
        f"TLS: {_with_version('aiofastnet') or 'the loop'}, "
        f"deflate: {_with_version(fast) or fast}){why}"
    )


def _with_version(package: str) -> str | None:
    try:
        return f"{package} {installed(package)}"
    except PackageNotFoundError:
        return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="koko",
        description="WebSocket servers and a client at the command line.",
        formatter_class=argparse.RawDescriptionHelpFormatter,  # or --version would be broken
    )
    parser.add_argument("--version", action="version", version=versions())
    commands = parser.add_subparsers(dest="command", metavar="serve | dial | demo")
    _add_serve(commands.add_parser("serve", help="run an echo or a broadcast server"))
    _add_dial(commands.add_parser("dial", help="talk to a WebSocket server, line by line"))
    _add_demo(commands.add_parser("demo", help="serve a chat and an echo page for the browser"))
    return parser


def _add_serve(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("what", choices=("echo", "broadcast"), help="send messages back, or to all")
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8765, help="0 takes a free one (default: %(default)s)")
    add("--face", choices=("aio", "sync"), default="aio", help="asyncio or threads")
    add("--loop", choices=("auto", "asyncio", "uvloop"), default="auto", help="of --face aio")
    add("--read-limit", type=int, default=1 << 20, metavar="BYTES", help="of one message")
    add("--compression", action="store_true", help="negotiate permessage-deflate")
    add(
        "--origin",
        action="append",
        metavar="ORIGIN",
        help="pages to let in, instead of those of this host; '*': all",
    )
    add(
        "--trusted-proxy",
        action="append",
        metavar="PROXY",
        help="a proxy in front that is believed: an address, a network or 'unix'",
    )
    add("--handshake-timeout", type=float, default=10.0, metavar="S")
    add("--ping-interval", type=float, default=20.0, metavar="S", help="0: never")
    add("--certfile", metavar="F", help="PEM chain: serve wss")
    add("--keyfile", metavar="F", help="PEM key, if it is not in the certfile")
    add("--quiet", action="store_true", help="no log lines")


def _add_dial(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("url", metavar="URL", help="ws:// or wss://")
    add("--header", action="append", default=[], type=_header, metavar="'K: V'")
    add("--subprotocol", action="append", default=[], metavar="P")
    add("--compression", action="store_true", help="offer permessage-deflate")
    add("--insecure", action="store_true", help="accept any certificate")
    add("--proxy", metavar="URL", help="http:// or socks5://, needs koko[proxy]")


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip():
        shown = (line.split() or [""])[0]  # what follows may be a secret
        raise argparse.ArgumentTypeError(f"{shown!r} is not of the form 'Name: value'")
    return name.strip(), value.strip()


def _add_demo(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--port", type=int, default=8080, help="0 takes a free one (default: %(default)s)")
    add("--check", action="store_true", help="on a free port: talk to itself and say if it works")
