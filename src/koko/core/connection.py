"""One end of a WebSocket without I/O: bytes and time in, messages and owed bytes out.

Puts the rooms together: codec, lifecycle, deflate, keepalive. A face feeds it what
the socket gave, writes what it owes, calls ``tick`` when ``due_at`` has come, and
does to the socket what ``stream_action`` says. It never waits and never reads a clock.
Not safe for threads: a face that has several holds a lock round each call.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from types import TracebackType
from typing import Any

from koko.core import lifecycle
from koko.core.codec import Decoder, Inbox, Item
from koko.core.control import check_payload, close_payload, parse_close, shorten
from koko.core.deflate import Agreed
from koko.core.incoming import Reading
from koko.core.keepalive import NOTHING_WAITS, Backlog, Due, Keepalive
from koko.core.lifecycle import HELD, MAY_SEND, MAY_SEND_CLOSE, Lifecycle, State, StreamAction
from koko.core.options import ConnectionOptions
from koko.core.outbox import Outbox
from koko.core.outgoing import CUT, Outgoing
from koko.core.pings import Ping, Pings
from koko.core.wire import Control, Opcode, Role
from koko.errors import Close, CloseError, ErrCloseSent, ProtocolError
from koko.message import Data, Kind, PreparedMessage

__all__ = ["Connection", "Ping", "StreamAction"]

GIVEN_UP = Close(1011, "keepalive ping timeout")  # what a peer held to be dead is told
READ_AHEAD = 1 << 16  # bytes read for nobody before a face should stop reading


class Connection(Reading):
    """The state of one end of one connection.

    The peer's end, a Close or a violation, takes effect when the good messages before it
    have been read and answered: ``lifecycle`` says how long that may take. What is unread
    then can still be read, but not answered.

    Attributes:
        inbox: whole messages that nobody has read yet.
        owed: frames that must be written to the peer, in this order.
        opened_at: when that was.
        ending: how the connection ended, None while it has not.
        sent, received: the Close frames exchanged so far.
        on_ping, on_pong: stand in for the default; called while bytes are fed.
        on_close: called when the peer's Close takes effect. It is answered after that,
            unless a Close of ours was sent before or by the handler itself.
    """

    def __init__(
        self,
        role: Role,
        options: ConnectionOptions,
        agreed: Agreed | None,
        now: float,
        draw: Callable[[], float] = random.random,
    ) -> None:
        super().__init__()
        self.role = role
        self.opened_at = now
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
        self.keepalive = Keepalive(options.ping_interval, options.ping_timeout, now, draw)
        self.life = Lifecycle()
        self._now = now
        self._peer_end: Close | ProtocolError | None = None
        self._by_peer = False  # its Close came before ours
        self._lost: CloseError | None = None  # set once the stream has ended
        self._traceback: TracebackType | None = None
        self._unfinished: Outgoing | None = None  # a message that is being written in parts
        self._pings = Pings()
        self._decoder = Decoder(
            role,
            read_limit=options.read_limit,
            inflater=agreed.inflater(role) if agreed else None,
        )
        self.inbox = Inbox(self._decoder, now)

    @property
    def bytes_in(self) -> int:
        """How many bytes of frames came."""
        return self.inbox.bytes_in

    @property
    def bytes_out(self) -> int:
        """How many bytes of frames were owed, whether or not they have left."""
        return self.outbox.encoder.bytes_out

    # What the world tells us

    def feed(self, data: bytes, now: float) -> None:
        """Take bytes from the peer; what comes after its end is dropped."""
        if self._peer_end is not None or self.ending is not None:
            return
        kept = len(self.inbox)
        others = self.inbox.feed(data, now)
        if others is not None:
            self.handle(others, now)
        if self._discarding:
            self._discard(kept)

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
            self._note_peer_end()

    def feed_eof(self, now: float, why: str = "the peer's stream ended without a Close") -> None:
        """Take note that nothing more will come, and that nothing more can be written.

        The error says ``why``, and what was heard last.
        """
        if self._lost is None:
            self._now = now
            if self.life.state is not lifecycle.CLOSED:  # an interrupt may have cut this off
                self.life.on(lifecycle.GOT_EOF, now)
            self._pings.clear()
            if self.ending is None:
                self._note_heard()
                why = f"{why}, {self.keepalive.heard(now)}"
            self._lost = CloseError(1006, why, sent=self.sent)
        if self.ending is None:
            self._end(self._lost)
            self._apply_peer_end()

    def tick(self, now: float, listening: bool = True, backlog: Backlog = NOTHING_WAITS) -> None:
        """Do what time alone makes due: ping, give a dead peer up, end a long farewell.

        ``listening`` is False when the face had stopped reading; ``backlog`` is what waits
        for the peer.
        """
        self._now = now
        state, due_at = self.life.state, self.due_at
        if state is lifecycle.OPEN:
            self._keep_alive(now, listening, backlog)
        elif due_at is None or now < due_at:
            return
        elif state in HELD:
            self._apply_peer_end()  # the reader it waited for has not come back
        else:
            self.feed_eof(now, f"no answer within {self.close_timeout:g} s")

    @property
    def due_at(self) -> float | None:
        """When ``tick`` wants to be called, None for never."""
        life = self.life
        state = life.state
        if state is lifecycle.OPEN:
            return self.keepalive.due_at
        if state in HELD:
            inbox = self.inbox
            unread = bool(inbox or self._stream)
            return life.held_until(inbox.reader, inbox.taken_at, unread, self.close_timeout)
        return None if state is lifecycle.CLOSED else life.since + self.close_timeout

    @property
    def state(self) -> State:
        return self.life.state

    @property
    def may_send(self) -> bool:
        """True while messages may be sent."""
        return self.life.state in MAY_SEND

    @property
    def latency(self) -> float | None:
        """Seconds the last answered ping took, None before the first."""
        return self._pings.latency

    @property
    def stream_action(self) -> StreamAction:
        state = self.life.state
        if state is lifecycle.CLOSED or (state is lifecycle.DONE and self.role is Role.SERVER):
            return StreamAction.CLOSE  # §7.1.1: the server closes first
        return StreamAction.HALF_CLOSE if state is lifecycle.FAILED else StreamAction.KEEP

    @property
    def full(self) -> bool:
        """True when enough has been read that a face without a reader should stop."""
        if (self.inbox.unread < READ_AHEAD and not self._decoder.backlog) or self._discarding:
            return False
        # Control frames alone are nothing to hold back for: nobody may ever receive.
        return bool(self.inbox or self._stream) or (self._decoder.mid_message and not self.skipping)

    # What a reader does

    def next_message(self) -> str | bytes | None:
        """Return the next message, None if it has not come yet; raise how it ended."""
        if not self.inbox.only_messages:
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
            self._end(error)
            if self._lost is not None:
                return
            if isinstance(self._peer_end, Close):
                self.received = self._peer_end
            if self.life.on(lifecycle.FAULT, self._now) in MAY_SEND_CLOSE:
                self._send_close(Close(1011, ""))

    def discard_new(self) -> None:
        """Drop what comes from now on, so that the peer's Close behind it can come through.

        What has come can still be read; nothing is given behind the gap. Before our own
        Close this does nothing: a reader may still come back.
        """
        if self._discarding or self.may_send:
            return
        self._discarding = True
        self._stream = None  # its reader keeps what has come of it, and gets no more
        self._mark()
        self._discard(len(self.inbox))

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
        self.inbox.sent()

    def send_prepared(self, prepared: PreparedMessage) -> None:
        """Owe a prepared message."""
        self.check_open()
        self.outbox.add_prepared(prepared)
        self.inbox.sent()

    def start_message(self, kind: Kind) -> Outgoing:
        """Begin a message that is written in parts; no other may be sent before its end."""
        self.check_open()
        self.inbox.sent()
        self._unfinished = Outgoing(self, self.outbox, kind, self._fragment_size)
        return self._unfinished

    def message_ended(self) -> None:
        """Take note that the message that was written in parts is whole, or given up."""
        self._unfinished = None

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
        """Owe a Close; 1005 stands for one without a code. A second one is ErrCloseSent.

        It is 1011 where it cuts off a message that is being written. It answers the peer's
        Close where that has come; a violation of the peer's is told instead.
        """
        if self.life.state not in MAY_SEND_CLOSE:
            raise self.closed_error()
        close = Close(code, reason)
        close_payload(close)  # misuse is told before anything has changed
        if self._unfinished is not None and self._unfinished.begun:
            close = Close(1011, CUT)
        self._now = now
        if self.life.state in HELD:
            self._apply_peer_end(close)
        else:
            self._send_close(close)

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

    def _note_peer_end(self) -> None:
        """Let the peer's end take effect if it has come and nothing holds it back."""
        failure = self._decoder.failure
        if failure is not None and self._peer_end is None:
            self._got_end(failure.with_traceback(None), lifecycle.VIOLATION)
        if self._peer_end is None or self.ending is not None:
            return
        due_at = self.due_at
        if self.life.state not in HELD or (due_at is not None and due_at <= self._now):
            self._apply_peer_end()

    def _got_control(self, item: Control) -> None:
        opcode, payload = item
        self.inbox.heard_what = f"a {opcode.name.lower()}"
        if opcode is Opcode.CLOSE:
            self._by_peer = self.sent is None
            self._got_end(parse_close(payload), lifecycle.GOT_CLOSE)
        elif opcode is Opcode.PING:
            self._got_ping(payload)
        else:
            self._got_pong(payload)

    def _got_ping(self, payload: bytes) -> None:
        if self.on_ping is not None:
            self._call(self.on_ping, payload)
        elif self.life.state in MAY_SEND:
            self.outbox.add_control(Opcode.PONG, payload)

    def _got_pong(self, payload: bytes) -> None:
        self._pings.answer(payload, self._now)
        if self.on_pong is not None:
            self._call(self.on_pong, payload)

    def _call(self, handler: Callable[[bytes], object], payload: bytes) -> None:
        # Only the handler's own errors are its fault: what interrupts us here is not.
        try:
            handler(payload)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # ``sys.exit()``, too: the receiver is told
            self.fault(error)

    def _got_end(self, end: Close | ProtocolError, event: lifecycle.Event) -> None:
        if self.ending is not self._lost:
            return  # a handler that failed has ended the connection before
        self._peer_end = end
        # Behind a fault of ours, of which our Close has told, it changes nothing.
        if self._lost is None and self.life.state is not lifecycle.FAILED:
            self.life.on(event, self._now)
        self._mark()

    def _apply_peer_end(self, answer: Close | None = None) -> None:
        """Let the peer's end, if it has come, take effect; ``answer`` is ours to its Close."""
        end = self._peer_end
        # The loss of the stream gives way to what came before it; no other ending does.
        if end is None or self.ending is not self._lost:
            return
        if self.life.state in HELD:
            self.life.on(lifecycle.READER_DONE, self._now)
        if isinstance(end, Close):
            self._answer(end, answer)
        else:
            self._end(end)
            if self.life.state is lifecycle.FAILING:
                self._send_close(Close(end.code, shorten(str(end))))
            end.sent = self.sent

    def _answer(self, close: Close, answer: Close | None) -> None:
        self.received = close
        ending = CloseError(*close, sent=self.sent, received=close, by_peer=self._by_peer)
        self._end(ending)
        # §5.5.1: the answer typically echoes the code received.
        answer = answer or Close(close.code, "")
        if self.on_close is not None:
            try:
                self.on_close(*close)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                if self._is_fault(error):
                    self._end(error)
                    answer = Close(1011, "")
        if self.life.state is lifecycle.ANSWERING:
            self._send_close(answer)
        ending.sent = self.sent

    def _is_fault(self, error: BaseException) -> bool:
        # What a handler writes after a Close fails; the handler is not to blame for that.
        return self.life.state in MAY_SEND or not isinstance(error, CloseError)

    def _end(self, error: BaseException) -> None:
        self.ending = error
        self._mark()
        self._traceback = error.__traceback__

    def _send_close(self, close: Close) -> None:
        self.life.on(lifecycle.SENT_CLOSE, self._now)
        self.sent = close
        self.outbox.add_control(Opcode.CLOSE, close_payload(close))

    def _keep_alive(self, now: float, listening: bool, backlog: Backlog) -> None:
        self._note_heard()
        due = self.keepalive.check(now, listening, backlog)
        if due is Due.PING:
            self.start_ping(None, now)
        elif due is Due.GIVE_UP:
            if not backlog.unsent:
                # Perhaps only the peer's process hangs: its system will keep this for it.
                # It is no part of a closing handshake, and so not in ``sent``.
                self.outbox.add_control(Opcode.CLOSE, close_payload(GIVEN_UP))
            self.feed_eof(now, self.keepalive.why(now))

    def _note_heard(self) -> None:
        # The inbox keeps both: two stores are all that a message pays for the keepalive.
        self.keepalive.heard_at = self.inbox.heard_at
        self.keepalive.heard_what = self.inbox.heard_what
