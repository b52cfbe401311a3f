"""One end of a WebSocket without I/O: bytes and time in, messages and owed bytes out.

Puts the rooms together: codec, lifecycle, deflate, keepalive. A face feeds it what
the socket gave, writes what it owes, calls ``tick`` when ``due_at`` has come, and
does to the socket what ``parting`` says. It never waits and never reads a clock.
Not safe for threads: a face that has several holds a lock round each call.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import Any

from koko.core import lifecycle
from koko.core.codec import Decoder, Inbox, Item
from koko.core.control import check_payload, close_payload, parse_close, shorten
from koko.core.deflate import Agreed
from koko.core.incoming import Reading
from koko.core.keepalive import Due, Keepalive
from koko.core.lifecycle import MAY_SEND, MAY_SEND_CLOSE, Lifecycle, Parting, State
from koko.core.options import ConnectionOptions
from koko.core.outbox import Outbox
from koko.core.outgoing import Outgoing
from koko.core.pings import Ping, Pings
from koko.core.wire import Control, Opcode, Role
from koko.errors import Close, CloseError, ErrCloseSent, ProtocolError
from koko.message import Data, Kind, PreparedMessage

__all__ = ["Connection", "Parting", "Ping"]

READ_AHEAD = 1 << 16  # bytes read for nobody before a face should stop reading
REPLY_TIME = 1.0  # seconds in which a reader may answer the last message before a verdict


class Connection(Reading):
    """The state of one end of one connection.

    What the peer did to end it, a Close or a violation, is its *verdict*. That waits until
    the good messages before it have been read and the reader has come back for more, so
    that they can be answered; where nobody reads, and after our own Close, it does not wait.

    Attributes:
        inbox: whole messages that nobody has read yet.
        owed: frames that must be written to the peer, in this order.
        ending: how the connection ended, None while it has not.
        sent, received: the Close frames exchanged so far.
        on_ping, on_pong: stand in for the default; called while bytes are fed.
        on_close: called when the peer's Close takes effect. It is answered after that,
            unless a Close of ours was sent before or by the handler itself.
    """

    def __init__(
        self, role: Role, options: ConnectionOptions, agreed: Agreed | None, now: float
    ) -> None:
        super().__init__()
        self.role = role
        self.close_timeout = options.close_timeout
        self._fragment_size = options.write_buffer_size
        self.outbox = Outbox(role, agreed)
        self.owed = self.outbox.owed
        self.take_owed = self.outbox.take
        self.ending: BaseException | None = None
        self.sent: Close | None = None
        self.received: Close | None = None
        self.on_ping: Callable[[bytes], object] | None = None
        self.on_pong: Callable[[bytes], object] | None = None
        self.on_close: Callable[[int, str], object] | None = None
        self.keepalive = Keepalive(options.ping_interval, options.ping_timeout, now)
        self.life = Lifecycle()
        self._now = now
        self._deadline: float | None = None  # for the reader to come back, then for the peer
        self._verdict: Close | ProtocolError | None = None
        self._by_peer = False  # its Close came before ours
        self._lost: CloseError | None = None  # set once the stream has ended
        self._traceback: TracebackType | None = None
        self._pings = Pings()
        self._decoder = Decoder(
            role,
            read_limit=options.read_limit,
            inflater=agreed.inflater(role) if agreed else None,
        )
        self.inbox = Inbox(self._decoder, now)

    # What the world tells us

    def feed(self, data: bytes, now: float) -> None:
        """Take bytes from the peer; what comes after its verdict is dropped."""
        if self._verdict is None and self.ending is None:
            others = self.inbox.feed(data, now)
            if others is not None:
                self.handle(others, now)

    def handle(self, others: list[Item], now: float) -> None:
        """Act on what the inbox found beside messages."""
        self._now = now
        items: Any = iter(others if self._stream is None else self._sift(others))
        try:
            for item in items:
                self._got_control(item)
        finally:
            for item in items:  # a handler was interrupted, by Ctrl-C say: that loses nothing
                self._got_control(item)
            self._mind_verdict()

    def feed_eof(self, now: float, why: str = "the peer's stream ended without a Close") -> None:
        """Take note that nothing more will come, and that nothing more can be written.

        The error says ``why``, and what was heard last.
        """
        if self._lost is not None:
            return
        self._now = now
        self.life.on(lifecycle.GOT_EOF)
        self._pings.clear()
        if self.ending is None:
            self._note_heard()
            why = f"{why}, {self.keepalive.heard(now)}"
        self._lost = CloseError(1006, why, sent=self.sent)
        if self.ending is None:
            self._end(self._lost)
            self._settle()

    def tick(self, now: float, listening: bool = True, unsent: int = 0) -> None:
        """Do what time alone makes due: ping, give a dead peer up, end a long farewell.

        ``listening`` is False when the face had stopped reading; ``unsent`` is how many
        bytes it could not write yet because the peer takes no more.
        """
        self._now = now
        if self.life.state is lifecycle.CLOSED:
            return
        if self._deadline is None:
            self._keep_alive(now, listening, unsent)
        elif now < self._deadline:
            return
        elif self.ending is None and self._verdict is not None:
            self._settle()  # the reader it waited for never came back
        else:
            self.feed_eof(now, f"no answer within {self.close_timeout:g} s")

    @property
    def due_at(self) -> float | None:
        """When ``tick`` wants to be called, None for never."""
        if self.life.state is lifecycle.CLOSED:
            return None
        return self.keepalive.due_at if self._deadline is None else self._deadline

    @property
    def state(self) -> State:
        return self.life.state

    @property
    def latency(self) -> float | None:
        """Seconds the last answered ping took, None before the first."""
        return self._pings.latency

    @property
    def parting(self) -> Parting:
        state = self.life.state
        if state is lifecycle.CLOSED or (state is lifecycle.DONE and self.role is Role.SERVER):
            return lifecycle.DROP  # §7.1.1: the server closes first
        return lifecycle.HALF if state is lifecycle.FAILED else lifecycle.STAY

    @property
    def full(self) -> bool:
        """True when enough has been read that a face without a reader should stop."""
        if self.inbox.unread < READ_AHEAD and not self._decoder.backlog:
            return False
        # Control frames alone are nothing to hold back for: nobody may ever receive.
        return bool(self.inbox or self._stream) or (self._decoder.mid_message and not self.skipping)

    # What a reader does

    def next_message(self) -> str | bytes | None:
        """Return the next message, None if it has not come yet; raise how it ended."""
        if not self.inbox.plain:
            self._leave_parts()
        message = self.inbox.take()
        if message is None:
            self._await_more()
        elif self.inbox.backlog:
            self.catch_up()
        return message

    def catch_up(self) -> None:
        """Parse on where the decoder stopped: no more bytes may come, and a Close be behind."""
        others = self.inbox.parse(b"")
        if others is not None:
            self.handle(others, self._now)

    def fault(self, error: BaseException) -> None:
        """End the connection with 1011 because a handler raised ``error``, now the ending."""
        if self.ending is self._lost and self._is_fault(error):
            self._fail(error, Close(1011, ""))

    def drop_unread(self) -> None:
        """Forget what nobody will read, so that the peer's Close can come through."""
        while True:
            self._leave_parts(for_parts=True)  # what has not come whole is not wanted either
            self.inbox.clear()
            if self._stream is not None or self._open_stream() is None:
                if not self._decoder.backlog:
                    break
                self.catch_up()
        self.inbox.reader_away = False
        self._settle()

    @property
    def read_limit(self) -> int | None:
        return self._decoder.read_limit

    @read_limit.setter
    def read_limit(self, limit: int | None) -> None:
        if limit is not None and limit <= 0:
            raise ValueError(f"read_limit={limit}: a number of bytes above 0, or None for no limit")
        self._decoder.read_limit = limit

    # What a writer does

    def send(self, kind: int, payload: Data) -> None:
        """Owe one whole message."""
        if self.life.state not in MAY_SEND:
            raise self.closed_error()
        self.outbox.add(kind, payload)

    def send_prepared(self, prepared: PreparedMessage) -> None:
        """Owe a prepared message."""
        self.check_open()
        self.outbox.add_prepared(prepared)

    def start_message(self, kind: Kind) -> Outgoing:
        """Begin a message that is written in parts; no other may be sent before its end."""
        self.check_open()
        return Outgoing(self, self.outbox, kind, self._fragment_size)

    def check_open(self) -> None:
        """Raise unless a message may be sent."""
        if self.life.state not in MAY_SEND:
            raise self.closed_error()

    @property
    def write_compression(self) -> bool:
        return self.outbox.compressing

    @write_compression.setter
    def write_compression(self, enabled: bool) -> None:
        self.outbox.compressing = enabled

    @property
    def compression_level(self) -> int | None:
        return self.outbox.level

    @compression_level.setter
    def compression_level(self, level: int) -> None:
        self.outbox.level = level

    def write_control(self, kind: int, payload: bytes, now: float) -> None:
        """Owe a ping, a pong or a Close."""
        if kind not in (Opcode.CLOSE, Opcode.PING, Opcode.PONG):
            raise ValueError(f"kind {kind!r} is not CLOSE, PING or PONG")
        payload = check_payload(payload)
        if kind == Opcode.CLOSE:
            self.start_close(*parse_close(payload), now)
        else:
            self.check_open()
            self.outbox.add_control(kind, payload)

    def start_ping(self, payload: bytes | None, now: float) -> Ping:
        """Owe a ping and return it; its ``on_pong`` is called when its pong comes."""
        payload = os.urandom(4) if payload is None else check_payload(payload)
        if payload in self._pings:
            raise ValueError(f"a ping with payload {payload!r} is already on its way")
        self.write_control(Opcode.PING, payload, now)
        ping = Ping(payload, now)
        self._pings.add(ping)
        return ping

    def start_close(self, code: int, reason: str, now: float) -> None:
        """Owe a Close; 1005 stands for one without a code. A second one is ErrCloseSent."""
        if self.life.state not in MAY_SEND_CLOSE:
            raise self.closed_error()
        self._now = now
        self._send_close(Close(code, reason))
        self._settle()

    def closed_error(self) -> BaseException:
        """Return the error of a write that comes too late."""
        if self.sent is None:
            assert self.ending is not None  # with neither, nothing comes too late
            return self.ending.with_traceback(self._traceback)
        known = self.received or self.sent
        return ErrCloseSent(
            known.code, known.reason, sent=self.sent, received=self.received, by_peer=self._by_peer
        )

    # How it works inside

    def _mind_verdict(self) -> None:
        if self._decoder.failure is not None and self._verdict is None:
            self._judge(self._decoder.failure.with_traceback(None))
        if self._verdict is None:
            return
        unread = self.inbox or self._stream
        if self.life.state is lifecycle.OPEN and (unread or self.inbox.reader_away):
            # Who has the last message may never want another: only the peer would notice.
            patience = self.close_timeout if unread else min(self.close_timeout, REPLY_TIME)
            self._deadline = self._now + patience
        else:
            self._settle()

    def _got_control(self, item: Control) -> None:
        opcode, payload = item
        self.inbox.heard_what = f"a {opcode.name.lower()}"
        try:
            if opcode is Opcode.CLOSE:
                self._judge(parse_close(payload))
                self._by_peer = self.sent is None
            elif opcode is Opcode.PING:
                self._got_ping(payload)
            else:
                self._got_pong(payload)
        except Exception as error:
            self.fault(error)

    def _got_ping(self, payload: bytes) -> None:
        if self.on_ping is not None:
            self.on_ping(payload)
        elif self.life.state in MAY_SEND:
            self.outbox.add_control(Opcode.PONG, payload)

    def _got_pong(self, payload: bytes) -> None:
        self._pings.answer(payload, self._now)
        if self.on_pong is not None:
            self.on_pong(payload)

    def _judge(self, verdict: Close | ProtocolError) -> None:
        self._verdict = verdict
        self._mark()

    def _settle(self) -> None:
        """Let the peer's verdict, if there is one, take effect."""
        verdict = self._verdict
        # Nothing but the loss of the stream is outdone by what came before it.
        if verdict is None or self.ending is not self._lost:
            return
        if isinstance(verdict, Close):
            self._answer(verdict)
        else:
            self._fail(verdict, Close(verdict.code, shorten(str(verdict))))
            verdict.sent = self.sent

    def _answer(self, close: Close) -> None:
        self.received = close
        ending = CloseError(*close, sent=self.sent, received=close, by_peer=self._by_peer)
        self._end(ending)
        if self._lost is None:
            self.life.on(lifecycle.GOT_CLOSE)
        answer = Close(close.code, "")  # §5.5.1: typically echoes the code received
        try:
            if self.on_close is not None:
                self.on_close(*close)
        except Exception as error:
            if self._is_fault(error):
                self._end(error)
                answer = Close(1011, "")
        if self.life.state is lifecycle.ANSWERING:
            self._send_close(answer)
        ending.sent = self.sent

    def _is_fault(self, error: BaseException) -> bool:
        # What a handler writes after a Close fails; the handler is not to blame for that.
        return self.life.state is lifecycle.OPEN or not isinstance(error, CloseError)

    def _end(self, error: BaseException) -> None:
        self.ending = error
        self._mark()
        self._traceback = error.__traceback__

    def _fail(self, error: BaseException, close: Close) -> None:
        self._end(error)
        if self._lost is None and self.life.on(lifecycle.VIOLATION) is lifecycle.FAILING:
            self._send_close(close)

    def _send_close(self, close: Close) -> None:
        payload = close_payload(close)  # misuse is told before anything has changed
        self.life.on(lifecycle.SENT_CLOSE)
        self.sent = close
        self.outbox.add_control(Opcode.CLOSE, payload)
        self._deadline = self._now + self.close_timeout

    def _keep_alive(self, now: float, listening: bool, unsent: int) -> None:
        self._note_heard()
        due = self.keepalive.check(now, listening, unsent)
        if due is Due.PING:
            self.start_ping(None, now)
        elif due is Due.GIVE_UP:
            self.feed_eof(now, self.keepalive.why(now))

    def _note_heard(self) -> None:
        # The inbox keeps both: two stores are all that a message pays for the keepalive.
        self.keepalive.heard_at = self.inbox.heard_at
        self.keepalive.heard_what = self.inbox.heard_what
