"""One end of a WebSocket without I/O: bytes and time in, messages and owed bytes out.

Puts the parts together and is their face: ``receiver``, ``sender``, ``responder``, the law
of the end in ``lifecycle`` and the ``keepalive``. A face feeds it what the socket gave,
writes what it owes, calls ``tick`` when ``due_at`` has come, and does to the socket what
``stream_action`` says. It never waits and never reads a clock. Not safe for threads: a
face that has several holds a lock round each call.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from koko.core.codec import Decoder, Inbox, Item
from koko.core.control import close_payload
from koko.core.deflate import Agreed
from koko.core.incoming import Incoming
from koko.core.keepalive import NOTHING_WAITS, Backlog, Due, Keepalive
from koko.core.lifecycle import HELD, MAY_SEND, OPEN, Lifecycle, State, StreamAction
from koko.core.options import ConnectionOptions
from koko.core.outbox import Outbox
from koko.core.outgoing import Outgoing
from koko.core.pings import Ping
from koko.core.receiver import Receiver
from koko.core.responder import Responder
from koko.core.sender import Sender
from koko.core.wire import Opcode, Role
from koko.errors import Close
from koko.message import Kind, PreparedMessage

__all__ = ["Connection", "Ping", "StreamAction"]

GIVEN_UP = Close(1011, "keepalive ping timeout")  # what a peer held to be dead is told


class Connection:
    """The state of one end of one connection.

    The peer's end, a Close or a violation, takes effect when the good messages before it
    have been read and answered: ``lifecycle`` says how long that may take. What is unread
    then can still be read, but not answered.

    Attributes:
        inbox: whole messages that nobody has read yet.
        outbox: turns what is sent into frames.
        owed: frames that must be written to the peer, in this order; always the same list.
        life: the state it is in, and how it ended.
        opened_at: when it was opened.
        role: ours.
    """

    __slots__ = (
        "_decoder",
        "_receiver",
        "_responder",
        "_sender",
        "inbox",
        "keepalive",
        "life",
        "next_message",
        "opened_at",
        "outbox",
        "owed",
        "role",
        "send",
        "take_owed",
    )

    def __init__(
        self,
        role: Role,
        options: ConnectionOptions,
        agreed: Agreed | None,
        now: float,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.role = role
        self.opened_at = now
        self.keepalive = Keepalive(options.ping_interval, options.ping_timeout, now, draw)
        self.life = life = Lifecycle(role, options.close_timeout)
        self.outbox = outbox = Outbox(role, agreed)
        self.owed = outbox.owed
        self._decoder = Decoder(
            role,
            read_limit=options.read_limit,
            inflater=agreed.inflater(role) if agreed else None,
        )
        self.inbox = inbox = Inbox(self._decoder, now)
        self._responder = responder = Responder(life, inbox, outbox, now)
        self._receiver = Receiver(inbox, life, responder)
        self._sender = sender = Sender(life, inbox, outbox, responder, options.write_buffer_size)
        # Not methods that hand on: each message would pay for one more call.
        self.take_owed = outbox.take
        self.send = sender.send
        self.next_message = self._receiver.next_message

    # What the world tells us

    def feed(self, data: bytes, now: float) -> None:
        """Take bytes from the peer; what comes after its end is dropped."""
        if not self.life.over:
            self._responder.now = now
            self._receiver.feed(data, now)

    def handle(self, others: list[Item], now: float) -> None:
        """Act on what the inbox found beside messages."""
        self._responder.now = now
        self._receiver.handle(others)

    def feed_eof(self, now: float, why: str = "the peer's stream ended without a Close") -> None:
        """Take note that nothing more will come, and that nothing more can be written.

        The error says ``why``, and what was heard last.
        """
        life = self.life
        if life.lost and life.ending is not None:
            return  # both, since an interrupt may have fallen between them
        self._responder.now = now
        self._responder.pings.clear()
        if life.ending is None:
            self._note_heard()
            why = f"{why}, {self.keepalive.heard(now)}"
        life.lose(why, now)
        self.inbox.only_messages = False
        if life.peer_end is not None:
            self._responder.apply_peer_end()

    def tick(self, now: float, listening: bool = True, backlog: Backlog = NOTHING_WAITS) -> None:
        """Do what time alone makes due: ping, give a dead peer up, end a long farewell.

        ``listening`` is False when the face had stopped reading; ``backlog`` is what waits
        for the peer.
        """
        self._responder.now = now
        state, due_at = self.life.state, self.due_at
        if state is OPEN:
            self._keep_alive(now, listening, backlog)
        elif due_at is None or now < due_at:
            return
        elif state in HELD:
            self._responder.apply_peer_end()  # the reader it waited for has not come back
        else:
            self.feed_eof(now, f"no answer within {self.close_timeout:g} s")

    @property
    def due_at(self) -> float | None:
        """When ``tick`` wants to be called, None for never."""
        state = self.life.state
        if state is OPEN:
            return self.keepalive.due_at
        return self._receiver.held_until if state in HELD else self.life.lost_at

    def fault(self, error: BaseException) -> None:
        """End the connection with ``error``, which a handler raised; the peer is told 1011."""
        self._responder.fault(error)

    # How it stands

    @property
    def state(self) -> State:
        return self.life.state

    @property
    def ending(self) -> BaseException | None:
        """How the connection ended, None while it has not."""
        return self.life.ending

    @property
    def stream_action(self) -> StreamAction:
        """What should be done to the stream once the owed bytes are written."""
        return self.life.stream_action

    @property
    def may_send(self) -> bool:
        """True while messages may be sent."""
        return self.life.state in MAY_SEND

    @property
    def full(self) -> bool:
        """True when enough has been read that a face without a reader should stop."""
        return self._receiver.full

    @property
    def sent(self) -> Close | None:
        """Our Close, if it was sent."""
        return self.life.sent

    @property
    def received(self) -> Close | None:
        """The peer's Close, if it has taken effect."""
        return self.life.received

    @property
    def latency(self) -> float | None:
        """Seconds the last answered ping took, None before the first."""
        return self._responder.pings.latency

    @property
    def bytes_in(self) -> int:
        """How many bytes of frames came."""
        return self.inbox.bytes_in

    @property
    def bytes_out(self) -> int:
        """How many bytes of frames were owed, whether or not they have left."""
        return self.outbox.encoder.bytes_out

    # What a reader does

    def next_stream(self) -> Incoming | None:
        """Return the next message in pieces: see ``Receiver.next_stream``."""
        return self._receiver.next_stream()

    def read_stream(self, stream: Incoming, size: int) -> bytes | None:
        """Return some of a message in pieces: see ``Receiver.read_stream``."""
        return self._receiver.read_stream(stream, size)

    def catch_up(self) -> None:
        """Parse on where the decoder stopped: no more bytes may come, and a Close be behind."""
        self._receiver.catch_up()

    def watch(self, timed: bool) -> None:
        """Have the inbox not ``only_messages`` while a reader has to look at a clock."""
        self._receiver.watch(timed)

    def discard_new(self) -> None:
        """Drop what comes from now on, so that the peer's Close behind it can come through.

        What has come can still be read; nothing is given behind the gap. Before our own
        Close this does nothing: a reader may still come back.
        """
        if not self.may_send:
            self._receiver.discard_new()

    # What a writer does

    def send_prepared(self, prepared: PreparedMessage) -> None:
        """Owe a prepared message."""
        self._sender.send_prepared(prepared)

    def start_message(self, kind: Kind) -> Outgoing:
        """Begin a message that is written in parts; no other may be sent before its end."""
        return self._sender.start_message(kind)

    def write_control(self, kind: int, payload: bytes, now: float) -> None:
        """Owe a ping, a pong or a Close."""
        self._sender.write_control(kind, payload, now)

    def start_ping(self, payload: bytes | None, now: float) -> Ping:
        """Owe a ping and return it; its ``on_pong`` is called when its pong comes."""
        return self._sender.start_ping(payload, now)

    def start_close(self, code: int, reason: str, now: float) -> None:
        """Owe a Close, or the answer to the peer's: see ``Sender.start_close``."""
        self._sender.start_close(code, reason, now)

    def closed_error(self) -> BaseException:
        """Return the error of a write that comes too late."""
        return self.life.closed_error()

    # What can be set

    @property
    def close_timeout(self) -> float:
        return self.life.close_timeout

    @close_timeout.setter
    def close_timeout(self, seconds: float) -> None:
        self.life.close_timeout = seconds

    @property
    def read_ahead(self) -> int:
        """How many bytes may wait unread before a face should stop reading."""
        return self._receiver.read_ahead

    @read_ahead.setter
    def read_ahead(self, count: int) -> None:
        self._receiver.read_ahead = count

    @property
    def read_limit(self) -> int | None:
        return self._decoder.read_limit

    @read_limit.setter
    def read_limit(self, limit: int | None) -> None:
        rule = f"read_limit={limit}: a number of bytes above 0, or None for no limit"
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool)):
            raise TypeError(rule)
        if limit is not None and limit <= 0:
            raise ValueError(rule)
        self._decoder.read_limit = limit

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

    @property
    def on_ping(self) -> Callable[[bytes], object] | None:
        """What is called with a ping's payload, None for the default: a pong."""
        return self._responder.on_ping

    @on_ping.setter
    def on_ping(self, handler: Callable[[bytes], object] | None) -> None:
        self._responder.on_ping = handler

    @property
    def on_pong(self) -> Callable[[bytes], object] | None:
        """What is called with a pong's payload, None for nothing."""
        return self._responder.on_pong

    @on_pong.setter
    def on_pong(self, handler: Callable[[bytes], object] | None) -> None:
        self._responder.on_pong = handler

    @property
    def on_close(self) -> Callable[[int, str], object] | None:
        """What is called when the peer's Close takes effect, None for nothing."""
        return self._responder.on_close

    @on_close.setter
    def on_close(self, handler: Callable[[int, str], object] | None) -> None:
        self._responder.on_close = handler

    # How the peer is kept in view

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
