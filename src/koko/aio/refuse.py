"""A client that is refused because the server is full: it gets a 503 once it has asked."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from koko.aio.clients import Clients
from koko.aio.logs import tell
from koko.aio.transport import end_half
from koko.errors import HandshakeError
from koko.http import Request
from koko.opening.head import RequestParser
from koko.serving import CLIENT, REFUSE_TIMEOUT, UNKNOWN, refusal_octets, server_full


class Known(Protocol):
    """What is known of the client."""

    @property
    def name(self) -> str:
        """Its address, for the log."""

    def take_note(self, request: Request) -> None:
        """Note its request, and where that came from."""


class RefusedClient(asyncio.Protocol):
    """One TCP connection that is never served, and ends within ``REFUSE_TIMEOUT`` seconds."""

    def __init__(
        self,
        transport: asyncio.Transport,
        handshake: Known,
        clients: Clients,
        head_limit: int,
        logger: logging.Logger,
    ) -> None:
        self.transport = transport
        self._handshake = handshake
        self._clients = clients
        self._logger = logger
        self._error = server_full(clients.limit)
        self._parser = RequestParser(head_limit)
        self._answered = False
        self._timer = asyncio.get_running_loop().call_later(REFUSE_TIMEOUT, transport.abort)
        clients.refused.add(self)

    def data_received(self, data: bytes) -> None:
        if self._answered:
            return
        try:
            request = self._parser.feed(data)
            target = request.shown if request else None
            if request is not None:
                self._handshake.take_note(request)
        except HandshakeError:
            target = UNKNOWN  # a bad request gets the same answer
        if target is not None:
            self._tell(target)
            self.transport.write(refusal_octets(self._error))
            end_half(self.transport)  # closing the whole with bytes unread would reset the stream

    def connection_lost(self, error: Exception | None) -> None:
        if not self._answered:
            self._tell(UNKNOWN)
        self._timer.cancel()
        self._clients.refused.discard(self)

    def _tell(self, target: str) -> None:
        self._answered = True
        tell(self._logger, logging.INFO, CLIENT, self._handshake.name, target, self._error)
