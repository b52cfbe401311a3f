"""One request to a server or a proxy and its one response, on a transport that goes on after it."""

from __future__ import annotations

import asyncio
from typing import cast

from koko.core.head import Request, Response, ResponseParser, write_request
from koko.errors import HandshakeError


class Asking(asyncio.Protocol):
    """One TCP connection while its handshake is not over."""

    transport: asyncio.Transport

    def __init__(self, parser: ResponseParser) -> None:
        self._parser = parser
        self._response: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._early: list[bytes] = []
        self._lost = False

    async def ask(self, request: Request) -> Response:
        """Send the request and return the response; reading is paused behind it.

        Raises:
            HandshakeError: the answer was not HTTP, or was not whole.
            OSError: the connection broke first.
        """
        self.transport.write(write_request(request))
        return await self._response

    @property
    def early(self) -> bytes:
        """What came behind the response."""
        return b"".join(self._early)

    def hand_over(self, protocol: asyncio.Protocol) -> None:
        """Give the transport, and what came early, to the one who goes on."""
        self.transport.set_protocol(protocol)
        self.transport.resume_reading()  # what is in the socket comes after this call
        if self._early:
            protocol.data_received(self.early)
        if self._lost:
            protocol.connection_lost(None)

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        if self._response.done():
            self._early.append(data)
            return
        try:
            response = self._parser.feed(data)
        except HandshakeError as error:
            self._response.set_exception(error)
            return
        if response is not None:
            self.transport.pause_reading()
            if self._parser.rest:
                self._early.append(self._parser.rest)
            self._response.set_result(response)

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        if self._response.done():
            return
        try:
            self._response.set_result(self._parser.feed_eof())
        except HandshakeError as failure:
            self._response.set_exception(error or failure)
