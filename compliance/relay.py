"""A relay that records every byte between two ends, and reads the heads of frames from it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, Self

HERE = "127.0.0.1"
_OPENING = 5.0  # seconds for the far end to accept, and to answer


class Frame(NamedTuple):
    """The head of a frame."""

    opcode: int
    compressed: bool
    length: int


class Record:
    """One connection: its bytes, from the client (``asked``) and from the server (``answered``)."""

    def __init__(self) -> None:
        self.asked = bytearray()
        self.answered = bytearray()

    @property
    def offer(self) -> str:
        """The extensions that the client asks for, as sent."""
        return _extensions(self.asked)

    @property
    def answer(self) -> str:
        """The extensions that the server answers, as sent."""
        return _extensions(self.answered)

    @property
    def is_websocket(self) -> bool:
        return b"\r\nsec-websocket-key:" in _head(self.asked).lower()


def _head(octets: bytes | bytearray) -> bytes:
    return bytes(octets.partition(b"\r\n\r\n")[0])


def _extensions(octets: bytes | bytearray) -> str:
    lines = _head(octets).decode("latin-1").split("\r\n")[1:]
    fields = [line.partition(":") for line in lines]
    found = (value for name, _, value in fields if name.lower() == "sec-websocket-extensions")
    return ", ".join(value.strip() for value in found)


def messages(octets: bytes | bytearray) -> Iterator[Frame]:
    """Yield the first frame of each text or binary message behind a head, with its whole length."""
    kept: Frame | None = None
    for final, frame in _frames(octets):
        if frame.opcode < 8:
            kept = kept._replace(length=kept.length + frame.length) if kept else frame
            if final:
                yield kept
                kept = None


def _frames(octets: bytes | bytearray) -> Iterator[tuple[bool, Frame]]:
    octets = bytes(octets.partition(b"\r\n\r\n")[2])
    at = 0
    while at + 2 <= len(octets):
        first, second = octets[at], octets[at + 1]
        size = {126: 2, 127: 8}.get(second & 0x7F, 0)  # §5.2: of the extended length
        length = int.from_bytes(octets[at + 2 : at + 2 + size]) if size else second & 0x7F
        at += 2 + size + (4 if second & 0x80 else 0) + length
        yield bool(first & 0x80), Frame(first & 0x0F, bool(first & 0x40), length)


class Relay:
    """Listens in front of a server and records what both ends send."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server((HERE, 0))
        self.port = int(self._listener.getsockname()[1])
        self.records: list[Record] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()

    @property
    def heard(self) -> Record:
        """The latest WebSocket."""
        return [record for record in self.records if record.is_websocket][-1]

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                server = socket.create_connection((HERE, self._to), _OPENING)
                server.settimeout(None)
                record = Record()
                self.records.append(record)
                for ends in ((client, server, record.asked), (server, client, record.answered)):
                    threading.Thread(target=_pass_on, args=ends, daemon=True).start()


def _pass_on(giver: socket.socket, taker: socket.socket, kept: bytearray) -> None:
    with suppress(OSError):
        while octets := giver.recv(1 << 16):
            kept += octets
            taker.sendall(octets)
    with suppress(OSError):
        taker.shutdown(socket.SHUT_WR)
