"""What came and waits to be read: bytes become messages here, in plain Python.

Knows neither what a message means nor whether one may still come: the receiver knows.
``_native_inbox.pyx`` is the twin of this file: the same names in the same order.
"""

from __future__ import annotations

from collections import deque

from koko.core._codec import Decoder, Item
from koko.core.lifecycle import ANSWERED, WAITING, WORKING


class Inbox:
    """Whole messages that nobody has read yet, oldest first.

    Attributes:
        decoder: what makes messages of the peer's bytes.
        messages: those that wait; to look at, ``take`` takes them.
        only_messages: True while a reader can find nothing but messages. While it is False the
            receiver must be asked: there may be a part of a message, or the end.
        bytes_in: all that were fed.
        unread: bytes fed since a reader last found nothing.
        reader: WAITING, WORKING on the last message it took, or ANSWERED: it has sent since.
        taken_at: when the last message was taken. A face sets it where the message had waited.
        heard_at, heard_what: when the peer was last heard, and what it said.
    """

    __slots__ = (
        "bytes_in",
        "decoder",
        "heard_at",
        "heard_what",
        "messages",
        "only_messages",
        "reader",
        "taken_at",
        "unread",
    )

    def __init__(self, decoder: Decoder, now: float) -> None:
        self.decoder = decoder
        self.only_messages = True
        self.bytes_in = 0
        self.unread = 0
        self.reader = WAITING
        self.taken_at = now
        self.heard_at = now
        self.heard_what = "the opening handshake"
        self.messages: deque[str | bytes] = deque()

    def __len__(self) -> int:
        return len(self.messages)

    @property
    def backlog(self) -> bool:
        """True when the last message has been taken and more can be had without new bytes."""
        return not self.messages and self.decoder.backlog

    def feed(self, data: bytes, now: float) -> list[Item] | None:
        """Take bytes from the peer, keep the messages in them and return what else they hold.

        None means nothing but messages, or parts of one. The decoder keeps a violation.
        """
        self.heard_at = now
        self.bytes_in += len(data)
        self.unread += len(data)
        return self.parse(data)

    def parse(self, data: bytes) -> list[Item] | None:
        """Do as ``feed``, for what has been fed before."""
        others: list[Item] | None = None
        while True:
            self.heard_what = "a part of a message"  # or a control frame, which says so
            for item in self.decoder.feed(data):
                if type(item) is str or type(item) is bytes:
                    self.messages.append(item)
                    self.heard_what = "a message"
                elif others is None:
                    others = [item]
                else:
                    others.append(item)
            if self.messages or not self.only_messages or not self.decoder.backlog:
                break
            data = b""  # more of a message is here than one feed gives, and it is wanted whole
        if others is None and self.decoder.failure is not None:
            return []
        return others

    def take(self) -> str | bytes | None:
        """Return the next message, None when a reader has to wait for it."""
        if not self.messages:
            self.reader = WAITING
            self.unread = 0
            return None
        self.took()
        message = self.messages.popleft()
        if not self.messages:
            self.unread = 0
        return message

    def took(self) -> None:
        """Take note that the reader has something to answer."""
        self.reader = WORKING
        self.taken_at = max(self.taken_at, self.heard_at)

    def sent(self) -> None:
        """Take note that a message was sent: it may be the answer, or a part of it."""
        if self.reader == WORKING:
            self.reader = ANSWERED

    def keep(self, count: int) -> None:
        """Forget all messages but the ``count`` oldest."""
        while len(self.messages) > count:
            self.messages.pop()
