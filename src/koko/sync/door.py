"""The client for whom there is no place: it is told so, once it has asked."""

from __future__ import annotations

import logging
import ssl as tls
from contextlib import suppress

from koko.errors import HandshakeError
from koko.opening.head import RequestParser
from koko.places import TELLING, no_place
from koko.serving import CLIENT, UNKNOWN
from koko.sync.clock import deadline_in
from koko.sync.tls import TLSStream
from koko.sync.transport import PlainStream, Stream, recv_by, write_by
from koko.sync.upgrade import complain


def turn_away(
    plain: PlainStream,
    peer: str,
    ssl: tls.SSLContext | None,
    limit: int | None,
    head_limit: int,
    logger: logging.Logger,
) -> None:
    """Answer a client with 503 and hang up, all of it within ``TELLING`` seconds.

    ``peer`` is its address, for the log.
    """
    stream: Stream = plain
    deadline = deadline_in(TELLING)
    error, answer = no_place(limit)
    target = UNKNOWN
    try:
        if ssl is not None:
            stream = session = TLSStream(plain, ssl, server_side=True)
            session.handshake(deadline)
        target = _target(stream, head_limit, deadline)
        write_by(stream, answer, deadline)
        stream.end()
        while recv_by(stream, deadline):
            pass  # closing with bytes unread would reset the stream
    except OSError:
        pass  # it hung up, or had its time
    finally:
        stream.close()
        complain(logger, CLIENT, peer, target, error, level=logging.INFO)


def _target(stream: Stream, head_limit: int, deadline: float | None) -> str:
    parser = RequestParser(head_limit)
    with suppress(HandshakeError):  # whatever it wanted, there is no place for it
        while octets := recv_by(stream, deadline):
            if (request := parser.feed(octets)) is not None:
                return request.shown
    return UNKNOWN
