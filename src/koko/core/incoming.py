"""Messages that are read in pieces, as they come: what has come of one, and what a read gives.

Nothing here waits or knows a frame. ``connection`` puts the pieces in; a face asks for
bytes by a size, ``ALL`` or ``LINE`` and waits where it gets None.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from koko.core.lifecycle import WAITING
from koko.core.wire import Piece
from koko.errors import CloseError
from koko.message import Kind

if TYPE_CHECKING:
    from types import TracebackType

    from koko.core.codec import Decoder, Inbox, Item
    from koko.core.connection import Connection
    from koko.errors import Close, ProtocolError

ALL = -1  # up to the end of the message
LINE = -2  # up to the end of the line, or of the message

PART = 1 << 16  # bytes taken over at once

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


class Reading:
    """What a ``Connection`` does for its reader beside giving whole messages.

    While it does, the inbox is not ``only_messages``: any byte may be what the reader waits for.
    """

    if TYPE_CHECKING:  # what it stands on
        inbox: Inbox
        ending: BaseException | None
        _decoder: Decoder
        _peer_end: Close | ProtocolError | None
        _traceback: TracebackType | None

        def next_message(self) -> str | bytes | None: ...
        def catch_up(self) -> None: ...
        def _apply_peer_end(self) -> None: ...

    def __init__(self) -> None:
        self._in_parts = False  # the message last asked for is wanted in pieces
        self._timed = False
        self._discarding = False  # what comes now is for nobody
        self._stream: Incoming | None = None  # what is read, or skipped, in pieces; never ``over``

    def next_stream(self) -> Incoming | None:
        """Return the next message, None if it has not begun; raise how the connection ended.

        One that was not read to its end is given up.
        """
        self._leave_parts(for_parts=True)
        while self.inbox.backlog and not self._decoder.mid_message:
            self.catch_up()
        message = self.inbox.take() if self.inbox else None
        if message is not None:
            stream = Incoming.whole(message)
            self._stream = None if stream.over else stream
            if self.inbox.backlog:
                self.catch_up()
            return stream
        stopped = self._discarding or self._peer_end is not None or self.ending is not None
        opened = None if stopped or self._stream is not None else self._open_stream()
        if opened is None:
            self._await_more()
        return opened

    def read_stream(self, stream: Incoming, size: int) -> bytes | None:
        """Return up to ``size`` bytes of a message, or ``ALL`` or a ``LINE`` of it.

        b"" at its end, None when they have not come yet; raises how the connection ended
        in the middle, once what has come was read.
        """
        if stream.closed:
            raise self.ending or ValueError(CLOSED)
        while (count := stream.measure(size)) is None:
            if not self._decoder.backlog:
                self._await_more()
                return None
            self.catch_up()
        self.inbox.took()
        octets = stream.take(count)
        if not stream and self._stream is stream:
            if stream.over:
                self._stream = None
            self._emptied()
        return octets

    def watch(self, timed: bool) -> None:
        """Have the inbox not ``only_messages`` while a reader has to look at a clock."""
        self._timed = timed
        if timed:  # else the next read marks it: what was held back meanwhile it has to fetch
            self._mark()

    @property
    def skipping(self) -> bool:
        """True while what comes of a message is dropped."""
        return self._stream is not None and self._stream.closed

    # How it works inside

    def _mark(self) -> None:
        """Keep it true that the inbox is ``only_messages`` when there is nothing but messages."""
        parts = self._in_parts or self._stream is not None
        over = self._peer_end is not None or self.ending is not None
        self.inbox.only_messages = not (parts or over or self._timed or self._discarding)

    def _await_more(self) -> None:
        """Take note that the reader waits, or raise how the connection ended."""
        self.inbox.reader = WAITING
        self.inbox.unread = 0
        if self._peer_end is not None:
            self._apply_peer_end()
        if self.ending is not None:
            raise self.ending.with_traceback(self._traceback)

    def _emptied(self) -> None:
        """Take note that everything was read, as far as it has been parsed."""
        if not self.inbox:
            self.inbox.unread = 0
        if self.inbox.backlog:
            self.catch_up()

    def _open_stream(self) -> Incoming | None:
        """Have the message that has begun, if one has, come in pieces."""
        opcode = self._decoder.open_stream()
        if opcode is None:
            return None
        self._stream = stream = Incoming(Kind(opcode))
        self._mark()
        self.catch_up()  # what of it is here
        return stream

    def _discard(self, kept: int) -> None:
        """Forget all messages but the ``kept`` oldest, up to the end of what has come."""
        while True:
            self.inbox.keep(kept)
            if self._stream is None and (opcode := self._decoder.open_stream()) is not None:
                self._stream = Incoming(Kind(opcode))
                self._stream.close()
            if not self._decoder.backlog:
                break
            self.catch_up()

    def _leave_parts(self, for_parts: bool = False) -> None:
        """Give up what is read in pieces; what still comes of it is dropped."""
        self._in_parts = for_parts
        if self._stream is not None:
            self._stream.close()
            if self._decoder.backlog:
                self.catch_up()
        if self._stream is not None and self._stream.over:
            self._stream = None
        self._mark()
        while self.inbox.backlog and not for_parts and self._stream is None:
            self.catch_up()  # what the next message is, whole, or that no more of it is here

    def _sift(self, others: list[Item]) -> list[Item]:
        """Keep what belongs to the open message and return the rest."""
        stream = self._stream
        assert stream is not None
        rest: list[Item] = []
        while True:
            for item in others:
                if type(item) is Piece:
                    self.inbox.heard_what = "a part of a message"
                    stream.add(*item)
                else:
                    rest.append(item)
            # Nobody asks for more of what is dropped, so nobody would ask for what is held back.
            if not stream.closed or stream.ended or not self._decoder.backlog:
                break
            others = self.inbox.parse(b"") or []
        if stream.over:
            self._stream = None
            self._mark()
            if self.inbox.only_messages and self.inbox.backlog:
                rest += self.inbox.parse(b"") or []
        return rest


class Joined:
    """All messages of a connection as one, each followed by a separator.

    An ordinary end of the connection between two of them is the end of it.
    """

    def __init__(self, core: Connection, separator: bytes) -> None:
        self.closed = False
        self._core = core
        self._separator = separator
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
                self._message = self._core.next_stream()
            if self._message is not None:
                octets = self._core.read_stream(self._message, PART)
        except CloseError as error:
            if self._message is not None or not error.ordinary:
                raise
            self._joined.ended = True
            return True
        if octets == b"":
            octets, self._message = self._separator, None
        self._joined.add(octets or b"")
        return octets is not None
