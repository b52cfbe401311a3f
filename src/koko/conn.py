"""What the ``Conn`` of both faces share and what never waits: properties, handlers, repr.

The verbs that wait stand in ``aio.conn`` and ``sync.conn``, in one class each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, Protocol

from koko.core.connection import Connection
from koko.http import Request, Response
from koko.opening.address import written

ControlHandler = Callable[..., object]


class HandlerCalls(Protocol):
    """How a face calls the handlers of control frames."""

    def check(self, name: str, handler: ControlHandler | None) -> None:
        """Raise if this face cannot call ``handler``."""

    def call(self, handler: ControlHandler, *args: object) -> None:
        """Call a handler that the application has set."""

    def answer_ping(self, payload: bytes) -> None:
        """Send the pong: the default handler of pings."""


@dataclass(eq=False, repr=False, match_args=False)
class BaseConn:
    """The part of a connection that never waits.

    It is a base class so that an application finds these properties on ``Conn``. It needs
    nothing of its subclasses: what differs between the faces is passed in.
    """

    _core: Connection
    _calls: HandlerCalls
    request: Request
    response: Response
    subprotocol: str | None
    local_address: Any
    remote_address: Any

    @property
    def ending(self) -> BaseException | None:
        """How the connection ended: a CloseError, or what a handler raised; None until then."""
        return self._core.ending

    @property
    def latency(self) -> float | None:
        """The last round trip of a ping, ours or the keepalive's, in seconds; None before one."""
        return self._core.latency

    @property
    def read_limit(self) -> int | None:
        """The most bytes of a message, on the wire and inflated; a larger one closes with 1009."""
        return self._core.read_limit

    @read_limit.setter
    def read_limit(self, limit: int | None) -> None:
        self._core.read_limit = limit

    @property
    def write_compression(self) -> bool:
        """Whether messages are compressed; it has no effect where compression was not agreed on."""
        return self._core.write_compression

    @write_compression.setter
    def write_compression(self, enabled: bool) -> None:
        self._core.write_compression = enabled

    # Handlers of control frames

    @property
    def ping_handler(self) -> ControlHandler:
        """A function that is called with the payload of each ping; the default sends the pong.

        It is a plain function, in ``koko.aio`` possibly a coroutine function; None restores
        the default. What a handler raises ends the connection with 1011 and is raised to the
        receiver.
        """
        return _given(self._core.on_ping) or self._calls.answer_ping

    @ping_handler.setter
    def ping_handler(self, handler: ControlHandler | None) -> None:
        self._core.on_ping = self._called("ping_handler", handler)

    @property
    def pong_handler(self) -> ControlHandler:
        """A function that is called with the payload of each pong; the default does nothing."""
        return _given(self._core.on_pong) or _ignore

    @pong_handler.setter
    def pong_handler(self, handler: ControlHandler | None) -> None:
        self._core.on_pong = self._called("pong_handler", handler)

    @property
    def close_handler(self) -> ControlHandler:
        """A function that is called with code and reason of the peer's Close, before our answer."""
        return _given(self._core.on_close) or _ignore

    @close_handler.setter
    def close_handler(self, handler: ControlHandler | None) -> None:
        self._core.on_close = self._called("close_handler", handler)

    def _called(self, name: str, handler: ControlHandler | None) -> partial[None] | None:
        self._calls.check(name, handler)
        return None if handler is None else partial(self._calls.call, handler)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a connection can be neither copied nor pickled")

    def __repr__(self) -> str:
        face = type(self).__module__.rpartition(".")[0]
        return f"<{face}.Conn {self._core.state.value} with {written(self.remote_address)}>"


def _given(called: Callable[..., object] | None) -> ControlHandler | None:
    """Return the handler that the application has set."""
    handler: ControlHandler | None = called.args[0] if isinstance(called, partial) else None
    return handler


def _ignore(*args: object) -> None:
    pass
