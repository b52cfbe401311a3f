"""The client that Autobahn's fuzzing server examines: it echoes its way through every case.

The server judges each case, so after any end of a connection the next case follows; what
cannot be such an end (no connection, a bug of ours) stops the run.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Coroutine
from typing import Any

import koko.aio
import koko.sync
from koko import WebSocketError

# The largest message of the suite has 16 MiB (section 9).
OPTIONS: dict[str, Any] = {"compression": True, "read_limit": 32 << 20}
# The server writes hundreds of reports before it answers this handshake.
REPORTS: dict[str, Any] = {"handshake_timeout": 120.0}


def run_sync(url: str, agent: str) -> None:
    with koko.sync.dial(f"{url}/getCaseCount") as conn:
        count = int(conn.recv())
    for case in range(1, count + 1):
        try:
            with koko.sync.dial(f"{url}/runCase?case={case}&agent={agent}", **OPTIONS) as conn:
                while True:
                    conn.write_message(*conn.read_message())
        except WebSocketError:
            continue
    koko.sync.dial(f"{url}/updateReports?agent={agent}", **REPORTS).close()


async def run_aio(url: str, agent: str) -> None:
    async with koko.aio.dial(f"{url}/getCaseCount") as conn:
        count = int(await conn.recv())
    for case in range(1, count + 1):
        try:
            async with koko.aio.dial(f"{url}/runCase?case={case}&agent={agent}", **OPTIONS) as conn:
                while True:
                    await conn.write_message(*await conn.read_message())
        except WebSocketError:
            continue
    last = await koko.aio.dial(f"{url}/updateReports?agent={agent}", **REPORTS)
    await last.close()


def run_in_loop(name: str, work: Coroutine[Any, Any, None]) -> None:
    factory = None
    if name == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--face", choices=["aio", "sync"], required=True)
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    parser.add_argument("--agent", default="koko")
    args = parser.parse_args()
    if args.face == "sync":
        run_sync(args.url, args.agent)
    else:
        run_in_loop(args.loop, run_aio(args.url, args.agent))


if __name__ == "__main__":
    main()
