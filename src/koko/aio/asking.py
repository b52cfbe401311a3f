"""One request to a server or a proxy and its one response, on a transport that goes on after it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any, cast

from koko.aio.transport import attach, hasten
from koko.core.head import Request, Response, ResponseParser, write_request
from koko.dialing import check_session
from koko.errors import HandshakeError


async def ask_on(
    sock: socket.socket,
    parser: ResponseParser,
    context: ssl.SSLContext | None,
    name: str | None,
    farewell: float,
) -> Asking:
    """Begin on a connected socket; TLS first, if the peer must prove to be ``name``.

    ``farewell`` is how many seconds the end of TLS may take.

    Raises:
        OSError: TLS failed.
    """
    loop = asyncio.get_running_loop()
    secure = _secure(context, name, farewell)
    hasten(sock)
    # From here on the transport closes the socket, also when TLS fails.
    _, asking = await loop.create_connection(lambda: Asking(parser), sock=sock, **secure)
    return _checked(asking, asking.transport, name)


async def ask_through(
    tunnel: asyncio.Transport,
    parser: ResponseParser,
    context: ssl.SSLContext | None,
    name: str | None,
    farewell: float,
) -> Asking:
    """Begin at the far end of a tunnel, on which reading is paused; TLS first, as above."""
    asking = Asking(parser)
    inner = tunnel
    if name is None:
        tunnel.set_protocol(asking)
    else:
        loop, secure = asyncio.get_running_loop(), _secure(context, name, farewell)
        try:
            started = await loop.start_tls(tunnel, asking, secure.pop("ssl"), **secure)
        except TypeError as error:
            # CPython before 3.11.8 and 3.12.2 trips over TLS in TLS that fails (its gh-113214).
            raise error.__context__ or error from None
        assert started is not None
        inner = started
    asking.connection_made(inner)
    _checked(asking, inner, name)
    inner.resume_reading()
    return asking


def _secure(context: ssl.SSLContext | None, name: str | None, farewell: float) -> dict[str, Any]:
    if name is None:
        return {}
    return {
        "ssl": context or ssl.create_default_context(),
        "server_hostname": name,
        "ssl_shutdown_timeout": farewell,
    }


def _checked(asking: Asking, transport: asyncio.Transport, name: str | None) -> Asking:
    if name is not None:
        try:
            check_session(name, transport.get_extra_info("ssl_object"))
        except HandshakeError:
            asking.abort()
            raise
    return asking


async def ask_plainly(sock: socket.socket, parser: ResponseParser) -> Asking:
    """Begin on a connected socket that will not speak TLS."""
    return await attach(sock, Asking(parser))


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

    def abort(self) -> None:
        """Drop the connection; nobody waits for a response any more."""
        self._response.cancel()
        self.transport.abort()

    def begun(self) -> Response | None:
        """Return what came of a response that is not whole, None before the end of its head."""
        try:
            return self._parser.feed_eof()
        except HandshakeError:
            return None

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
