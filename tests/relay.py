"""A relay between two real TCP ends, as slow as one likes, that can stop passing anything on."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PIECE = 1 << 14
ROOM = 1 << 14  # bytes that its sockets hold: what is slow must be felt by those who write


class Relay:
    """Passes bytes both ways for each connection, from ``target``'s clients to ``target``."""

    def __init__(self, target: tuple[str, int], rate: float | None = None) -> None:
        self._target = target
        self._pause = 0.0 if rate is None else PIECE / rate
        self._passing = threading.Event()
        self._passing.set()
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self._ends: list[socket.socket] = [self._listener]
        self.address: tuple[str, int] = self._listener.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """Pass nothing on; what arrives is acknowledged by the system, until that is full."""
        self._passing.clear()

    def go_on(self) -> None:
        self._passing.set()

    def reset(self) -> None:
        """Reset all connections, as the system of a client does that has died."""
        for end in self._ends[1:]:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self._passing.set()
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # wakes who is inside
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                ours, _ = self._listener.accept()
            except OSError:
                return
            theirs = socket.socket()
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
            theirs.connect(self._target)
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)
            self._ends += (ours, theirs)
            for way in ((ours, theirs), (theirs, ours)):
                threading.Thread(target=self._pass_on, args=way, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while octets := source.recv(PIECE):
                self._passing.wait()
                sink.sendall(octets)
                time.sleep(self._pause * len(octets) / PIECE)
            sink.shutdown(socket.SHUT_WR)


@contextmanager
def relay(target: tuple[str, int], rate: float | None = None) -> Iterator[Relay]:
    """Stand between ``target`` and its clients; ``rate`` is bytes a second each way."""
    between = Relay(target, rate)
    try:
        yield between
    finally:
        between.close()
