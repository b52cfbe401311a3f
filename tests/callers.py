"""Clients that are not accepted: TLS does not come about, or the system has nothing for them.

And what a server says of each.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import struct
from dataclasses import dataclass
from typing import Any, ClassVar


def client_hello(newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    """Return the first bytes of a client that speaks no TLS newer than that."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.maximum_version = newest
    outgoing = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake with nobody")


@dataclass
class Caller:
    name: str
    octets: bytes
    end: str  # how it ends: "closes", "resets" or "waits"
    told: str

    @property
    def timeout(self) -> float:
        """How many seconds a server gives it for its handshake."""
        return TIMEOUT if self.end == "waits" else 10.0

    def calls(self, address: tuple[str, int]) -> tuple[socket.socket, str]:
        """Do it; return the socket, and its address as a log has it."""
        sock = socket.create_connection(address)
        host, port = sock.getsockname()
        sock.sendall(self.octets)
        if self.end == "resets":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if self.end != "waits":
            sock.close()
        return sock, f"{host}:{port}"


TIMEOUT = 0.1  # seconds that are over before those that wait have said all
HELLO = client_hello()
HUNG_UP = "TLS failed: the client hung up"

CALLERS = [
    Caller("health probe", b"", "closes", HUNG_UP),
    Caller("half a hello", HELLO[:50], "closes", HUNG_UP),
    Caller("a hello, no more", HELLO, "closes", HUNG_UP),
    Caller("plain HTTP", b"GET / HTTP/1.1\r\n\r\n", "closes", "TLS failed: HTTP_REQUEST"),
    Caller(
        "old TLS",
        client_hello(ssl.TLSVersion.TLSv1_2),
        "closes",
        "TLS failed: UNSUPPORTED_PROTOCOL",
    ),
    Caller("reset at once", b"", "resets", HUNG_UP),
    Caller("reset in TLS", HELLO, "resets", HUNG_UP),
    Caller("silent", b"", "waits", f"the request was not whole within {TIMEOUT} s"),
    Caller("too slow", HELLO[:50], "waits", f"the request was not whole within {TIMEOUT} s"),
]


def strict(context: ssl.SSLContext) -> ssl.SSLContext:
    """Return a server's context that takes none of them."""
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


SPENT = [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM]


class Failing(socket.socket):
    """A listening socket whose next calls of accept fail."""

    errors: ClassVar[list[int]] = []

    def accept(self) -> Any:
        if self.errors:
            number = self.errors.pop(0)
            raise OSError(number, os.strerror(number))
        return super().accept()
