# Invariant: whatever a program does with connections, in whatever order, and whatever their peers
# do, nothing is read or written that is not ours (the sanitizer would end the process), and no
# round hangs. What an operation raises does not matter here; tests check it.
"""Random operations on both faces, on the native extensions.

python fuzz/sanitize/stress.py [--seconds 600] [--seed N]        in the environment that run makes
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import copy
import faulthandler
import gc
import logging
import os
import random
import signal
import socket
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import uvloop

import koko
from koko import aio, sync
from koko.core.codec import IMPLEMENTATION
from koko.opening.handshake import make_key

PATIENCE = 60  # seconds after which a round hangs
MOST = 1 << 17  # bytes of a message

HANDSHAKE = (
    "GET / HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
)

done: Counter[str] = Counter()
rng = random.Random()


def payload() -> str | bytes:
    size = rng.choice([0, 1, 20, 125, 126, 3000, 65536, MOST])
    return rng.choice([rng.randbytes(size), "x" * size, "é" * (size // 2)])


class Stopped(BaseException):
    """What the handler of a signal raises, as Ctrl-C does."""


forking: set[int] = set()  # threads; CPython's own hooks of a fork do not survive an interrupt


def interrupt(*_: object) -> None:
    if threading.get_ident() not in forking:
        raise Stopped


@contextlib.contextmanager
def interrupts(rarely: float):
    """Raise Stopped at a random moment of this block, or not at all."""
    if rng.random() < rarely:
        done["interrupt"] += 1
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0001, 0.5))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def fork(touch: Callable[[], object]) -> None:
    """Let a child do something with what it inherits."""
    forking.add(threading.get_ident())
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            touch()
            gc.collect()
        os._exit(0)
    forking.discard(threading.get_ident())
    os.waitpid(child, 0)


# Peers that are no Koko


def frames() -> bytes:
    """Return what a peer may send: most of it good, cut anywhere by who sends it."""
    octets = bytearray()
    for _ in range(rng.randrange(1, 6)):
        opcode, fin = rng.choice([(1, 1), (2, 1), (2, 0), (0, 1), (9, 1), (10, 1), (8, 1), (3, 1)])
        body = rng.randbytes(rng.choice([0, 2, 30, 300])) if opcode != 1 else b"text"
        head = bytes([fin << 7 | opcode])
        size = len(body)
        length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
        octets += head + length + bytes(4) + body  # a key of zeros
    return bytes(octets)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


def rude(address: tuple[str, int], seed: int, over: threading.Event) -> None:
    """Send to a server in pieces, stall, and leave without a Close."""
    own = random.Random(seed)
    while not over.is_set():
        with contextlib.suppress(OSError):
            sock = socket.create_connection(address, timeout=2)
            head = HANDSHAKE.format(host=address[0], port=address[1], key=make_key())
            said = head.encode() + b"".join(frames() for _ in range(5))
            while said and not over.is_set():
                cut = own.choice([1, 7, 100, 1000])
                sock.sendall(said[:cut])
                said = said[cut:]
                if own.random() < 0.1:
                    time.sleep(0.01)
                if own.random() < 0.02:
                    break
            done["rude peer"] += 1
            reset(sock) if own.random() < 0.5 else sock.close()


# asyncio


class Aio:
    """A round of one loop: a server, its clients, and many tasks that do random operations."""

    def __init__(self) -> None:
        self.conns: list[aio.Conn] = []
        self.kept: list[Any] = []
        self.acts = [getattr(self, name) for name in dir(self) if name.startswith("do_")]

    async def handler(self, conn: aio.Conn) -> None:
        self.conns.append(conn)
        try:
            if rng.random() < 0.3:
                await self.misbehave(conn, 20)
            async for message in conn:
                if rng.random() < 0.9:
                    await conn.send(message, timeout=1)
        finally:
            self.conns.remove(conn)

    async def misbehave(self, conn: aio.Conn, times: int) -> None:
        for _ in range(times):
            act = rng.choice(self.acts)
            done["aio " + act.__name__[3:]] += 1
            with contextlib.suppress(Exception):
                async with asyncio.timeout(rng.choice([0.001, 0.01, 0.05])):
                    await act(conn)

    async def client(self, server: aio.Server) -> None:
        for _ in range(3):
            with contextlib.suppress(Exception):
                host, port = server.address
                compression = rng.random() < 0.3
                conn = await aio.dial(
                    f"ws://{host}:{port}/", compression=compression, close_timeout=0.2, proxy=None
                )
                self.conns.append(conn)
                await self.misbehave(conn, 40)
                if rng.random() < 0.7:
                    await conn.close(timeout=0.1)
                self.conns.remove(conn)

    async def round(self) -> None:
        over = threading.Event()
        upgrader = aio.Upgrader(compression=rng.random() < 0.5, close_timeout=0.2)
        async with aio.Server(self.handler, "127.0.0.1", upgrader=upgrader) as server:
            peers = [
                threading.Thread(
                    target=rude, args=(server.address, rng.random(), over), daemon=True
                )
                for _ in range(2)
            ]
            for peer in peers:
                peer.start()
            try:
                async with asyncio.timeout(rng.uniform(0.2, 2)):
                    await asyncio.gather(*(self.client(server) for _ in range(8)))
            except TimeoutError:
                pass
            finally:
                over.set()

    async def do_send(self, conn: aio.Conn) -> None:
        await conn.send(payload(), timeout=rng.choice([None, 0.01]))

    async def do_recv(self, conn: aio.Conn) -> None:
        await conn.recv(timeout=rng.choice([None, 0, 0.01]))

    async def do_cancel(self, conn: aio.Conn) -> None:
        task = asyncio.ensure_future(rng.choice([conn.recv, conn.ping])())
        for _ in range(rng.randrange(3)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        task.cancelled() or task.exception()

    async def do_ping(self, conn: aio.Conn) -> None:
        await conn.ping(timeout=0.01)

    async def do_close(self, conn: aio.Conn) -> None:
        if rng.random() < 0.1:
            await conn.close(timeout=0.05)

    async def do_abort(self, conn: aio.Conn) -> None:
        if rng.random() < 0.1:
            conn.abort()

    async def do_cork(self, conn: aio.Conn) -> None:
        with conn.cork():
            for _ in range(rng.randrange(5)):
                await conn.send(payload())

    async def do_broadcast(self, conn: aio.Conn) -> None:
        slow = rng.choice(["drop", "drop", "close"])
        await aio.broadcast(list(self.conns), payload(), slow=slow, timeout=rng.choice([0, 0.01]))

    async def do_write_parts(self, conn: aio.Conn) -> None:
        writer = await conn.next_writer(koko.Kind.BINARY, timeout=0.01)
        for _ in range(rng.randrange(3)):
            await writer.write(rng.randbytes(rng.choice([1, 5000])))
        if rng.random() < 0.8:
            await writer.close()

    async def do_read_parts(self, conn: aio.Conn) -> None:
        _, reader = await conn.next_reader(timeout=0.01)
        for _ in range(rng.randrange(4)):
            await reader.read(rng.choice([1, 1000, -1]), timeout=0.01)
        if rng.random() < 0.5:
            self.kept.append(reader)

    async def do_forget(self, conn: aio.Conn) -> None:
        self.kept.append([conn.recv(), conn.send("never sent"), conn])
        if len(self.kept) > 20:
            self.kept.clear()
            gc.collect()

    async def do_throw(self, conn: aio.Conn) -> None:
        awaited = rng.choice([conn.recv, lambda: conn.send("x")])()
        if rng.random() < 0.5:
            awaited.send(None)
        with contextlib.suppress(BaseException):
            awaited.throw(rng.choice([ValueError, GeneratorExit, asyncio.CancelledError]))

    async def do_deadlines(self, conn: aio.Conn) -> None:
        now = asyncio.get_running_loop().time()
        conn.read_deadline = rng.choice([None, now, now + 0.01])
        conn.write_deadline = rng.choice([None, now, now + 0.01])

    async def do_handlers(self, conn: aio.Conn) -> None:
        def fails(*_: object) -> None:
            raise LookupError

        conn.ping_handler = rng.choice(
            [None, None, fails, lambda _: conn.abort(), lambda _: gc.collect(0)]
        )
        conn.pong_handler = rng.choice([None, None, fails, lambda _: conn.recv().close()])

    async def do_set_protocol(self, conn: aio.Conn) -> None:
        if rng.random() < 0.1:
            transport = conn.transport
            await conn.recv(timeout=0.01)
            transport.set_protocol(asyncio.Protocol())
            await asyncio.sleep(0)
            transport.abort()

    async def do_pause(self, conn: aio.Conn) -> None:
        conn.transport.pause_reading()
        await asyncio.sleep(0)
        conn.transport.resume_reading()

    async def do_socket(self, conn: aio.Conn) -> None:
        sock = conn.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, rng.choice([4096, 1 << 20]))
        if rng.random() < 0.05:
            sock.shutdown(socket.SHUT_RDWR)

    async def do_copy(self, conn: aio.Conn) -> None:
        copy.copy(rng.choice([conn, conn._protocol, conn.recv()]))

    async def do_fork(self, conn: aio.Conn) -> None:
        if rng.random() < 0.03:
            fork(conn.abort)

    async def do_collect(self, conn: aio.Conn) -> None:
        gc.collect(rng.randrange(3))


def aio_round() -> None:
    this = Aio()
    factory = rng.choice([asyncio.SelectorEventLoop, uvloop.new_event_loop])
    with contextlib.suppress(Stopped), asyncio.Runner(loop_factory=factory) as runner:
        runner.get_loop().set_exception_handler(lambda *_: done.update(complaint=1))
        with interrupts(0.3):
            runner.run(this.round())


# Threads


class Sync:
    """A round of threads: a server, its clients, and two threads on each of those."""

    def __init__(self) -> None:
        self.conns: list[sync.Conn] = []
        self.over = threading.Event()
        self.acts = [getattr(self, name) for name in dir(self) if name.startswith("do_")]

    def handler(self, conn: sync.Conn) -> None:
        if rng.random() < 0.3:
            self.misbehave(conn, 20)
        for message in conn:
            conn.send(message, timeout=1)

    def misbehave(self, conn: sync.Conn, times: int) -> None:
        for _ in range(times):
            act = rng.choice(self.acts)
            done["sync " + act.__name__[3:]] += 1
            with contextlib.suppress(Exception):
                act(conn)
            if self.over.is_set():
                break

    def client(self, url: str) -> None:
        while not self.over.is_set():
            with contextlib.suppress(Exception):
                compression = rng.random() < 0.3
                with sync.dial(url, compression=compression, close_timeout=0.2, proxy=None) as conn:
                    self.conns.append(conn)
                    other = threading.Thread(target=self.misbehave, args=(conn, 20), daemon=True)
                    other.start()
                    self.misbehave(conn, 40)
                    other.join(PATIENCE)
            self.conns[:-4] = []

    def round(self) -> None:
        upgrader = sync.Upgrader(compression=rng.random() < 0.5, close_timeout=0.2)
        with sync.Server(self.handler, "127.0.0.1", upgrader=upgrader) as server:
            host, port = server.address
            url = f"ws://{host}:{port}/"
            threads = [
                threading.Thread(target=self.client, args=(url,), daemon=True) for _ in range(3)
            ]
            args = (server.address, rng.random(), self.over)
            threads.append(threading.Thread(target=rude, args=args, daemon=True))
            for thread in threads:
                thread.start()
            until = time.monotonic() + rng.uniform(0.2, 2)
            try:
                while time.monotonic() < until:
                    dialing = sync.dial(url, close_timeout=0.2, proxy=None)
                    with contextlib.suppress(Stopped), interrupts(0.7), dialing as conn:
                        self.misbehave(conn, 30)
            finally:
                self.over.set()
                for thread in threads:
                    thread.join(PATIENCE)

    def do_send(self, conn: sync.Conn) -> None:
        conn.send(payload(), timeout=0.05)

    def do_recv(self, conn: sync.Conn) -> None:
        conn.recv(timeout=rng.choice([0, 0.01]))

    def do_ping(self, conn: sync.Conn) -> None:
        conn.ping(timeout=0.01)

    def do_close(self, conn: sync.Conn) -> None:
        if rng.random() < 0.1:
            conn.close(timeout=0.05)

    def do_abort(self, conn: sync.Conn) -> None:
        if rng.random() < 0.1:
            conn.abort()

    def do_cork(self, conn: sync.Conn) -> None:
        with conn.cork():
            for _ in range(rng.randrange(5)):
                conn.send(payload(), timeout=0.05)

    def do_broadcast(self, conn: sync.Conn) -> None:
        slow = rng.choice(["drop", "drop", "close"])
        sync.broadcast([*self.conns, conn], payload(), slow=slow, timeout=rng.choice([0, 0.01]))

    def do_write_parts(self, conn: sync.Conn) -> None:
        writer = conn.next_writer(koko.Kind.BINARY, timeout=0.01)
        for _ in range(rng.randrange(3)):
            writer.write(rng.randbytes(rng.choice([1, 5000])), timeout=0.01)
        if rng.random() < 0.8:
            writer.close()

    def do_read_parts(self, conn: sync.Conn) -> None:
        _, reader = conn.next_reader(timeout=0.01)
        for _ in range(rng.randrange(4)):
            reader.read(rng.choice([1, 1000, -1]), timeout=0.01)

    def do_deadlines(self, conn: sync.Conn) -> None:
        now = time.monotonic()
        conn.read_deadline = rng.choice([None, now, now + 0.01])
        conn.write_deadline = rng.choice([None, now, now + 0.01])

    def do_fork(self, conn: sync.Conn) -> None:
        if rng.random() < 0.02:
            fork(gc.collect)

    def do_collect(self, conn: sync.Conn) -> None:
        gc.collect(rng.randrange(3))


def sync_round() -> None:
    with contextlib.suppress(Stopped):
        Sync().round()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    args = parser.parse_args()
    assert IMPLEMENTATION == "native"
    print(f"seed {args.seed}, on {aio.__file__}", flush=True)
    warnings.simplefilter("ignore")
    logging.disable()
    signal.signal(signal.SIGALRM, interrupt)
    rng.seed(args.seed)
    start = time.monotonic()
    while time.monotonic() < start + args.seconds:
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        done["round"] += 1
        rng.choice([aio_round, sync_round])()
        gc.collect()
    faulthandler.cancel_dump_traceback_later()
    for name, count in sorted(done.items()):
        print(f"{count:9} {name}")
    print(f"{done.total()} operations in {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
