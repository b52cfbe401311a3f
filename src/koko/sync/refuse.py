"""A client that is refused because the server is full: it gets a 503 once it has asked."""

from __future__ import annotations

import logging
import ssl as tls
from contextlib import suppress

from koko.errors import HandshakeError
from koko.opening.head import RequestParser
from koko.serving import CLIENT, REFUSE_TIMEOUT, UNKNOWN, refusal_octets, server_full
from koko.sync.clock import deadline_in
from koko.sync.logs import tell
from koko.sync.tls import TLSStream
from koko.sync.transport import PlainStream, Stream, recv_by, write_by


def refuse(
    plain: PlainStream,
    peer: str,
    ssl: tls.SSLContext | None,
    limit: int | None,
    head_limit: int,
    logger: logging.Logger,
) -> None:
    """Answer a client with 503 and hang up, all of it within ``REFUSE_TIMEOUT`` seconds.

    ``peer`` is its address, for the log.
    """
    stream: Stream = plain
    deadline = deadline_in(REFUSE_TIMEOUT)
    error, target = server_full(limit), UNKNOWN
    try:
        if ssl is not None:
            stream = session = TLSStream(plain, ssl, server_side=True)
            session.handshake(deadline)
        target = _target(stream, head_limit, deadline)
        write_by(stream, refusal_octets(error), deadline)
        stream.end()
        while recv_by(stream, deadline):
            pass  # closing with bytes unread would reset the stream
    except OSError:
        pass  # the client hung up, or the time was over
    finally:
        stream.close()
        tell(logger, logging.INFO, CLIENT, peer, target, error)


def _target(stream: Stream, head_limit: int, deadline: float | None) -> str:
    parser = RequestParser(head_limit)
    with suppress(HandshakeError):  # a bad request gets the same answer
        while octets := recv_by(stream, deadline):
            if (request := parser.feed(octets)) is not None:
                return request.shown
    return UNKNOWN
