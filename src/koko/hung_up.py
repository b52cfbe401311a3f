"""Whether a peer has hung up already, though its bytes are still to be read.

A server that slept, or was busy, finds requests whose clients gave up meanwhile: the request
and the end of the stream have come together. Asked once for each opening handshake.
"""

from __future__ import annotations

import select

_END = getattr(select, "POLLRDHUP", 0)  # Linux; elsewhere only a connection that is gone is told


def has_hung_up(descriptor: int) -> bool:
    """Tell whether the peer of a stream socket will send no more, whatever is still unread.

    A WebSocket client that ends its half is none: it could not answer a Close (RFC 6455 §7.1.1).
    """
    if descriptor < 0 or not hasattr(select, "poll"):
        return False
    poller = select.poll()  # looked up now: gevent replaces it
    poller.register(descriptor, _END)
    return bool(poller.poll(0))
