"""Whether a peer has hung up already, though its bytes are still to be read.

A server that slept, or was busy, finds requests whose clients gave up meanwhile: the request
and the end of the stream have come together. Asked once for each opening handshake;
``aio/_native_poller.pyx`` has the same function, in C.
"""

from __future__ import annotations

import select

_END = getattr(select, "POLLRDHUP", 0)  # Linux; elsewhere only a broken connection is noticed


def has_hung_up(descriptor: int) -> bool:
    """Tell whether the peer of a stream socket will send no more, whatever is still unread.

    A client that has ended its half is no WebSocket client: it could not answer a Close (§7.1.1).
    """
    if descriptor < 0 or not hasattr(select, "poll"):
        return False
    poller = select.poll()  # looked up now: gevent replaces it
    poller.register(descriptor, _END)
    return bool(poller.poll(0))
