"""The protocols of a connection that an ASGI application has accepted."""

from __future__ import annotations

from collections.abc import Callable

from koko.aio.protocol import ConnProtocol
from koko.aio.transport import close
from koko.core import lifecycle
from koko.core.codec import Encoder
from koko.core.control import close_payload, shorten
from koko.core.wire import CLOSE_CODES, Opcode, Role
from koko.errors import Close, CloseError

NO_STATUS = 1005  # the peer's Close has no code


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


class EventPath(Path):
    """A ``Path`` over an ``EventTransport``, which says how the server reports the end."""

    __slots__ = ()

    def disconnected(self, code: int, reason: str) -> None:
        """End the connection as the server says that the peer has; nothing can be sent any more.

        Who says 1005 or a code that may stand in a Close has heard one. After our own Close
        nobody can tell whether the code is that of the peer's answer, or the server's idea.
        """
        core = self.core
        closed = code == NO_STATUS or code in CLOSE_CODES
        if closed and core.sent is None:
            return self._closed_by_peer(Close(code, shorten(reason)))
        said = f"the server reports {code}" + (f" {reason!r}" if reason else "")
        if closed and core.ending is None:
            core.life.end_with(CloseError(code, said, sent=core.sent))
        self.abort(said)

    def _closed_by_peer(self, close: Close) -> None:
        if close.code == NO_STATUS:
            close = Close(NO_STATUS, "")
        self.data_received(Encoder(Role.CLIENT).encode(Opcode.CLOSE, close_payload(close)))
        if self.core.state is lifecycle.CLOSE_HELD:  # no answer of our reader can reach the peer
            self.core.start_close(close.code, "", self.now())
            self.say_goodbye()
