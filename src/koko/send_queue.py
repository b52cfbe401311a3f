"""How much waits for a peer inside our operating system, where the system tells.

A system buffers megabytes for a peer that reads slowly: what ``send`` has handed over may be
far from delivered. Only the keepalive asks, now and then; no message does.
"""

from __future__ import annotations

import socket
import struct
import sys
from contextlib import suppress

from koko.core.keepalive import NOTHING_WAITS, Backlog

if sys.platform == "linux":
    import fcntl
    import termios

    def _queued(descriptor: int) -> int:
        # tcp(7), unix(7): SIOCOUTQ, what the peer has not acknowledged, or not read.
        size = fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(size, sys.byteorder)

    def _acked(descriptor: int) -> int | None:
        tcp_info = _option(descriptor, socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED.size)
        count: int = _ACKED.unpack(tcp_info)[0]
        return count

else:

    def _queued(descriptor: int) -> int:
        if sys.platform == "darwin":
            size = _option(descriptor, socket.SOL_SOCKET, _SO_NWRITE, 4)
            return int.from_bytes(size, sys.byteorder)
        else:
            return 0

    def _acked(descriptor: int) -> int | None:
        return None


_ACKED = struct.Struct("=120xQ")  # tcpi_bytes_acked in struct tcp_info, since Linux 4.1
_SO_NWRITE = 0x1024  # sys/socket.h of macOS: bytes in the send buffer


def backlog_on(descriptor: int, unsent: int) -> Backlog:
    """Return what waits for the peer of a connected socket, ``unsent`` in our process included.

    Where the system tells nothing, or the socket is gone, only ``unsent`` is known.
    """
    queued = 0
    with suppress(OSError, ValueError):
        queued = _queued(descriptor)
    if not (unsent or queued):
        return NOTHING_WAITS
    acked = None
    with suppress(OSError, struct.error):
        acked = _acked(descriptor)
    return Backlog(unsent, queued, acked)


def _option(descriptor: int, level: int, name: int, size: int) -> bytes:
    # On a duplicate: a socket object on the descriptor itself would close it at an interrupt.
    with socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM) as sock:
        return sock.getsockopt(level, name, size)
