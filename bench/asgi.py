"""What a ``Conn`` costs inside an ASGI server, beside an echo of bare events: a command by itself.

    python bench/asgi.py [hypercorn] [granian] [gunicorn] [uvicorn] [koko]

For each server: CPU of its process for each message of 256 B, on 64 connections with one
message on its way and on 16 with 16; the median of five turns, the two applications by turns.
``koko`` is uvicorn with Koko's class, where the connection is Koko's own.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from typing import Any

import rig
from koko.adapters.asgi import websocket
from koko.aio import Conn

ROUNDS, SECONDS = 5, 1.0
LOADS = {"64 connections": "echo --conns 64", "16 x 16": "echo --conns 16 --depth 16"}
SERVERS = {
    "hypercorn": "hypercorn {app} --bind 127.0.0.1:{port} -k uvloop",
    "granian": "granian --interface asgi --loop uvloop --host 127.0.0.1 --port {port} {app}",
    "gunicorn": "gunicorn {app} -k asgi --bind 127.0.0.1:{port} --no-control-socket",
    "uvicorn": "uvicorn {app} --port {port} --ws websockets-sansio --log-level warning",
    "koko": "uvicorn {app} --port {port} --ws koko.uvicorn:Protocol --log-level warning",
}


@websocket()
async def conn(conn: Conn) -> None:
    """Echo by a ``Conn``."""
    async for message in conn:
        await conn.send(message)


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """Echo by events."""
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        kind = "bytes" if event.get("bytes") is not None else "text"
        await send({"type": "websocket.send", kind: event[kind]})


def main() -> None:
    """Measure the servers that were asked for."""
    rig.build()
    for name in sys.argv[1:] or SERVERS:
        running = {app: start(name, app) for app in ("bare", "conn")}
        try:
            for load, arguments in LOADS.items():
                spent: dict[str, list[float]] = {app: [] for app in running}
                for _ in range(ROUNDS):
                    for app, (server, port) in running.items():
                        spent[app].append(turn(server, port, arguments))
                figures = {app: statistics.median(each) for app, each in spent.items()}
                said = ", ".join(f"{app} {figure:.1f} µs" for app, figure in figures.items())
                print(f"{name}, {load}: {said}", flush=True)
        finally:
            for server, _ in running.values():
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


def start(name: str, app: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start a server, on the first core, in a group of its own."""
    port = rig._free_port()
    words = SERVERS[name].format(app=f"asgi:{app}", port=port).split()
    server = subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=rig.HERE,
        env={**os.environ, "PYTHONPATH": str(rig.HERE)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {rig.cores()[0]}),
    )
    time.sleep(3)  # gunicorn and granian listen before their workers run
    return server, port


def turn(server: subprocess.Popen[bytes], port: int, arguments: str) -> float:
    """Return the microseconds that the process that serves spent on each message."""
    load = f"{arguments} --size 256 --port {port} --secs {SECONDS} --pid {worker(server.pid)}"
    done = subprocess.run(
        [str(rig.program("load")), *load.split()],
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {rig.cores()[1]}),
    )
    if done.returncode:
        raise SystemExit(f"the load failed: {done.stderr}")
    spent: float = json.loads(done.stdout)["cpu_us"]
    return spent


def worker(group: int) -> int:
    """Return which process of a server has done the most so far."""
    found = subprocess.run(["pgrep", "-g", str(group)], capture_output=True, text=True).stdout
    return max(map(int, found.split()), key=lambda pid: time.clock_gettime(~pid << 3 | 2))


if __name__ == "__main__":
    main()
