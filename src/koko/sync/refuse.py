"""A client that is refused because the server is full: it gets a 503 once it has asked."""

from __future__ import annotations

import logging
import ssl as tls
from contextlib import suppress

from koko.errors import HandshakeError
from koko.http import Request
from koko.opening.head import RequestParser
from koko.serving import CLIENT, REFUSE_TIMEOUT, UNKNOWN, refusal_octets, server_full
from koko.sync.clients import Client
from koko.sync.clock import deadline_in
from koko.sync.logs import tell
from koko.sync.proxied import read_proxy_header
from koko.sync.tls import TLSStream
from koko.sync.transport import Stream, recv_by, write_by
from koko.upgrading import Upgrader, check_proxy


def refuse(
    client: Client,
    limit: int | None,
    upgrader: Upgrader,
    ssl: tls.SSLContext | None,
    proxy_protocol: bool,
    logger: logging.Logger,
) -> None:
    """Answer a client with 503 and hang up, all of it within ``REFUSE_TIMEOUT`` seconds."""
    stream: Stream = client.stream
    deadline = deadline_in(REFUSE_TIMEOUT)
    error, target = server_full(limit), UNKNOWN
    try:
        if proxy_protocol:
            check_proxy(upgrader, client.peer)
            client.pass_on(read_proxy_header(client.stream, deadline))
        if ssl is not None:
            stream = session = TLSStream(client.stream, ssl, server_side=True)
            session.handshake(deadline)
        if (request := _request(stream, upgrader.head_limit, deadline)) is not None:
            target = request.shown
            client.told = client.source_by(upgrader, request, ssl is not None).address
        write_by(stream, refusal_octets(error), deadline)
        stream.end()
        while recv_by(stream, deadline):
            pass  # closing with bytes unread would reset the stream
    except OSError:
        pass  # the client hung up, or the time was over
    finally:
        stream.close()
        tell(logger, logging.INFO, CLIENT, client.name, target, error)


def _request(stream: Stream, head_limit: int, deadline: float | None) -> Request | None:
    parser = RequestParser(head_limit)
    with suppress(HandshakeError):  # a bad request gets the same answer
        while octets := recv_by(stream, deadline):
            if (request := parser.feed(octets)) is not None:
                return request
    return None
