"""Control frames, for threads: the verbs of a ``Conn`` for pings, pongs and Closes.

They do not wait for a message that is being written: they may stand between its fragments.
"""

from __future__ import annotations

from collections.abc import Callable

from koko.core.connection import Connection
from koko.message import Kind
from koko.misuse import refuse_async
from koko.sync.driver import Driver

Handler = Callable[..., object]


class ControlVerbs:
    """The verbs of a ``Conn`` for control frames, and who is called when one comes."""

    _driver: Driver
    _core: Connection

    def write_control(self, kind: int, data: bytes = b"", deadline: float | None = None) -> None:
        """Send a ping, a pong or a Close of at most 125 bytes.

        A Close sent so is not waited for; see ``close``. ``deadline`` is a time of
        ``time.monotonic`` up to which to wait for a peer that reads too slowly; without
        one the frame is left to be written when it can be.

        Raises:
            ValueError: the payload may not stand in such a frame.
            ErrCloseSent: a Close was sent already.
            TimeoutError: the deadline passed first; nothing was sent.
        """
        core, driver = self._core, self._driver
        if deadline is None:
            driver.writer.owe(core.write_control, kind, data, driver.clock.now())
            return
        now = driver.clock.now()
        if deadline <= now:
            raise TimeoutError("the deadline had passed before the frame was written")
        driver.writer.write_between(deadline, core.write_control, kind, data, now)

    def ping(self, data: bytes | None = None, timeout: float | None = None) -> float:
        """Send a ping, wait for its pong and return the round trip in seconds.

        ``data`` is the ping's payload, at most 125 bytes; random without it. A pong
        answers every ping before it as well. Messages that arrive meanwhile are kept for
        ``recv``; once more than 64 KiB of them wait, the pong behind them cannot be seen
        until somebody receives.

        Raises:
            CloseError: the connection ended first.
            TimeoutError: no pong came within ``timeout`` seconds; the connection is unharmed.
        """
        return self._driver.ping(data, timeout)

    def pong(self, data: bytes = b"") -> None:
        """Send a pong that answers nothing, as a heartbeat (§5.5.3)."""
        self.write_control(Kind.PONG, data)

    @property
    def latency(self) -> float | None:
        """Seconds the last answered ping took, the keepalive's included; None before the first."""
        return self._core.latency

    @property
    def ping_handler(self) -> Handler:
        """What is called with a ping's payload as it arrives; the default answers it.

        None restores the default. What a handler raises ends the connection with 1011 and
        is raised to the receiver.
        """
        return self._core.on_ping or self.pong

    @ping_handler.setter
    def ping_handler(self, handler: Handler | None) -> None:
        refuse_async("a Conn of koko.sync", "ping_handler", handler)
        self._core.on_ping = handler

    @property
    def pong_handler(self) -> Handler:
        """What is called with a pong's payload as it arrives; the default does nothing."""
        return self._core.on_pong or _ignore

    @pong_handler.setter
    def pong_handler(self, handler: Handler | None) -> None:
        refuse_async("a Conn of koko.sync", "pong_handler", handler)
        self._core.on_pong = handler

    @property
    def close_handler(self) -> Handler:
        """What is called with the code and reason of the peer's Close, before it is answered."""
        return self._core.on_close or _ignore

    @close_handler.setter
    def close_handler(self, handler: Handler | None) -> None:
        refuse_async("a Conn of koko.sync", "close_handler", handler)
        self._core.on_close = handler


def _ignore(*args: object) -> None:
    pass
