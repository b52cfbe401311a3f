"""Many clients of a server, in one process: they open, talk, wait for each other, and leave.

    python -m tests.adapters.crowd_visitors PORT ADDRESS COUNT [--stay]

Each leaves in one of ``WAYS``, which are written in raw bytes. "open" is printed when all are
there; a line on stdin lets them go; then what each way came to is printed as JSON. With
``--stay`` all talk until the server ends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from itertools import cycle, islice

from tests.wire import wire

HEAD = (
    "GET /{} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
)
HELLO = wire("1 000 0010 1 len", b"hello")
NORMAL = wire("1 000 1000 1 len", b"\x03\xe8")
KNOCKING = 100  # handshakes at a time
CLOSE, PING, MESSAGE = 0x88, 0x89, (0x82, 0xC2)  # compressed or not


class Visitor(asyncio.Protocol):
    """One connection: it answers pings, and keeps what it hears."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.answered = loop.create_future()  # the status of the handshake
        self.greeted = loop.create_future()  # the first message
        self.over = loop.create_future()
        self.code = 0  # of the Close it heard
        self.answers = {PING, CLOSE}
        self.goes_on = False  # each message is answered with another
        self._heard = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._heard += data
        if not self.answered.done():
            head, blank, self._heard = self._heard.partition(b"\r\n\r\n")
            if not blank:
                self._heard = head
                return
            self.answered.set_result(int(head.split(b" ", 2)[1]))
        while self.code == 0 and (frame := self._frame()) is not None:
            self._got(*frame)

    def eof_received(self) -> None:
        pass

    def connection_lost(self, error: Exception | None) -> None:
        for each in (self.answered, self.greeted, self.over):
            if not each.done():
                each.set_result(0)

    def say(self, octets: bytes) -> None:
        self.transport.write(octets)

    def end(self) -> None:
        """End our half of the stream."""
        self.answers = set()
        self.transport.write_eof()

    def reset(self) -> None:
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _frame(self) -> tuple[int, bytes] | None:
        heard, at = self._heard, 2
        if len(heard) < 2:
            return None
        size = heard[1]
        if size >= 126:
            at += 2 if size == 126 else 8
            size = int.from_bytes(heard[2:at], "big")
        if len(heard) < at + size:
            return None
        self._heard = heard[at + size :]
        return heard[0], heard[at : at + size]

    def _got(self, first: int, payload: bytes) -> None:
        if first == CLOSE:
            self.code = int.from_bytes(payload[:2], "big")
        if first in self.answers:
            self.say(wire("1 000 1010 1 len" if first == PING else "1 000 1000 1 len", payload))
        elif first in MESSAGE:
            if not self.greeted.done():
                self.greeted.set_result(1)
            if self.goes_on:
                self.say(HELLO)


class Gate:
    """Lets nobody on before all are there."""

    def __init__(self, count: int) -> None:
        self._missing = count
        self.all_are_there = asyncio.Event()
        self.opened = asyncio.Event()
        self.knocking = asyncio.Semaphore(KNOCKING)

    async def passed(self) -> None:
        self._missing -= 1
        if not self._missing:
            self.all_are_there.set()
        await self.opened.wait()


Connect = Callable[[], Coroutine[None, None, Visitor]]
Way = Callable[
    [Connect, Gate], Coroutine[None, None, int]
]  # what it returns is what the visitor heard


def knocks(path: str) -> bytes:
    return HEAD.format(path).encode()


async def entered(connect: Connect, gate: Gate, path: str = "echo") -> Visitor:
    """Open a connection and use it, then wait for the others."""
    async with gate.knocking:
        visitor = await connect()
        visitor.say(knocks(path))
        status = await visitor.answered
        assert status == 101, f"the handshake was answered with {status}"
        visitor.say(HELLO)
        assert await visitor.greeted, "the first message did not come back"
    await gate.passed()
    return visitor


def says(
    octets: bytes, path: str = "echo", then: Callable[[Visitor], object] = lambda visitor: None
) -> Way:
    """Return a way to leave: say something, do something else, and wait for the end."""

    async def leave(connect: Connect, gate: Gate) -> int:
        visitor = await entered(connect, gate, path)
        visitor.say(octets)
        then(visitor)
        await visitor.over
        return visitor.code

    return leave


def resets(octets: bytes) -> Way:
    """Return a way to leave: say something, and reset the stream."""
    return says(octets, then=Visitor.reset)


def ends_half(octets: bytes) -> Way:
    """Return a way to leave: say something, end our half, and wait for the other."""
    return says(octets, then=Visitor.end)


def never_enters(octets: bytes, *, resets: bool) -> Way:
    """Return a way to vanish in the middle of the handshake."""

    async def leave(connect: Connect, gate: Gate) -> int:
        async with gate.knocking:
            visitor = await connect()
            visitor.say(octets)
        await gate.passed()
        if resets:
            visitor.reset()
        else:
            visitor.transport.close()
        await visitor.over
        return visitor.code

    return leave


async def is_refused(connect: Connect, gate: Gate) -> int:
    async with gate.knocking:
        visitor = await connect()
        visitor.say(knocks("refuse"))
        status = int(await visitor.answered)
    await gate.passed()
    visitor.transport.close()
    await visitor.over
    return status


async def falls_silent(connect: Connect, gate: Gate) -> int:
    async with gate.knocking:
        visitor = await connect()
        visitor.answers.clear()
        visitor.say(knocks("echo"))
        await visitor.answered
    await gate.passed()
    await visitor.over
    return visitor.code


async def is_flooded(connect: Connect, gate: Gate) -> int:
    visitor = await entered(connect, gate, "flood")
    visitor.greeted = asyncio.get_running_loop().create_future()
    visitor.say(HELLO)  # the flood begins
    await visitor.greeted
    visitor.transport.pause_reading()
    visitor.reset()
    await visitor.over
    return visitor.code


WAYS: dict[str, tuple[Way, int]] = {
    "says Close": (says(NORMAL), 1000),
    "says Close with a code": (says(wire("1 000 1000 1 len", b"\x10\xe1bye")), 4321),
    "is told to go": (says(HELLO, "close"), 4000),
    "is left by the application": (says(HELLO, "leave"), 0),
    "resets the stream": (resets(b""), 0),
    "resets it in a frame": (resets(wire("1 000 0010 1 len", bytes(1000))[:500]), 0),
    "resets it behind a Close": (resets(NORMAL), 0),
    "ends its half": (ends_half(b""), 0),
    "ends it in a message": (ends_half(wire("0 000 0010 1 len", bytes(100))), 0),
    "ends it behind a message": (ends_half(HELLO), 0),
    "ends it behind a Close": (ends_half(NORMAL), 1000),
    "is gone while it is sent to": (is_flooded, 0),
    "answers no ping": (falls_silent, 1011),
    "says too much": (says(wire("1 000 0010 1 len", length=1 << 20)), 1009),
    "does not mask": (says(wire("1 000 0010 0 len", b"hello")), 1002),
    "says what is no text": (says(wire("1 000 0001 1 len", b"\xff")), 1007),
    "is refused": (is_refused, 403),
    "vanishes in its request": (never_enters(knocks("echo")[:60], resets=False), 0),
    "resets in its request": (never_enters(knocks("echo")[:60], resets=True), 0),
    "vanishes unanswered": (never_enters(knocks("decide"), resets=False), 0),
    "resets unanswered": (never_enters(knocks("decide"), resets=True), 0),
}


async def stays(connect: Connect, gate: Gate) -> int:
    visitor = await entered(connect, gate)
    visitor.goes_on = True
    visitor.say(HELLO)
    await visitor.over
    return visitor.code


async def stays_and_answers_nothing(connect: Connect, gate: Gate) -> int:
    visitor = await entered(connect, gate)
    visitor.answers.discard(CLOSE)
    await visitor.over
    return visitor.code


STAYING: dict[str, tuple[Way, int]] = {
    "talks to the end": (stays, 1012),
    "keeps quiet, and answers no Close": (stays_and_answers_nothing, 1012),
}


async def visit(port: int, address: str, count: int, ways: dict[str, tuple[Way, int]]) -> None:
    loop = asyncio.get_running_loop()
    gate = Gate(count)

    async def connect() -> Visitor:
        _, visitor = await loop.create_connection(
            Visitor, "127.0.0.1", port, local_addr=(address, 0)
        )
        return visitor

    names = list(islice(cycle(ways), count))
    async with asyncio.TaskGroup() as all_visits:
        visits = [all_visits.create_task(ways[name][0](connect, gate)) for name in names]
        await gate.all_are_there.wait()
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        gate.opened.set()
    wrong = Counter[str]()
    for name, visit in zip(names, visits, strict=True):
        heard, wanted = visit.result(), ways[name][1]
        if heard != wanted:
            wrong[f"{name}: heard {heard}, not {wanted}"] += 1
    print(json.dumps({"visits": count, "wrong": wrong}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("address")
    parser.add_argument("count", type=int)
    parser.add_argument("--stay", action="store_true")
    args = parser.parse_args()
    ways = STAYING if args.stay else WAYS
    asyncio.run(visit(args.port, args.address, args.count, ways))


if __name__ == "__main__":
    main()
