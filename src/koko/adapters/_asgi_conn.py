"""A ``Conn`` inside an ASGI server: what only the server decides is an error here, at once.

The table ``SERVERS`` says for each of these things where the servers have it.
"""

from __future__ import annotations

from typing import NoReturn

from koko.aio.conn import Conn
from koko.aio.upgrade import Upgrader
from koko.conn import ControlHandler
from koko.message import Kind

PINGS = (
    "pings are the server's: uvicorn --ws-ping-interval and --ws-ping-timeout, hypercorn "
    "websocket_ping_interval, daphne --ping-interval and --ping-timeout; "
    "uvicorn --ws koko.uvicorn:Protocol gives the application its own"
)
COMPRESSION = (
    "compression is the server's: uvicorn --ws-per-message-deflate, and KOKO_COMPRESSION_LEVEL "
    "for --ws koko.uvicorn:Protocol; hypercorn always agrees to it"
)
SERVERS = {
    "ping_interval": PINGS,
    "ping_timeout": PINGS,
    "compression": COMPRESSION,
    "head_limit": (
        "the server has read the head: uvicorn --h11-max-incomplete-event-size, "
        "hypercorn h11_max_incomplete_size, gunicorn --limit-request-field_size"
    ),
    "handshake_timeout": (
        "the server waits for the head: KOKO_HANDSHAKE_TIMEOUT of uvicorn --ws "
        "koko.uvicorn:Protocol, daphne --websocket_connect_timeout, gunicorn --timeout"
    ),
    "write_buffer_size": "ASGI sends whole messages: parts are put together first",
}


def check_options(call: str, upgrader: Upgrader) -> None:
    """Raise for an option that an ASGI server decides and that is not left as it was."""
    for name, sentence in SERVERS.items():
        given = getattr(upgrader, name)
        if given != getattr(Upgrader, name):
            raise ValueError(f"{call} got an upgrader with {name}={given!r}; {sentence}")


class AsgiConn(Conn):
    """One end of an open WebSocket whose frames another server writes."""

    async def write_control(
        self, kind: int, data: bytes = b"", deadline: float | None = None
    ) -> None:
        if kind in (Kind.PING, Kind.PONG):
            _refuse("write_control(PING) and (PONG)", PINGS)
        await super().write_control(kind, data, deadline)

    async def ping(self, data: bytes | None = None, timeout: float | None = None) -> float:
        _refuse("ping()", PINGS)

    async def pong(self, data: bytes = b"") -> None:
        _refuse("pong()", PINGS)

    # What can be read is what is known: no round trip, no level.

    @property
    def ping_handler(self) -> ControlHandler:
        return super().ping_handler

    @ping_handler.setter
    def ping_handler(self, handler: ControlHandler | None) -> None:
        _refuse("ping_handler", PINGS)

    @property
    def pong_handler(self) -> ControlHandler:
        return super().pong_handler

    @pong_handler.setter
    def pong_handler(self, handler: ControlHandler | None) -> None:
        _refuse("pong_handler", PINGS)

    @property
    def compression_level(self) -> int | None:
        return super().compression_level

    @compression_level.setter
    def compression_level(self, level: int) -> None:
        _refuse("compression_level", COMPRESSION)

    @property
    def write_compression(self) -> bool:
        return super().write_compression

    @write_compression.setter
    def write_compression(self, enabled: bool) -> None:
        _refuse("write_compression", COMPRESSION)


def _refuse(what: str, sentence: str) -> NoReturn:
    raise NotImplementedError(f"{what}: {sentence}")
