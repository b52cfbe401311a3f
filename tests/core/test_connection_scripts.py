"""Random scripts: whatever happens in whatever order, a connection keeps its law.

The law: nothing is raised but a WebSocketError, or ValueError for misuse; at most one
Close is owed and nothing after it; a state is left only for one that the table
knows; and once nothing may be sent, time alone or the end of the stream closes it. The
peer's end waits for our reader no longer than half of ``close_timeout``.
"""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from koko.core.connection import StreamAction
from koko.core.deflate import Agreed
from koko.core.lifecycle import HELD, MAY_SEND, NEXT, State
from koko.core.wire import Role
from koko.errors import WebSocketError
from koko.message import Kind, PreparedMessage
from tests.core.ends import client, said, server
from tests.wire import wire

CLOSE_TIMEOUT = 10
PREPARED = PreparedMessage(Kind.TEXT, "hello " * 100)

FRAMES = [
    ("1 000 0001", b"hello"),
    ("1 000 0010", b"\xff" * 300),
    ("0 000 0001", b"he"),
    ("0 000 0000", b"ll"),
    ("1 000 0000", b"o"),
    ("1 100 0001", b"\xcaH\xcd\xc9\xc9\x07\x00"),
    ("1 000 1001", b"42"),
    ("1 000 1010", b"42"),
    ("1 000 1000", b""),
    ("1 000 1000", b"\x03\xe8bye"),
    ("1 000 1000", b"\x0b\xb8"),
    ("1 000 1000", b"\x03"),
    ("1 000 1000", b"\x03\xee"),
    ("1 000 0001", b"\xff"),
    ("1 111 0011", b""),
    ("0 000 1001", b""),
]

frames = st.lists(st.sampled_from(FRAMES), min_size=1, max_size=4)
codes = st.sampled_from([999, 1000, 1001, 1005, 1006, 1011, 4999])
steps = st.one_of(
    st.tuples(st.just("feed"), frames),
    st.tuples(st.just("feed half"), frames),
    st.tuples(st.just("wait"), st.integers(1, 12)),
    st.tuples(st.just("close"), codes),
    st.tuples(
        st.sampled_from(
            ["read", "read", "send", "prepared", "ping", "pong", "control", "take", "drop", "eof"]
        ),
        st.none(),
    ),
)
# What a handler does when it is called, None for the default in its place.
deeds = st.sampled_from([None, "nothing", "close", "send", "pong", "eof", "read", "fail"])


class Script:
    """A connection to which anything may happen, and everything it has owed."""

    def __init__(self, role, agreed, ping_interval):
        make = server if role is Role.SERVER else client
        self.role = role
        self.now = 0
        self.held_from = None  # when the peer's end came
        self.ended_at = None  # when nothing could be sent any more
        self.owed = []
        self.end = make(
            agreed, close_timeout=CLOSE_TIMEOUT, ping_interval=ping_interval, ping_timeout=5
        )

    def frame(self, bits, payload):
        return said(bits, payload) if self.role is Role.SERVER else wire(f"{bits} 0 len", payload)

    def handler(self, deed):
        def handle(*args):
            if deed == "fail":
                raise WebSocketError("a handler's own mistake")
            if deed != "nothing":
                self.do(deed, 3000)

        return handle

    def play(self, verb, what):
        """Do one step as a face would, and check the law."""
        before = self.end.state
        with suppress(WebSocketError, ValueError):
            self.do(verb, what)
        self.tick()
        after = self.end.state
        if after in HELD and self.held_from is None:
            self.held_from = self.now
        if after not in MAY_SEND and self.ended_at is None:
            self.ended_at = self.now
        assert after in REACHABLE[before]
        assert after in (State.OPEN, State.CLOSED) or self.end.due_at is not None
        assert after is not State.CLOSED or self.end.ending is not None

    def do(self, verb, what):
        end, now = self.end, self.now
        if verb in ("feed", "feed half"):
            octets = b"".join(self.frame(*frame) for frame in what)
            end.feed(octets if verb == "feed" else octets[: len(octets) // 2 + 1], now)
        elif verb == "wait":
            self.now += what
        elif verb == "close":
            end.start_close(what, "", now)
        elif verb == "read":
            end.next_message()
        elif verb == "send":
            end.send(Kind.TEXT, "hello " * 50)
        elif verb == "prepared":
            end.send_prepared(PREPARED)
        elif verb == "ping":
            end.start_ping(b"42", now)
        elif verb == "pong":
            end.write_control(Kind.PONG, b"", now)
        elif verb == "control":
            end.write_control(Kind.CLOSE, b"\x03\xe8", now)
        elif verb == "take":
            self.owed += end.owed
            end.take_owed()
        elif verb == "drop":
            end.discard_new()
        else:
            end.feed_eof(now)

    def tick(self):
        due_at = self.end.due_at
        if due_at is not None and due_at <= self.now:
            self.end.tick(self.now)


def reachable(state):
    """Return the states that the table leads to from this one."""
    found = {state}
    for after in NEXT[state].values():
        found |= reachable(after)
    return found


REACHABLE = {state: reachable(state) for state in State}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    role=st.sampled_from(Role),
    agreed=st.sampled_from([None, Agreed()]),
    ping_interval=st.sampled_from([None, 3]),
    handlers=st.tuples(deeds, deeds, deeds),
    script=st.lists(steps, max_size=12),
)
def test_whatever_happens_the_law_is_kept(role, agreed, ping_interval, handlers, script):
    play = Script(role, agreed, ping_interval)
    for name, deed in zip(("on_ping", "on_pong", "on_close"), handlers, strict=True):
        setattr(play.end, name, play.handler(deed) if deed else None)
    for step in script:
        play.play(*step)
    end_by_time_alone(play)
    closes = [number for number, frame in enumerate(play.owed) if frame[0] == 0x88]
    assert closes in ([], [len(play.owed) - 1])
    # The Close of a keepalive that gives up is no part of a closing handshake.
    given_up = "no answer to a ping" in str(play.end.ending)
    assert bool(closes) == (play.end.sent is not None or given_up)


def end_by_time_alone(play):
    """Wait as long as anything is due, and see the connection closed if it was closing."""
    end = play.end
    if end.state is State.OPEN:
        play.play("eof", None)
    if end.state in HELD:
        assert end.due_at <= play.held_from + CLOSE_TIMEOUT / 2
        play.play("wait", CLOSE_TIMEOUT)
    while end.due_at is not None:
        assert end.due_at <= play.ended_at + CLOSE_TIMEOUT
        play.now = max(play.now, end.due_at)
        play.tick()
    assert end.state is State.CLOSED
    assert end.stream_action is StreamAction.CLOSE
    play.play("take", None)
    with pytest.raises(WebSocketError):
        list(iter(end.next_message, None))
