"""Control frames, for asyncio: the verbs of a ``Conn`` for pings, pongs and Closes.

They do not wait for a message that is being written: they may stand between its fragments.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from functools import partial

from koko.aio.general_path import GeneralPath
from koko.aio.tasks import not_ours
from koko.aio.waiting import TOO_SLOW, within
from koko.core.connection import Connection, Ping
from koko.message import Kind

Handler = Callable[..., Awaitable[object] | object]


class ControlVerbs:
    """The verbs of a ``Conn`` for control frames, and who is called when one comes."""

    _protocol: GeneralPath
    _core: Connection

    async def write_control(
        self, kind: int, data: bytes = b"", deadline: float | None = None
    ) -> None:
        """Send a ping, a pong or a Close of at most 125 bytes, ahead of waiting messages.

        A Close sent so is not waited for; see ``close``. ``deadline`` is a time of the
        loop's clock up to which to wait for a peer that reads too slowly; without one the
        frame is left to be written when it can be.

        Raises:
            ValueError: the payload may not stand in such a frame.
            ErrCloseSent: a Close was sent already.
            TimeoutError: the deadline passed first; nothing was sent.
        """
        if deadline is not None:
            left = deadline - self._protocol.now()
            if left <= 0:
                raise TimeoutError("the deadline had passed before the frame was written")
            await within(left, TOO_SLOW, self._protocol.writable())
        self._write_control(kind, data)

    async def ping(self, data: bytes | None = None, timeout: float | None = None) -> float:
        """Send a ping, wait for its pong and return the round trip in seconds.

        ``data`` is the ping's payload, at most 125 bytes; random without it. A pong
        answers every ping before it as well.

        Raises:
            CloseError: the connection ended first.
            TimeoutError: no pong came within ``timeout`` seconds; the connection is unharmed.
            ValueError: a ping with this payload is still without its pong.
        """
        protocol = self._protocol
        ping = self._core.start_ping(data, protocol.now())
        ping.on_pong = protocol.release_waiters
        protocol.flush()
        return await within(timeout, "no pong came", self._pong_of(ping))

    async def _pong_of(self, ping: Ping) -> float:
        while ping.round_trip is None:
            if self._core.ending is not None:
                raise self._core.ending
            await self._protocol.wait_for_change()
        return ping.round_trip

    async def pong(self, data: bytes = b"") -> None:
        """Send a pong that answers nothing, as a heartbeat (§5.5.3)."""
        self._write_control(Kind.PONG, data)

    @property
    def latency(self) -> float | None:
        """Seconds the last answered ping took, the keepalive's included; None before the first."""
        return self._core.latency

    @property
    def ping_handler(self) -> Handler:
        """What is called with a ping's payload as it arrives; the default answers it.

        A plain function or a coroutine function; None restores the default. What it
        raises ends the connection with 1011 and is raised to the receiver.
        """
        return self._handler(self._core.on_ping, self._answer_ping)

    @ping_handler.setter
    def ping_handler(self, handler: Handler | None) -> None:
        self._core.on_ping = self._handled(handler)

    @property
    def pong_handler(self) -> Handler:
        """What is called with a pong's payload as it arrives; the default does nothing."""
        return self._handler(self._core.on_pong, _ignore)

    @pong_handler.setter
    def pong_handler(self, handler: Handler | None) -> None:
        self._core.on_pong = self._handled(handler)

    @property
    def close_handler(self) -> Handler:
        """What is called with the code and reason of the peer's Close, before it is answered."""
        return self._handler(self._core.on_close, _ignore)

    @close_handler.setter
    def close_handler(self, handler: Handler | None) -> None:
        self._core.on_close = self._handled(handler)

    def _handled(self, handler: Handler | None) -> Callable[..., object] | None:
        return None if handler is None else partial(self._call_handler, handler)

    def _handler(self, handled: Callable[..., object] | None, default: Handler) -> Handler:
        return handled.args[0] if isinstance(handled, partial) else default

    def _call_handler(self, handler: Handler, *args: object) -> None:
        try:
            result = handler(*args)
        except asyncio.CancelledError as error:  # of a future that it looked at
            raise not_ours(error) from error
        if inspect.isawaitable(result):
            self._protocol.run(result)

    def _answer_ping(self, payload: bytes) -> None:
        self._write_control(Kind.PONG, payload)

    def _write_control(self, kind: int, payload: bytes) -> None:
        self._core.write_control(kind, payload, self._protocol.now())
        self._protocol.flush()
        self._protocol.apply_stream_action()


def _ignore(*args: object) -> None:
    pass
