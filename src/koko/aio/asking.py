"""One request to a server or a proxy and its one response, on a transport that goes on after it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import cast

from koko.aio.transport import attach, attach_to_the_loops
from koko.dial_progress import Progress
from koko.dialing import check_session
from koko.errors import HandshakeError
from koko.http import Request, Response
from koko.opening.head import ResponseParser, write_request

LONG = (
    86400.0  # where others would take None for a minute: the time of the whole dial is kept outside
)


async def ask_on(
    sock: socket.socket,
    parser: ResponseParser,
    context: ssl.SSLContext | None,
    name: str | None,
    farewell: float,
    progress: Progress,
) -> Asking:
    """Begin on a connected socket; TLS first, if the peer must prove to be ``name``.

    ``farewell`` is how many seconds the end of TLS may take.

    Raises:
        OSError: TLS failed.
    """
    asking = await attach_to_the_loops(sock, Asking(parser))
    return await _secured(asking, context, name, farewell, progress)


async def ask_through(
    tunnel: asyncio.Transport,
    parser: ResponseParser,
    context: ssl.SSLContext | None,
    name: str | None,
    farewell: float,
    progress: Progress,
) -> Asking:
    """Begin at the far end of a tunnel, on which reading is paused; TLS first, as above."""
    asking = Asking(parser)
    asking.connection_made(tunnel)
    if name is None:
        tunnel.set_protocol(asking)
    await _secured(asking, context, name, farewell, progress)
    asking.transport.resume_reading()
    return asking


async def _secured(
    asking: Asking,
    context: ssl.SSLContext | None,
    name: str | None,
    farewell: float,
    progress: Progress,
) -> Asking:
    """Put TLS on the transport, if the peer must prove to be ``name``; where it fails, drop it.

    Not create_connection(ssl=...): cancelled before its first byte, asyncio's forgets the socket.
    """
    if name is None:
        return asking
    progress.secure(name)
    try:
        inner = await asyncio.get_running_loop().start_tls(
            asking.transport,
            asking,
            context or ssl.create_default_context(),
            server_hostname=name,
            ssl_handshake_timeout=LONG,
            ssl_shutdown_timeout=farewell,
        )
        assert inner is not None
        asking.connection_made(inner)
        check_session(name, inner.get_extra_info("ssl_object"))
    except BaseException as error:
        asking.abort()
        # CPython before 3.11.8 and 3.12.2 trips over TLS in TLS that fails (its gh-113214).
        if isinstance(error, TypeError) and error.__context__ is not None:
            raise error.__context__ from None
        raise
    return asking


async def ask_plainly(sock: socket.socket, parser: ResponseParser) -> Asking:
    """Begin on a connected socket that will not speak TLS."""
    return await attach(sock, Asking(parser))


class Asking(asyncio.Protocol):
    """One TCP connection while its handshake is not over."""

    transport: asyncio.Transport

    def __init__(self, parser: ResponseParser) -> None:
        self.parser = parser
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
            return self.parser.feed_eof()
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
            response = self.parser.feed(data)
        except HandshakeError as error:
            self._response.set_exception(error)
            return
        if response is not None:
            self.transport.pause_reading()
            if self.parser.rest:
                self._early.append(self.parser.rest)
            self._response.set_result(response)

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        if self._response.done():
            return
        try:
            self._response.set_result(self.parser.feed_eof())
        except HandshakeError as failure:
            self._response.set_exception(error or failure)
