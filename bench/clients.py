"""The clients that are measured: one connection, one message at a time, there and back.

    python bench/clients.py CLIENT --port PORT --secs 1

Prints one line of JSON: the median and 99th percentile of the round trip, and how much CPU
of its own a client spends on one. One function a client; asyncio runs on uvloop.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Coroutine
from statistics import quantiles
from typing import Any

MESSAGE = b"0123456789abcdef" * 16
WARM = 200  # round trips that are not counted


class Stopwatch:
    """Collects round trips until the time is up."""

    def __init__(self, secs: float) -> None:
        self._secs = secs
        self._trips: list[int] = []
        self._sent = self._end = self._cpu = 0

    def start(self) -> None:
        """Begin a round trip."""
        self._sent = time.perf_counter_ns()

    def goes_on(self) -> bool:
        """End a round trip and tell whether to make another."""
        now = time.perf_counter_ns()
        self._trips.append(now - self._sent)
        if len(self._trips) == WARM:
            self._end = now + int(self._secs * 1e9)
            self._cpu = time.process_time_ns()
        return len(self._trips) <= WARM or now < self._end

    def report(self) -> str:
        """Return the figures as JSON."""
        cpu = time.process_time_ns() - self._cpu
        counted = self._trips[WARM:]
        cuts = quantiles(counted, n=100)
        figures = {
            "cpu_us": cpu / len(counted) / 1e3,
            "per_s": 1e9 * len(counted) / sum(counted),
            "p50_us": cuts[49] / 1e3,
            "p99_us": cuts[98] / 1e3,
        }
        return json.dumps(figures)


def koko_aio(url: str, watch: Stopwatch) -> None:
    from koko.aio import dial

    async def main() -> None:
        async with dial(url) as conn:
            await _round_trips(conn, watch)

    _uvloop(main())


def koko_sync(url: str, watch: Stopwatch) -> None:
    from koko.sync import dial

    with dial(url) as conn:
        goes_on = True
        while goes_on:
            watch.start()
            conn.send(MESSAGE)
            conn.recv()
            goes_on = watch.goes_on()


def picows_core(url: str, watch: Stopwatch) -> None:
    from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

    class Client(WSListener):
        def on_ws_connected(self, transport: WSTransport) -> None:
            self.ask(transport)

        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            frame.get_payload_as_bytes()
            if watch.goes_on():
                self.ask(transport)
            else:
                transport.disconnect()

        def ask(self, transport: WSTransport) -> None:
            watch.start()
            transport.send(WSMsgType.BINARY, MESSAGE)

    async def main() -> None:
        transport, _ = await ws_connect(Client, url)
        await transport.wait_disconnected()

    _uvloop(main())


def picows_websockets(url: str, watch: Stopwatch) -> None:
    from picows.websockets import connect

    async def main() -> None:
        async with connect(url, compression=None) as conn:
            await _round_trips(conn, watch)

    _uvloop(main())


def websockets_asyncio(url: str, watch: Stopwatch) -> None:
    from websockets.asyncio.client import connect

    async def main() -> None:
        async with connect(url, compression=None) as conn:
            await _round_trips(conn, watch)

    _uvloop(main())


def websockets_sync(url: str, watch: Stopwatch) -> None:
    from websockets.sync.client import connect

    with connect(url, compression=None) as conn:
        goes_on = True
        while goes_on:
            watch.start()
            conn.send(MESSAGE)
            conn.recv()
            goes_on = watch.goes_on()


def aiohttp_client(url: str, watch: Stopwatch) -> None:
    from aiohttp import ClientSession

    async def main() -> None:
        async with ClientSession() as session, session.ws_connect(url) as ws:
            goes_on = True
            while goes_on:
                watch.start()
                await ws.send_bytes(MESSAGE)
                await ws.receive_bytes()
                goes_on = watch.goes_on()

    _uvloop(main())


CLIENTS: dict[str, Callable[[str, Stopwatch], None]] = {
    "koko.aio": koko_aio,
    "koko.sync": koko_sync,
    "picows": picows_core,
    "picows.websockets": picows_websockets,
    "websockets": websockets_asyncio,
    "websockets.sync": websockets_sync,
    "aiohttp": aiohttp_client,
}


async def _round_trips(conn: Any, watch: Stopwatch) -> None:
    goes_on = True
    while goes_on:
        watch.start()
        await conn.send(MESSAGE)
        await conn.recv()
        goes_on = watch.goes_on()


def _uvloop(main: Coroutine[Any, Any, None]) -> None:
    import uvloop

    uvloop.run(main)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the round trips of one client.")
    parser.add_argument("client", choices=CLIENTS)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--secs", type=float, default=1)
    args = parser.parse_args()
    watch = Stopwatch(args.secs)
    CLIENTS[args.client](f"ws://127.0.0.1:{args.port}/", watch)
    print(watch.report())


if __name__ == "__main__":
    main()
