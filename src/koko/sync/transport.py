"""A TCP socket that one thread reads while others write.

The socket stays blocking, because a timeout belongs to the whole socket and not to one
thread: a thread that waits with a bound polls first. A write passes on what the system takes
at once; the rest is kept and ``pending``. There is no lock here: ``reader`` and ``writer``
say which thread may read or write.
"""

from __future__ import annotations

import _socket
import errno
import math
import os
import select
import socket
from contextlib import suppress
from typing import Any, Protocol

from koko.sync.clock import time_left

READ = getattr(select, "POLLIN", 1)
WRITE = getattr(select, "POLLOUT", 4)

_DONTWAIT = getattr(socket, "MSG_DONTWAIT", 0)
_NOTHING = memoryview(b"")
_LITTLE, _MUCH = 1024, 1 << 16  # bytes asked of the system at once


class Stream(Protocol):
    """What TCP and TLS have in common: bytes in, bytes out, an end."""

    @property
    def socket(self) -> socket.socket:
        """The socket at the bottom."""

    @property
    def pending(self) -> int:
        """How many bytes that were taken by ``write`` have not left."""

    def recv(self) -> bytes | None:
        """Return what has arrived, b"" at the end, None when nothing has. Waits for nothing."""

    @property
    def steady(self) -> bool:
        """True where an interrupt in ``write`` or ``flush`` loses and repeats nothing."""

    def write(self, frames: list[bytes]) -> bool:
        """Take all frames out of the list, pass on what leaves at once; tell if all of it left."""

    def flush(self) -> bool:
        """Pass on more of what is pending, without waiting; tell if all of it left."""

    def wait(self, events: int, timeout: float | None) -> int:
        """Wait until reading or writing would do something; return which, 0 for neither."""

    def end(self) -> None:
        """Tell the peer that nothing more will be written, without waiting."""

    def shutdown(self) -> None:
        """End both halves, and wake every thread that waits for the socket."""

    def close(self) -> None:
        """Give the socket back. No thread may be inside."""


class PlainStream:
    """A connected TCP socket.

    ``is_bare`` is True for a socket of the system's own, which never waits if told not to.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(None)
        with suppress(OSError):  # a Unix socket has no such delay to turn off
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = sock
        self.pending = 0
        self._octets = _NOTHING
        self._sent: list[int] = []  # how many of them, call by call
        self._size = _LITTLE
        # gevent's socket waits in spite of the flag; Windows has no such flag.
        self.is_bare = bool(_DONTWAIT) and isinstance(sock, _socket.socket)
        self.steady = isinstance(sock, _socket.socket)

    def recv(self) -> bytes | None:
        if not self.is_bare and not self.wait(READ, 0):
            return None
        try:
            octets = self.socket.recv(self._size, _DONTWAIT)
        except BlockingIOError:
            return None
        self._size = _MUCH if len(octets) >= _LITTLE else _LITTLE
        return octets

    def write(self, frames: list[bytes]) -> bool:
        count = len(frames)
        octets = b"".join((self._rest, *frames)) if self.pending or count > 1 else frames[0]
        view, size = memoryview(octets), len(octets)
        # No call from here to the end of ``del``: an interrupt finds them in one place, not in two.
        self._octets, self._sent, self.pending = view, [], size
        del frames[:count]
        return self.flush()

    def flush(self) -> bool:
        if self.pending:
            with suppress(BlockingIOError):
                self._send(self._rest)
            left = len(self._rest)
            if left:
                self.pending = left
            else:  # an empty view would keep all of it alive
                self._octets, self._sent, self.pending = _NOTHING, [], 0
        return not self.pending

    @property
    def _rest(self) -> memoryview:
        return self._octets[sum(self._sent) :]

    def _send(self, octets: memoryview) -> None:
        if not self.is_bare:
            if not self.wait(WRITE, 0):
                return
            octets = octets[:_MUCH]
        # One call in C sends and counts: no interrupt falls between.
        self._sent.extend(map(self.socket.send, (octets,), (_DONTWAIT,)))

    def wait(self, events: int, timeout: float | None) -> int:
        if self.socket.fileno() < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if not hasattr(select, "poll"):
            return self._select(events, timeout)
        poller = select.poll()  # looked up now: gevent replaces it
        poller.register(self.socket, events)
        ready = poller.poll(None if timeout is None else max(0, math.ceil(timeout * 1000)))
        if not ready:
            return 0
        # An error or a hang-up shows itself in the read or the write that follows.
        found: int = ready[0][1]
        return events if found & ~events else found

    def _select(self, events: int, timeout: float | None) -> int:
        reading = [self.socket] if events & READ else []
        writing = [self.socket] if events & WRITE else []
        timeout = None if timeout is None else max(0.0, timeout)
        readable, writable, failed = select.select(reading, writing, [self.socket], timeout)
        if failed:
            return events
        return (READ if readable else 0) | (WRITE if writable else 0)

    def end(self) -> None:
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def end_reading(self) -> None:
        """End the peer's half: a thread that waits for the peer finds the end of the stream."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RD)

    def shutdown(self) -> None:
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.socket.close()


def peer_name(sock: socket.socket) -> Any:
    """Return the peer's address, None when it is gone already."""
    with suppress(OSError):
        return sock.getpeername()
    return None


def broken_by(error: OSError) -> str:
    """Return how a connection ended that broke with ``error``."""
    return f"the connection broke: {error.strerror or error}"


def is_broken(error: OSError) -> bool:
    """Return True for an error of the system's, False for one that a signal handler raised.

    ``TimeoutError`` of an alarm is an ``OSError``, too; only the system's have a number.
    """
    return error.errno is not None


def is_bare(stream: Stream) -> bool:
    """True for a socket of the system's own without TLS, as the fast path needs it."""
    return type(stream) is PlainStream and stream.is_bare


def recv_by(stream: Stream, deadline: float | None) -> bytes:
    """Return what arrives before the deadline.

    Raises:
        TimeoutError: nothing did.
    """
    while True:
        left = time_left(deadline)
        if left == 0 or not stream.wait(READ, left):  # a flood does not extend the deadline
            raise TimeoutError("the peer sent nothing in time")
        if (octets := stream.recv()) is not None:
            return octets


def write_by(stream: Stream, octets: bytes, deadline: float | None) -> None:
    """Write all of ``octets`` before the deadline.

    Raises:
        TimeoutError: not everything could be written.
    """
    if octets:
        stream.write([octets])
    while stream.pending:
        if not stream.wait(WRITE, time_left(deadline)):
            raise TimeoutError("the peer did not take what we wrote in time")
        stream.flush()
