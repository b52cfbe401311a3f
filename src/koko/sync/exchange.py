"""The connection of one dial, from its socket to the driver of the open WebSocket."""

from __future__ import annotations

import logging
import socket
import ssl
from typing import Any

from koko.default_context import default_context
from koko.dial_steps import Connecting, Exchange, StartTLS
from koko.dialing import log
from koko.logs import tell
from koko.sync.tls import TLSStream
from koko.sync.transport import PlainStream, Stream, recv_by, write_by


class HttpExchange:
    """One TCP connection during its opening handshake: bytes out, an answer in, and TLS.

    The handshake must be over by the deadline.
    """

    def __init__(self, deadline: float | None) -> None:
        self._deadline = deadline
        self._stream: Stream | None = None  # None until it is connected

    @property
    def stream(self) -> Stream:
        assert self._stream is not None
        return self._stream

    def attach(self, step: Connecting, sock: socket.socket) -> None:
        """Take a connected socket, and close it if that fails."""
        try:
            tell(log, logging.DEBUG, "connected to %s port %d: %s", step.host, step.port, sock)
            self._stream = PlainStream(sock)
        except BaseException:
            sock.close()
            raise

    def start_tls(self, step: StartTLS) -> ssl.SSLObject:
        """Put TLS on the stream.

        Raises:
            OSError: TLS failed.
            TimeoutError: the TLS handshake did not finish in time.
        """
        context = step.context or default_context()
        session = TLSStream(self.stream, context, server_hostname=step.name)
        session.handshake(self._deadline)
        self._stream = session
        return session.session

    def ask(self, step: Exchange) -> Any:
        """Write the request and return the answer.

        Raises:
            HandshakeError: the answer was not HTTP, or was incomplete.
            TimeoutError: the answer was not complete in time.
            OSError: the connection broke first, or the proxy refused.
        """
        write_by(self.stream, step.octets, self._deadline)
        while True:
            octets = recv_by(self.stream, self._deadline)
            answer = step.reader.feed(octets) if octets else step.reader.feed_eof()
            if answer is not None:
                return answer

    def close(self) -> None:
        """Drop the connection."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
