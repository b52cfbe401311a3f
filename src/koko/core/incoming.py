"""Messages that are read in pieces, as they come: what has come of one, and what a read gives.

Nothing here waits or knows a frame. The receiver puts the pieces in; a face asks for
bytes by a size, ``ALL`` or ``LINE`` and waits where it gets None.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Protocol

from koko.errors import CloseError
from koko.message import Data, Kind

ALL = -1  # up to the end of the message
LINE = -2  # up to the end of the line, or of the message

READ_SIZE = 1 << 16  # bytes taken over at once

CLOSED = (
    "read of a closed reader: the next message was asked for, or close() called, before "
    "this one had been read to its end"
)


class Incoming:
    """The bytes of one message that have come and that nobody has read.

    Attributes:
        kind: TEXT or BINARY.
        ended: its last byte has come.
        closed: it was given up before it was read to its end.
    """

    __slots__ = ("_at", "_pieces", "_searched", "closed", "ended", "kind")

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.ended = False
        self.closed = False
        self._pieces: deque[bytes] = deque()
        self._at = 0  # how much of the first one was read
        self._searched = 0  # how many of them are known to hold no end of a line

    @classmethod
    def whole(cls, message: str | bytes) -> Incoming:
        """Return a message that has come already."""
        if isinstance(message, str):
            whole, octets = cls(Kind.TEXT), message.encode()
        else:
            whole, octets = cls(Kind.BINARY), message
        whole.add(octets, final=True)
        return whole

    def __bool__(self) -> bool:
        return bool(self._pieces)

    @property
    def over(self) -> bool:
        """True when nothing more of it has to be kept."""
        return self.ended and (self.closed or not self._pieces)

    def add(self, octets: bytes, final: bool = False) -> None:
        """Take what has come; what nobody wants any more is dropped."""
        self.ended = final
        if octets and not self.closed:
            self._pieces.append(octets)

    def close(self) -> None:
        """Give it up. May be called by a finalizer, in any thread: nothing else is touched."""
        self.closed = True
        self._pieces = deque()

    def measure(self, size: int) -> int | None:
        """Return how many bytes a read of ``size`` gives, None while that is not known."""
        if size >= 0:
            return size if self._pieces or self.ended or not size else None
        if size == LINE and (found := self._line()):
            return found
        return sum(map(len, self._pieces)) - self._at if self.ended else None

    def take(self, size: int) -> bytes:
        """Return up to ``size`` bytes of what has come."""
        taken: list[bytes] = []
        self._searched = 0
        while size > 0 and self._pieces:
            piece = self._pieces[0]
            part = piece[self._at : self._at + size]
            self._at += len(part)
            if self._at == len(piece):
                self._pieces.popleft()
                self._at = 0
            taken.append(part)
            size -= len(part)
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def _line(self) -> int:
        """Return the size of the first line, 0 while its end has not come."""
        for number in range(self._searched, len(self._pieces)):
            end = self._pieces[number].find(b"\n", 0 if number else self._at) + 1
            if end:
                return sum(map(len, islice(self._pieces, number))) + end - self._at
            self._searched += 1
        return 0


class Messages(Protocol):
    """Where messages in pieces are asked for: what ``Receiver`` offers, and a connection too."""

    def next_stream(self) -> Incoming | None: ...
    def read_stream(self, stream: Incoming, size: int) -> bytes | None: ...


class Joined:
    """All messages of a connection as one, each followed by a separator.

    An ordinary end of the connection between two of them is the end of it.
    """

    def __init__(self, messages: Messages, separator: Data) -> None:
        self.closed = False
        self._messages = messages
        self._separator = separator.encode() if isinstance(separator, str) else bytes(separator)
        self._joined = Incoming(Kind.BINARY)
        self._message: Incoming | None = None

    def read(self, size: int) -> bytes | None:
        """Return up to ``size`` bytes, b"" at the end, None when nothing has come yet."""
        if self.closed:
            raise ValueError(CLOSED)
        while (count := self._joined.measure(size)) is None:
            if not self._pull():
                return None
        return self._joined.take(count)

    def close(self) -> None:
        """Give up the message that is being read."""
        self.closed = True
        if self._message is not None:
            self._message.close()

    def _pull(self) -> bool:
        """Take over what has come; False when nothing has."""
        octets = None
        try:
            if self._message is None:
                self._message = self._messages.next_stream()
            if self._message is not None:
                octets = self._messages.read_stream(self._message, READ_SIZE)
        except CloseError as error:
            if self._message is not None or not error.ordinary:
                raise
            self._joined.ended = True
            return True
        if octets == b"":
            octets, self._message = self._separator, None
        self._joined.add(octets or b"")
        return octets is not None
