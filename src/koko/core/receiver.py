"""What a reader is given: whole messages, one message in parts, and in the end how it ended.

The inbox makes messages of the peer's bytes; the responder acts on the control frames among
them. Nothing here waits: a face asks again where it gets None.
"""

from __future__ import annotations

from typing import Any

from koko.core.codec import Inbox, Item
from koko.core.incoming import CLOSED, Incoming
from koko.core.lifecycle import HELD, WAITING, Lifecycle
from koko.core.responder import Responder
from koko.core.wire import Control, Piece
from koko.message import Kind

READ_AHEAD = 1 << 16  # bytes read for nobody before a face should stop reading


class Receiver:
    """What a connection does for the one task or thread that reads from it.

    It keeps ``inbox.only_messages`` true as long as a reader can find nothing else: then a
    face may take messages from the inbox and feed it without asking here.
    """

    __slots__ = (
        "_decoder",
        "_discarding",
        "_in_parts",
        "_inbox",
        "_life",
        "_responder",
        "_stream",
        "_timed",
        "read_ahead",
    )

    def __init__(self, inbox: Inbox, life: Lifecycle, responder: Responder) -> None:
        self._inbox = inbox
        self._decoder = inbox.decoder
        self._life = life
        self._responder = responder
        self.read_ahead = READ_AHEAD
        self._in_parts = False  # the message last asked for is wanted in pieces
        self._timed = False  # a reader has to look at a clock
        self._discarding = False  # what comes now is for nobody
        self._stream: Incoming | None = None  # what is read, or skipped, in pieces; never ``over``

    # What the connection tells it

    def feed(self, data: bytes, now: float) -> None:
        """Take bytes from the peer."""
        kept = len(self._inbox)
        others = self._inbox.feed(data, now)
        if others is not None:
            self.handle(others)
        if self._discarding:
            self._discard(kept)

    def handle(self, others: list[Any]) -> None:
        """Act on what the inbox found beside messages: control frames, parts of a message."""
        try:
            self._responder.act_on(others if self._stream is None else self._sift(others))
        finally:
            self._note_peer_end()

    def catch_up(self) -> None:
        """Parse on where the decoder stopped: no more bytes may come, and a Close be behind."""
        others = self._inbox.parse(b"")
        if others is not None:
            self.handle(others)

    @property
    def held_until(self) -> float:
        """When the peer's end takes effect, which is held back."""
        inbox = self._inbox
        unread = bool(inbox or self._stream)
        return self._life.held_until(inbox.reader, inbox.taken_at, unread)

    @property
    def full(self) -> bool:
        """True when enough has been read that a face without a reader should stop."""
        if self._discarding or (self._inbox.unread < self.read_ahead and not self._decoder.backlog):
            return False
        stream = self._stream
        # Control frames alone are nothing to hold back for: nobody may ever receive.
        skipping = stream is not None and stream.closed
        return bool(self._inbox or stream) or (self._decoder.mid_message and not skipping)

    def discard_new(self) -> None:
        """Drop what comes from now on; what has come can still be read."""
        if self._discarding:
            return
        self._discarding = True
        self._stream = None  # its reader keeps what has come of it, and gets no more
        self._mark()
        self._discard(len(self._inbox))

    # What a reader asks for

    def next_message(self) -> str | bytes | None:
        """Return the next message, None if it has not come yet; raise how the connection ended."""
        inbox = self._inbox
        if not inbox.only_messages:
            self._leave_parts()
        message = inbox.take()
        if message is None:
            self._await_more()
        elif inbox.backlog:
            self.catch_up()
        return message

    def next_stream(self) -> Incoming | None:
        """Return the next message, None if it has not begun; raise how the connection ended.

        One that was not read to its end is given up.
        """
        self._leave_parts(for_parts=True)
        while self._inbox.backlog and not self._decoder.mid_message:
            self.catch_up()
        message = self._inbox.take() if self._inbox else None
        if message is not None:
            stream = Incoming.whole(message)
            self._stream = None if stream.over else stream
            if self._inbox.backlog:
                self.catch_up()
            return stream
        stopped = self._discarding or self._life.over
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
            raise self._life.ending or ValueError(CLOSED)
        while (count := stream.measure(size)) is None:
            if not self._decoder.backlog:
                self._await_more()
                return None
            self.catch_up()
        self._inbox.took()
        octets = stream.take(count)
        if not stream and self._stream is stream:
            if stream.over:
                self._stream = None
            self._emptied()
        return octets

    def watch(self, timed: bool) -> None:
        """Have the inbox not ``only_messages`` while a reader has to look at a clock."""
        self._timed = timed
        if timed:  # else the next read marks it: it must fetch what was held back meanwhile
            self._mark()

    # How it works inside

    def _note_peer_end(self) -> None:
        """Let the peer's end take effect if it has come and nothing holds it back."""
        life, responder = self._life, self._responder
        failure = self._decoder.failure
        if failure is not None:
            responder.note_peer_end(failure.with_traceback(None))
        if life.peer_end is None or (life.state in HELD and self.held_until > responder.now):
            return
        responder.apply_peer_end()

    def _mark(self) -> None:
        """Say anew whether a reader can find nothing but messages."""
        parts = self._in_parts or self._stream is not None
        self._inbox.only_messages = not (
            parts or self._timed or self._discarding or self._life.over
        )

    def _await_more(self) -> None:
        """Take note that the reader waits, or raise how the connection ended."""
        self._inbox.reader = WAITING
        self._inbox.unread = 0
        if self._life.peer_end is not None:
            self._responder.apply_peer_end()
        if self._life.ending is not None:
            raise self._life.raisable()

    def _emptied(self) -> None:
        """Take note that everything was read, as far as it has been parsed."""
        if not self._inbox:
            self._inbox.unread = 0
        if self._inbox.backlog:
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
            self._inbox.keep(kept)
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
        while self._inbox.backlog and not for_parts and self._stream is None:
            self.catch_up()  # up to the next whole message, or to the end of what has come

    def _sift(self, others: list[Item]) -> list[Control]:
        """Keep what belongs to the open message and return the control frames."""
        stream = self._stream
        assert stream is not None
        rest: list[Any] = []
        while True:
            for item in others:
                if type(item) is Piece:
                    self._inbox.heard_what = "a part of a message"
                    stream.add(*item)
                else:
                    rest.append(item)
            # Of a message that is dropped no reader asks for the rest: it is parsed here.
            if not stream.closed or stream.ended or not self._decoder.backlog:
                break
            others = self._inbox.parse(b"") or []
        if stream.over:
            self._stream = None
            self._mark()
            if self._inbox.only_messages and self._inbox.backlog:
                rest += self._inbox.parse(b"") or []
        return rest
