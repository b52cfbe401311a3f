"""``koko demo``: a chat and an echo in one page, for two browser windows."""

from __future__ import annotations

import argparse
import asyncio

from koko.aio import Server, serve
from koko.cli.chat import READ_LIMIT
from koko.cli.serve import start_log
from koko.cli.site import http, visitor
from koko.cli.with_aio import loop_factory
from koko.opening.address import written


def run(args: argparse.Namespace) -> int:
    """Serve the page until a signal comes, or check it; return the exit code."""
    with asyncio.Runner(loop_factory=loop_factory("auto")) as runner:
        if args.check:
            from koko.cli.check import check  # imports a client: only if needed

            runner.run(check())
        else:
            start_log(quiet=False)
            runner.run(_serve(args.port))
    return 0


async def _serve(port: int) -> None:
    await serve(
        visitor(), "127.0.0.1", port, http=http(), read_limit=READ_LIMIT, on_start=_announce
    )


def _announce(server: Server) -> None:
    print(
        f"open http://{written(server.address)}/ in two browser windows; Ctrl-C stops", flush=True
    )
