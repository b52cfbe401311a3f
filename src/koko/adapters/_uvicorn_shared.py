"""What the connections of one server of uvicorn's share: options, timers, a fork."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary, ref

from koko.adapters._asgi_scope import text_of
from koko.aio.forking import keep
from koko.aio.tasks import clock_of
from koko.aio.timers import TimerWheel
from koko.core.deflate import Compression
from koko.upgrading import Upgrader


class Options(Protocol):
    """Options that uvicorn does not have."""

    compression: Compression
    origins: Sequence[str]


class Shared:
    """What they share."""

    def __init__(self, upgrader: Upgrader, server_state: Any) -> None:
        loop = asyncio.get_running_loop()
        self.upgrader = upgrader
        self.timers = TimerWheel(loop)
        self.now = clock_of(loop)
        self._server_state = ref(server_state)
        self._bytes: Any = None
        self._text: list[tuple[str, str]] = []
        keep(self)

    def text_of(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
        """Return uvicorn's default headers as text: it has another list each second."""
        if headers is not self._bytes:
            self._bytes, self._text = headers, text_of(headers)
        return self._text

    def _disown(self) -> None:
        server_state = self._server_state()
        connections: Collection[Any] = () if server_state is None else server_state.connections
        for connection in connections:
            if hasattr(connection, "disown"):  # HTTP is uvicorn's own
                connection.disown()


_shared: WeakKeyDictionary[Any, Shared] = WeakKeyDictionary()  # by uvicorn's server_state


def shared_by(server_state: Any, options: Options, config: Any) -> Shared:
    """Return what all connections of a server share; the first one makes it."""
    shared = _shared.get(server_state)
    if shared is None:
        shared = _shared[server_state] = Shared(upgrader(options, config), server_state)
    return shared


def check_options(compression: Compression, origins: Sequence[str]) -> None:
    """Raise for options that no handshake could use: when they are written, not for each client."""
    Upgrader(compression=compression, origins=origins)


def upgrader(options: Options, config: Any) -> Upgrader:
    """Return uvicorn's options and those of ours that go with them."""
    return Upgrader(
        read_limit=_limit(config.ws_max_size),
        ping_interval=_limit(config.ws_ping_interval),
        ping_timeout=_limit(config.ws_ping_timeout),
        compression=options.compression if config.ws_per_message_deflate else False,
        origins=list(options.origins),
    )


def _limit(value: Any) -> Any:
    """Return a limit of uvicorn's, None where there is none: of 0 and below, infinity and nan.

    uvicorn lets all of these pass, and a client that is the first to meet one can mend nothing.
    """
    return value if value is not None and 0 < value < math.inf else None
