"""Moves bytes between a socket and the core, and lets threads take turns at it.

Whoever wants something from the peer - a message, a pong, a Close - becomes the reader if
there is none and else waits for what the reader finds, so that no connection needs a thread
of its own. A reader that owes something writes what leaves at once and never waits behind a
writer: two peers whose pipes are full would wait for each other for ever. Whose turn it is
to write is ``writer``'s, what an interrupt may not harm ``monitor``'s.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from koko.core.connection import Connection, Ping, StreamAction
from koko.core.control import close_payload
from koko.core.keepalive import Backlog
from koko.core.lifecycle import State
from koko.errors import Close
from koko.message import Data
from koko.send_queue import backlog_on
from koko.sync.clock import CLOCK, Clock
from koko.sync.housekeeper import Kept, complain, housekeeper
from koko.sync.message_lock import MessageLock
from koko.sync.monitor import END, PARSING, Monitor, News, Turns
from koko.sync.reader import STAY, Reader
from koko.sync.reflex import FastPath
from koko.sync.transport import Stream, broken_by, is_bare
from koko.sync.writer import Writer

_GLANCE = 4  # reads of the housekeeper's in one round: a peer that floods is not its only one


class Keeper(Protocol):
    """Who looks after a connection while no thread is inside."""

    def keep(self, kept: Kept) -> None: ...
    def forget(self, kept: Kept) -> None: ...


class Driver:
    """The private half of a ``Conn``: its lock, its roles, its socket.

    Attributes:
        turns: who does what at the moment; where there is a fast path, it is that.
        closed: the socket has been given back.
    """

    def __init__(
        self,
        core: Connection,
        stream: Stream,
        early: bytes = b"",
        clock: Clock = CLOCK,
        keeper: Keeper = housekeeper,
    ) -> None:
        self.core = core
        self.stream = stream
        self.clock = clock
        self.closed = False
        self.news = News(clock)  # threads that wait for what the reader finds
        self.message_lock = MessageLock(core)
        # The parts are ours alone: that they call us makes no cycle for the collector.
        us: Any = weakref.proxy(self)
        self.turns = turns = FastPath(us) if FastPath and is_bare(stream) else Turns()
        self.monitor = Monitor(turns, us.cut_off, us.catch_up)
        self.writer = Writer(core, stream, turns, self.monitor, self.message_lock, us, clock)
        self.reader = Reader(core, stream, turns, self.monitor, self.news, self.writer, us, clock)
        self._half_closed = False
        if not isinstance(turns, Turns):
            self.next_message = turns.next_message  # type: ignore[method-assign]
            self.write_message = turns.write_message  # type: ignore[method-assign]
        if early:  # what the peer said right behind its handshake
            core.feed(early, clock.now())
        self._keeper = keeper
        keeper.keep(self)

    # What a Conn calls

    def next_message(self) -> str | bytes:
        """Return the next message; where there is a fast path, that does it."""
        message: str | bytes = self.reader.receive(None, self.core.next_message)
        return message

    def write_message(self, kind: int, message: Data) -> None:
        """Send a message; where there is a fast path, that does it."""
        self.writer.write(None, self.core.send, kind, message)

    def ping(self, payload: bytes | None, timeout: float | None) -> float:
        """Send a ping, wait for its pong and return the seconds between."""
        self.check_nested("ping")
        deadline = self.clock.deadline_in(timeout)
        sent: list[Ping] = []
        self.writer.write_between(
            deadline, lambda: sent.append(self.core.start_ping(payload, self.clock.now()))
        )

        def answered() -> float | None:
            if sent[0].round_trip is None and self.core.ending is not None:
                raise self.core.ending.with_traceback(None)
            return sent[0].round_trip

        def late() -> None:
            raise TimeoutError(f"no pong came within {timeout:g} s")

        round_trip: float = self.reader.wait_for(answered, lambda: deadline, late)
        return round_trip

    def wait_closed(self, timeout: float | None) -> None:
        """Wait until the socket has been given back."""
        self.check_nested("wait_closed")
        deadline = self.clock.deadline_in(timeout)

        def late() -> None:
            raise TimeoutError(f"the connection was not over within {timeout:g} s")

        self.reader.wait_for(lambda: self.closed or None, lambda: deadline, late)

    def start_close(self, code: int, reason: str) -> None:
        """Send a Close unless it is too late for one; wait for nothing."""
        self.monitor.call(self._start_close, code, reason)

    def finish(self, timeout: float) -> None:
        """Wait for the peer's end of the closing handshake, at most so long, and let go."""
        if self.monitor.nested:
            return
        deadline = self.clock.now() + timeout
        late = partial(self.abort, f"no answer within {timeout:g} s")
        self.reader.wait_for(self._find_over, lambda: deadline, late)
        self._give_time(lambda: self.closed)

    def abort(self, why: str) -> None:
        """Drop the socket at once."""
        if not self.closed:
            self.monitor.call(self._abort, why)

    # What the housekeeper calls

    def look_after(self) -> float | None:
        """Do what time makes due; read in the place of an application that does not.

        Returns when it wants to be looked after again, None for never.
        """
        # A thread that sends on and on has the lock whenever we come: then it does the work.
        self.turns.overdue = True
        self.monitor.call(int, blocking=False)
        return self.core.due_at

    def disown(self) -> None:
        """End the connection in a child of fork, without a word to the peer: it is the parent's."""
        turns = self.turns
        # Its holder may not exist here; ``logging`` does the same.
        turns.lock._at_fork_reinit()  # type: ignore[union-attr]
        turns.inside = 0
        turns.receiver = turns.reader = turns.writer = turns.under_way = None
        self.writer.mute = self.closed = True
        self.stream.close()
        self.core.feed_eof(self.clock.now(), "since a fork it belongs to the parent process")

    # How a thread waits: without the lock

    def _give_time(self, done: Callable[[], bool]) -> None:
        """Wait a moment for what other threads are about to do."""
        until = self.clock.now() + STAY
        while not done() and self.clock.now() < until:
            self.news.wait(self.monitor.call(self.news.ticket), self.clock.time_left(until))

    def settled_error(self) -> BaseException:
        """Return how it ended, once the reader has seen the end."""
        self._give_time(lambda: self.turns.reader is None or self.core.state is State.CLOSED)
        self.abort(self.reader.why)
        return self.core.closed_error()

    # With the lock held

    def settle(self) -> None:
        """Write what a reader owes and did not gather, and part if the connection is over."""
        if self.core.owed and not self.turns.gathered:
            self.writer.flush()
        if self.core.ending is not None:
            self.apply_stream_action()

    def _start_close(self, code: int, reason: str) -> None:
        close_payload(Close(code, reason))  # misuse is told before anything is under way
        if self.core.may_send:
            before, self.turns.under_way = self.turns.under_way, END
            self.core.start_close(code, reason, self.clock.now())
            self.turns.under_way = before
        self.apply_stream_action()

    def _find_over(self) -> bool | None:
        self.apply_stream_action()
        if self.core.full:
            self.core.discard_new()  # the peer's Close is behind it
        return self.closed or self.core.state is State.CLOSED or None

    def _abort(self, why: str) -> None:
        before, self.turns.under_way = self.turns.under_way, END
        self.core.feed_eof(self.clock.now(), why)
        self.turns.under_way = before
        self.apply_stream_action()

    def cut_off(self, what: str) -> None:
        """Go on with what an interrupt has cut off, or else end the connection."""
        if what is PARSING:
            self.reader.parse(self.core.catch_up)
            self.reader.tell()
            return
        self.core.feed_eof(self.clock.now(), f"an interrupt cut off {what}")
        self.turns.under_way = None
        self.apply_stream_action()

    def catch_up(self) -> None:
        """Do what the housekeeper came for; nobody's verb fails by that."""
        try:
            self._look_after(self.clock.now())
        except Exception:
            complain(self)

    def _look_after(self, now: float) -> None:
        core = self.core
        listening = self.turns.reader is not None or not self.reader.has_enough
        if self.turns.reader is None:
            self.reader.read_what_is_there(_GLANCE)
        due_at = core.due_at
        if due_at is not None and now >= due_at:
            core.tick(now, listening, self._backlog)
        if core.owed or self.stream.pending:
            self.writer.flush()
        self.writer.look_after()
        self.reader.tell()

    @property
    def _backlog(self) -> Backlog:
        return backlog_on(self.stream.socket.fileno(), self.stream.pending)

    def broken(self, error: OSError) -> None:
        """Give up writing: what the peer said before is still read, then it is over."""
        self.writer.mute = True
        self.reader.why = broken_by(error)
        self.stream.shutdown()  # a thread that reads finds what is left, then the end
        if self.turns.reader is None and not self.turns.under_way:
            self.reader.read_what_is_there(1 << 8)
            self.core.feed_eof(self.clock.now(), self.reader.why)

    def apply_stream_action(self) -> None:
        """Do to the socket what the state of the connection asks for; wait for nothing."""
        self.writer.flush()
        core = self.core
        if self.message_lock.holder and not core.may_send:
            self.writer.turn.tell()
        action = core.stream_action
        if core.state is not State.CLOSED and (
            core.owed or self.stream.pending or self.turns.writer
        ):
            return
        if action is StreamAction.CLOSE:
            self._drop()
        elif action is StreamAction.HALF_CLOSE and not self._half_closed:
            self._half_closed = True
            self.stream.end()

    def _drop(self) -> None:
        if not self.writer.mute:
            if self.core.state is not State.CLOSED:
                self.stream.end()
                self.core.feed_eof(self.clock.now())
            self.writer.mute = True
            self.stream.shutdown()  # and whoever is inside comes out
            self.news.tell()
        # A number given back while a thread is inside might already be another's socket.
        if not self.closed and self.turns.reader is None and self.turns.writer is None:
            self.stream.close()
            self.closed = True
            self._keeper.forget(self)
            self.news.tell()
            self.writer.turn.tell()

    # Misuse

    def check_nested(self, verb: str) -> None:
        """Raise in a handler: it would wait for the thread that it runs in."""
        if self.monitor.nested:
            raise RuntimeError(
                f"{verb}() called from a handler would wait for the thread that it runs in; "
                "do it in another thread"
            )
