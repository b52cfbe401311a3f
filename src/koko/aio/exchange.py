"""The connection of one dial, from its socket to the protocol of the open WebSocket."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from typing import Any, cast

from koko.aio.transport import attach, attach_to_the_loops
from koko.default_context import default_context, made_context
from koko.dial_steps import Connecting, Exchange, Reader, StartTLS
from koko.dialing import log
from koko.logs import tell

LONG = 86400.0  # seconds for TLS; None would mean a minute. The dial has its own deadline


class HttpExchange(asyncio.Protocol):
    """One TCP connection during its opening handshake: bytes out, an answer in, and TLS."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None  # None until it is connected
        self._reader: Reader | None = None
        self._answer: asyncio.Future[Any] | None = None  # of the running exchange
        self._early: list[bytes] = []  # what came while no answer was expected
        self._lost = False

    @property
    def transport(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    async def attach(self, step: Connecting, sock: socket.socket) -> None:
        """Take a connected socket, and close it if that fails."""
        tell(log, logging.DEBUG, "connected to %s port %d: %s", step.host, step.port, sock)
        await (attach_to_the_loops if step.for_tls else attach)(sock, self)

    async def start_tls(self, step: StartTLS, shutdown_timeout: float) -> ssl.SSLObject:
        """Put TLS on the transport; closing it may later take ``shutdown_timeout`` seconds.

        Not create_connection(ssl=...): if cancelled before its first byte it leaks the socket.

        Raises:
            OSError: TLS failed.
        """
        try:
            inner = await asyncio.get_running_loop().start_tls(
                self.transport,
                self,
                step.context or await _default_context(),
                server_hostname=step.name,
                ssl_handshake_timeout=LONG,
                ssl_shutdown_timeout=shutdown_timeout,
            )
        except TypeError as error:
            # CPython before 3.11.8 and 3.12.2 hides why TLS inside TLS failed (its gh-113214).
            raise error.__context__ or error from None
        assert inner is not None
        self.connection_made(inner)
        session: ssl.SSLObject = inner.get_extra_info("ssl_object")
        return session

    async def ask(self, step: Exchange) -> Any:
        """Write the request and return the answer; reading is paused after it.

        Raises:
            HandshakeError: the answer was not HTTP, or was incomplete.
            OSError: the connection broke first, or the proxy refused.
        """
        self._reader = step.reader
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(step.octets)
        early, self._early = self._early, []
        for octets in early:
            self.data_received(octets)
        if self._lost:
            self.connection_lost(None)
        elif not self._answer.done():
            self.transport.resume_reading()
        return await self._answer

    def abort(self) -> None:
        """Drop the connection."""
        if self._answer is not None:
            self._answer.cancel()
        if self._transport is not None:
            self._transport.abort()

    def hand_over(self, protocol: asyncio.Protocol, early: bytes) -> None:
        """Give the transport, and what came after the answer, to the connection's protocol."""
        self.transport.set_protocol(protocol)
        self.transport.resume_reading()  # the loop reads the socket after this call returns
        if octets := b"".join((early, *self._early)):
            protocol.data_received(octets)
        if self._lost:
            protocol.connection_lost(None)

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self._early.append(data)
            return
        assert self._reader is not None
        try:
            answer = self._reader.feed(data)
        except Exception as error:
            self._answer.set_exception(error)
            return
        if answer is not None:
            self.transport.pause_reading()
            self._answer.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = True
        if self._answer is None or self._answer.done():
            return
        assert self._reader is not None
        try:
            self._answer.set_result(self._reader.feed_eof())
        except Exception as failure:
            self._answer.set_exception(error or failure)


async def _default_context() -> ssl.SSLContext:
    if (made := made_context()) is not None:
        return made
    # In a thread: it takes 40 ms, during which the loop can serve others.
    try:
        return await asyncio.get_running_loop().run_in_executor(None, default_context)
    except RuntimeError:  # the system has no thread for it
        return default_context()
