"""Tells whether a peer has hung up while some of its bytes are still unread.

A server that slept, or was busy, finds requests whose clients have given up meanwhile: the
request and the end of the stream are both there. Each opening handshake checks once;
``aio/_native_poller.pyx`` has the same function, in C.
"""

from __future__ import annotations

import select

_END = getattr(select, "POLLRDHUP", 0)  # Linux; elsewhere only a broken connection is noticed


def has_hung_up(descriptor: int) -> bool:
    """Tell whether the peer of a stream socket will send no more, even if bytes are unread.

    A client that has ended its half is no WebSocket client: it could not answer a Close (§7.1.1).
    """
    return _has(descriptor, _END)


def was_reset(descriptor: int) -> bool:
    """Tell whether a connection is over in both directions, even if bytes are unread."""
    return _has(descriptor, 0)  # errors are always reported


def _has(descriptor: int, event: int) -> bool:
    if descriptor < 0 or not hasattr(select, "poll"):
        return False
    poller = select.poll()  # looked up now: gevent replaces it
    poller.register(descriptor, event)
    return bool(poller.poll(0))
