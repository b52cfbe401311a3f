"""What follows from the peer's control frames: a pong, the answer to a Close, a handler's call.

``lifecycle`` says what an end leads to; here it is done. Closes are owed here, and the
application's handlers are called here. Whatever a handler raises ends the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from koko.core.codec import Inbox
from koko.core.control import close_payload, parse_close
from koko.core.lifecycle import CLOSE_DUE, MAY_SEND, Lifecycle, answer_to
from koko.core.outbox import Outbox
from koko.core.pings import Pings
from koko.core.wire import Control, Opcode
from koko.errors import Close, ProtocolError

# Not looked up each time: see ``lifecycle``.
CLOSE, PING, PONG = Opcode.CLOSE, Opcode.PING, Opcode.PONG
HEARD = {CLOSE: "a close", PING: "a ping", PONG: "a pong"}


class Responder:
    """Answers the peer's control frames.

    Attributes:
        now: the time, as last told.
        pings: those on their way.
        on_ping, on_pong: stand in for the default; called while bytes are fed.
        on_close: called when the peer's Close takes effect. The answer follows, unless a
            Close of ours was sent before or by the handler itself.
    """

    __slots__ = ("_inbox", "_life", "_outbox", "now", "on_close", "on_ping", "on_pong", "pings")

    def __init__(self, life: Lifecycle, inbox: Inbox, outbox: Outbox, now: float) -> None:
        self.now = now
        self.pings = Pings()
        self.on_ping: Callable[[bytes], object] | None = None
        self.on_pong: Callable[[bytes], object] | None = None
        self.on_close: Callable[[int, str], object] | None = None
        self._life = life
        self._inbox = inbox
        self._outbox = outbox

    def act_on(self, frames: Iterable[Control]) -> None:
        """Do what these frames ask for, in their order."""
        frames = iter(frames)
        try:
            for frame in frames:
                self._act_on(frame)
        finally:
            for frame in frames:  # a handler was interrupted, by Ctrl-C say: that loses nothing
                self._act_on(frame)

    def note_peer_end(self, end: Close | ProtocolError) -> None:
        """Take note of the peer's Close or violation; it need not take effect yet."""
        self._life.note_peer_end(end, self.now)
        self._inbox.only_messages = False

    def apply_peer_end(self, answer: Close | None = None) -> None:
        """Let the peer's end, which has come, take effect; ``answer`` is ours to a Close."""
        life = self._life
        ending = life.apply_peer_end(self.now)
        if ending.received is None or answer is None:
            answer = answer_to(ending)
        if ending.received is not None and self.on_close is not None:
            error = error_of(self.on_close, *ending.received)
            if error is not None and life.is_fault(error):
                life.end_with(error)
                answer = Close(1011, "")
        if life.state in CLOSE_DUE:
            self.send_close(answer)
        ending.sent = life.sent

    def fault(self, error: BaseException) -> None:
        """End the connection with ``error``, which a handler raised; the peer is told 1011."""
        if self._life.fault(error, self.now):
            self.send_close(Close(1011, ""))
        if self._life.over:
            self._inbox.only_messages = False

    def send_close(self, close: Close) -> None:
        """Owe our Close."""
        self._life.sent_close(close, self.now)
        self._outbox.add_control(CLOSE, close_payload(close))

    def _act_on(self, frame: Control) -> None:
        opcode, payload = frame
        self._inbox.heard_what = HEARD[opcode]
        if opcode is CLOSE:
            self.note_peer_end(parse_close(payload))
        elif opcode is PING:
            self._got_ping(payload)
        else:
            self._got_pong(payload)

    def _got_ping(self, payload: bytes) -> None:
        if self.on_ping is not None:
            self._call(self.on_ping, payload)
        elif self._life.state in MAY_SEND:
            self._outbox.add_control(PONG, payload)

    def _got_pong(self, payload: bytes) -> None:
        self.pings.answer(payload, self.now)
        if self.on_pong is not None:
            self._call(self.on_pong, payload)

    def _call(self, handler: Callable[[bytes], object], payload: bytes) -> None:
        error = error_of(handler, payload)
        if error is not None:
            self.fault(error)


def error_of(handler: Callable[..., object], *heard: object) -> BaseException | None:
    """Call a handler and return what it raised, ``SystemExit`` included: the receiver is told."""
    try:
        handler(*heard)
    except KeyboardInterrupt:  # it may have been raised anywhere: no fault of the handler's
        raise
    except BaseException as error:
        return error
    return None
