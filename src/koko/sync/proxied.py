"""Reads the PROXY header of an accepted connection, and no byte behind it."""

from __future__ import annotations

import socket

from koko.opening.proxy_protocol import LIMIT, ProxyHeader, ProxyHeaderError, ProxyHeaderParser
from koko.serving import HUNG_UP
from koko.sync.clock import time_left
from koko.sync.transport import READ, PlainStream


def read_proxy_header(stream: PlainStream, deadline: float | None) -> ProxyHeader:
    """Read what a proxy says of the connection, all of it before the deadline.

    Raises:
        ProxyHeaderError: it says nothing, or nothing that may be said.
        TimeoutError: it was not whole in time.
    """
    parser, sock = ProxyHeaderParser(), stream.socket
    while parser.header is None:
        left = time_left(deadline)
        if left == 0 or not stream.wait(READ, left):
            raise TimeoutError("the PROXY header was not whole in time")
        if not (octets := sock.recv(LIMIT, socket.MSG_PEEK)):
            raise ProxyHeaderError(HUNG_UP, "")
        sock.recv(parser.feed(octets))  # what follows stays for TLS, or for who reads the request
    return parser.header
