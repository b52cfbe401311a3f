"""What we send: whether it may be sent, in which form it is owed, and our part of the end.

A message that is written in parts is remembered until it has ended: a Close that cuts it
off says so. Who may write when is for a face to decide.
"""

from __future__ import annotations

import os

from koko.core.codec import Inbox
from koko.core.control import check_payload, close_payload, parse_close
from koko.core.lifecycle import HELD, MAY_SEND, MAY_SEND_CLOSE, Lifecycle
from koko.core.outbox import Outbox
from koko.core.outgoing import CUT, Outgoing
from koko.core.pings import Ping
from koko.core.responder import Responder
from koko.core.wire import Opcode
from koko.errors import Close
from koko.message import Data, Kind, PreparedMessage


class Sender:
    """What a connection does for those who write to it."""

    __slots__ = ("_fragment_size", "_inbox", "_life", "_outbox", "_responder", "_unfinished")

    def __init__(
        self,
        life: Lifecycle,
        inbox: Inbox,
        outbox: Outbox,
        responder: Responder,
        fragment_size: int,
    ) -> None:
        self._life = life
        self._inbox = inbox
        self._outbox = outbox
        self._responder = responder
        self._fragment_size = fragment_size
        self._unfinished: Outgoing | None = None  # a message that is being written in parts

    @property
    def may_send(self) -> bool:
        """True while messages may be sent."""
        return self._life.state in MAY_SEND

    def check_open(self) -> None:
        """Raise unless a message may be sent."""
        if self._life.state not in MAY_SEND:
            raise self._life.closed_error()

    def send(self, kind: int, payload: Data) -> None:
        """Owe one whole message."""
        if self._life.state not in MAY_SEND:
            raise self._life.closed_error()
        self._outbox.add(kind, payload)
        self._inbox.sent()

    def send_prepared(self, prepared: PreparedMessage) -> None:
        """Owe a prepared message."""
        self.check_open()
        self._outbox.add_prepared(prepared)
        self._inbox.sent()

    def start_message(self, kind: Kind) -> Outgoing:
        """Begin a message that is written in parts; no other may be sent before its end."""
        self.check_open()
        self._inbox.sent()
        self._unfinished = Outgoing(self, self._outbox, kind, self._fragment_size)
        return self._unfinished

    def message_ended(self) -> None:
        """Take note that the message that was written in parts is whole, or given up."""
        self._unfinished = None

    def write_control(self, kind: int, payload: bytes, now: float) -> None:
        """Owe a ping, a pong or a Close."""
        if kind not in (Opcode.CLOSE, Opcode.PING, Opcode.PONG):
            raise ValueError(f"kind {kind!r} is not CLOSE, PING or PONG")
        payload = check_payload(payload)
        if kind == Opcode.CLOSE:
            self.start_close(*parse_close(payload), now)
        else:
            self.check_open()
            self._outbox.add_control(kind, payload)

    def start_ping(self, payload: bytes | None, now: float) -> Ping:
        """Owe a ping and return it; its ``on_pong`` is called when its pong comes."""
        pings = self._responder.pings
        payload = os.urandom(4) if payload is None else check_payload(payload)
        if payload in pings:
            raise ValueError(f"a ping with payload {payload!r} is already on its way")
        self.write_control(Opcode.PING, payload, now)
        ping = Ping(payload, now)
        pings.add(ping)
        return ping

    def start_close(self, code: int, reason: str, now: float) -> None:
        """Owe a Close; 1005 stands for one without a code. A second one is ErrCloseSent.

        It is 1011 where it cuts off a message that is being written. It answers the peer's
        Close where that has come; a violation of the peer's is told instead.
        """
        life, responder = self._life, self._responder
        if life.state not in MAY_SEND_CLOSE:
            raise life.closed_error()
        close = Close(code, reason)
        close_payload(close)  # misuse is told before anything has changed
        if self._unfinished is not None and self._unfinished.begun:
            close = Close(1011, CUT)
        responder.now = now
        if life.state in HELD:
            responder.apply_peer_end(close)
        else:
            responder.send_close(close)
