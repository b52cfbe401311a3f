"""The protocol of a connection that an ASGI application has accepted."""

from __future__ import annotations

from collections.abc import Callable

from koko.aio.protocol import ConnProtocol
from koko.aio.transport import close
from koko.core import lifecycle


class Path(ConnProtocol):
    """A ``ConnProtocol`` that tells of its end, and can be ended without a Close."""

    __slots__ = ("on_lost",)

    on_lost: Callable[[], object] | None  # called once, when the transport is gone

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        on_lost, self.on_lost = self.on_lost, None  # it holds what holds us
        if on_lost is not None:
            on_lost()

    def start_close(self, code: int, reason: str) -> None:
        """Send a Close; the peer has ``close_timeout`` to answer it, none of 0."""
        self.core.start_close(code, reason, self.now())
        self.say_goodbye()
        if not self.core.close_timeout:
            close(self.transport)

    def drop(self, why: str) -> None:
        """End the stream without a Close; what was sent before has a bounded time to leave."""
        self.flush()
        self._end(why)
        close(self.transport)
        if not self.lost:
            self._timer_slot = self._timers.set(self.now() + self.core.close_timeout, self)

    @property
    def awaits_close(self) -> bool:
        """True while our Close has no answer."""
        return self.core.life.state is lifecycle.CLOSING
