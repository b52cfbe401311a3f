"""The client for whom there is no place: it is told so, once it has asked."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from koko.aio.logs import tell
from koko.aio.transport import end_half
from koko.errors import HandshakeError
from koko.opening.head import RequestParser
from koko.places import TELLING, no_place
from koko.serving import CLIENT, UNKNOWN

if TYPE_CHECKING:
    from koko.aio.serve import Server


class Door(asyncio.Protocol):
    """One TCP connection that will never be served."""

    def __init__(self, server: Server, transport: asyncio.Transport, peer: str) -> None:
        self._server = server
        self._peer = peer
        self.transport = transport
        self._parser = RequestParser(server.upgrader.head_limit)
        self._answered = False
        self._timer = asyncio.get_running_loop().call_later(TELLING, transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._answered:
            return
        try:
            request = self._parser.feed(data)
            target = request.shown if request else None
        except HandshakeError:
            target = UNKNOWN  # whatever it wanted, there is no place for it
        if target is None:
            return
        self._answered = True
        self.transport.write(self._refuse(target))
        end_half(self.transport)  # not the whole: what is unread would reset the stream

    def _refuse(self, target: str) -> bytes:
        error, answer = no_place(self._server.max_connections)
        tell(self._server.logger, logging.INFO, CLIENT, self._peer, target, error)
        return answer

    def connection_lost(self, error: Exception | None) -> None:
        if not self._answered:
            self._refuse(UNKNOWN)
        self._timer.cancel()
        self._server._doors.discard(self)
