"""Moves bytes between the stream and the core of one connection, and ends both.

The connection's lock is held whenever anything here is called, and nothing here waits. A
thread that reads writes its answers here at once, as far as they leave, and never waits
behind a writer: two peers whose pipes are full would wait for each other for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from koko.core.connection import Connection, StreamAction
from koko.core.keepalive import Backlog
from koko.core.lifecycle import State
from koko.send_queue import backlog_on
from koko.sync.clock import Clock
from koko.sync.housekeeper import complain
from koko.sync.message_lock import MessageLock
from koko.sync.monitor import END, FRAME, PARSING, READING, News, Turns
from koko.sync.transport import READ, Stream, broken_by, is_broken

_READS_A_ROUND = 4  # of the housekeeper's on one connection: the others have their turn as well
_READS_AT_THE_END = 1 << 8  # of what the peer had said before the connection broke


class Link:
    """The stream and the core of one connection.

    Attributes:
        news: the threads that wait for something to be read, or for the end.
        closed: the socket has been given back.
        mute: nothing can be written any more.
        gathered: bytes owed by a thread that gathers its messages, not to be written yet.
        why: what the end of the stream means, as far as is known.
    """

    def __init__(
        self,
        core: Connection,
        stream: Stream,
        turns: Turns,
        message_lock: MessageLock,
        clock: Clock,
        on_closed: Callable[[], object],
    ) -> None:
        self.core = core
        self.stream = stream
        self.turns = turns
        self.message_lock = message_lock
        self.clock = clock
        self.news = News(clock)
        self.closed = False
        self.mute = False
        self.gathered = 0
        self.why = "the peer's stream ended without a Close"
        self._on_closed = on_closed
        self._half_closed = False

    # Reading

    @property
    def has_enough(self) -> bool:
        """True when no more should be read until a thread receives."""
        return self.core.full and self.core.ending is None

    def read(self, ready: int = READ) -> bytes | None:
        """Take what the socket has and act on it; None when it has nothing."""
        octets = None
        if ready & READ:
            self.turns.under_way = READING
            try:
                octets = self.stream.recv()
            except OSError as error:
                octets = self.failed(error)
        self.feed(octets)
        return octets

    def read_ahead(self, reads: int) -> None:
        """Read what has come, at most ``reads`` times, while no thread is the reader."""
        while reads and not self.closed and not self.has_enough:
            reads = reads - 1 if self.read() else 0

    def feed(self, octets: bytes | None) -> None:
        """Hand on what was read, b"" at the end, and write what is owed for it."""
        if octets:
            self.parse(partial(self.core.feed, octets, self.clock.now()))
        elif octets is not None:
            self.turns.under_way = READING
            self.core.feed_eof(self.clock.now(), self.why)
        self.turns.under_way = None
        self.flush()

    def parse(self, feed: Callable[[], None]) -> None:
        """Call what parses; if an interrupt stops it where it can be resumed, note that."""
        self.turns.under_way = READING
        try:
            feed()
        except BaseException:
            if self.core.inbox.decoder.interrupted:
                self.turns.under_way = PARSING
            raise
        self.turns.under_way = None

    def failed(self, error: OSError) -> bytes:
        """Note why nothing more can be read, and return the end of the stream."""
        if not is_broken(error):
            raise error
        self.why = broken_by(error)
        return b""

    def tell(self) -> None:
        """Wake all threads that wait for something to be read."""
        if self.core.ending is not None:
            self.apply_stream_action()
        self.news.tell()

    # Writing

    @property
    def has_room(self) -> bool:
        """True when a message that begins now can leave at once."""
        return self.turns.writer is None and not self.stream.pending

    def flush(self) -> None:
        """Write what is owed as far as it leaves at once."""
        stream, owed = self.stream, self.core.owed
        if self.mute or not (owed or stream.pending):
            return
        turns = self.turns
        before = turns.under_way
        if not stream.steady:
            turns.under_way = FRAME
        try:
            # Nothing is added behind what is stuck: the core bounds the pongs that it owes.
            if (not stream.pending or stream.flush()) and owed:
                stream.write(owed)
        except OSError as error:
            if not is_broken(error):
                raise
            turns.under_way = before
            self._broken(error)
        turns.under_way = before

    def settle(self) -> None:
        """Write what is owed, unless it is gathered, and apply the end if it has come."""
        if not self.gathered:
            self.flush()
        if self.core.ending is not None:
            self.apply_stream_action()

    def _broken(self, error: OSError) -> None:
        # What the peer had sent before is still read.
        self.mute = True
        self.why = broken_by(error)
        self.stream.shutdown()  # a thread that reads finds what is left, then the end
        if self.turns.reader is None and not self.turns.under_way:
            self.read_ahead(_READS_AT_THE_END)
            self.core.feed_eof(self.clock.now(), self.why)

    # The end

    def start_close(self, code: int, reason: str) -> None:
        """Send a Close if one may still be sent."""
        if self.core.may_send:
            before, self.turns.under_way = self.turns.under_way, END
            self.core.start_close(code, reason, self.clock.now())
            self.turns.under_way = before
        self.apply_stream_action()

    def abort(self, why: str) -> None:
        """End the connection and drop the socket."""
        if self.closed:
            return
        before, self.turns.under_way = self.turns.under_way, END
        self.core.feed_eof(self.clock.now(), why)
        self.turns.under_way = before
        self.apply_stream_action()

    def apply_stream_action(self) -> None:
        """Do to the socket what the state of the connection asks for."""
        if self.closed:
            return
        self.flush()
        core = self.core
        if self.message_lock.message is not None and not core.may_send:
            self.message_lock.waiting.tell()
        if core.state is not State.CLOSED and (
            core.owed or self.stream.pending or self.turns.writer
        ):
            return
        action = core.stream_action
        if action is StreamAction.CLOSE:
            self._drop()
        elif action is StreamAction.HALF_CLOSE and not self._half_closed:
            self._half_closed = True
            self.stream.end()

    def _drop(self) -> None:
        if not self.mute:
            if self.core.state is not State.CLOSED:
                self.stream.end()
                self.core.feed_eof(self.clock.now())
            self.mute = True
            self.stream.shutdown()  # wakes a thread that waits for the socket
            self.news.tell()
        # A number given back while a thread is inside might already be another's socket.
        if self.turns.reader is None and self.turns.writer is None:
            self.stream.close()
            self.closed = True
            self._on_closed()
            self.news.tell()
            self.message_lock.waiting.tell()

    # What the next call does first

    def cut_off(self, what: str) -> None:
        """Resume what an interrupt has cut off, or else end the connection."""
        if what is PARSING:
            self.parse(self.core.catch_up)
            self.tell()
            return
        self.core.feed_eof(self.clock.now(), f"an interrupt cut off {what}")
        self.turns.under_way = None
        self.apply_stream_action()

    def catch_up(self) -> None:
        """Do what time makes due; read what has come if no thread does."""
        try:
            self._catch_up(self.clock.now())
        except Exception:
            complain(self)

    def _catch_up(self, now: float) -> None:
        core = self.core
        listening = self.turns.reader is not None or not self.has_enough
        if self.turns.reader is None:
            self.read_ahead(_READS_A_ROUND)
        due_at = core.due_at
        if due_at is not None and now >= due_at:
            core.tick(now, listening, self._backlog)
        self.flush()
        self.message_lock.leave_dropped(self.clock.now())
        self.tell()

    @property
    def _backlog(self) -> Backlog:
        return backlog_on(self.stream.socket.fileno(), self.stream.pending)
