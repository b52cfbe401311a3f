"""What follows from the peer's control frames, and from what a handler of them does."""

from __future__ import annotations

import pytest

from koko.core.connection import StreamAction
from koko.core.lifecycle import State
from koko.errors import CloseError, ErrCloseSent
from koko.message import Kind
from tests.core.ends import said, server

HELLO = said("1 000 0001", b"hello")


def test_pong_repeats_the_ping_payload():
    end = server()
    end.feed(said("1 000 1001", b"42"), 1.0)
    assert end.take_owed() == b"\x8a\x0242"


# Handlers


def test_a_ping_handler_stands_in_for_the_pong():
    end, heard = server(), []
    end.on_ping = heard.append
    end.feed(said("1 000 1001", b"42"), 1.0)
    assert heard == [b"42"]
    assert end.owed == []


def test_a_pong_handler_hears_every_pong():
    end, heard = server(), []
    end.on_pong = heard.append
    end.start_ping(b"1", 1.0)
    end.feed(said("1 000 1010", b"1") + said("1 000 1010", b"unasked"), 1.0)
    assert heard == [b"1", b"unasked"]


def fail(*args):
    raise LookupError("a handler's own mistake")


@pytest.mark.parametrize(
    ("handler", "frame"),
    [("on_ping", said("1 000 1001")), ("on_pong", said("1 000 1010"))],
)
def test_what_a_handler_raises_closes_with_1011_and_is_raised_to_the_reader(handler, frame):
    end = server()
    setattr(end, handler, fail)
    end.feed(HELLO + frame, 1.0)
    assert end.take_owed() == b"\x88\x02\x03\xf3"
    assert end.stream_action is StreamAction.HALF_CLOSE
    end.feed(HELLO, 2.0)
    assert end.next_message() == "hello"
    with pytest.raises(LookupError, match="own mistake") as raised:
        end.next_message()
    assert raised.traceback[-1].name == "fail"
    with pytest.raises(ErrCloseSent):
        end.send(Kind.TEXT, "hello")


@pytest.mark.parametrize(
    "behind",
    [said("1 000 1000", b"\x03\xe8"), said("1 000 0011"), said("1 000 1001")],
    ids=["Close", "violation", "ping"],
)
def test_what_comes_in_one_packet_behind_a_fault_of_ours_changes_nothing(behind):
    end = server()
    end.on_ping = fail
    end.feed(said("1 000 1001") + behind, 1.0)
    assert end.take_owed() == b"\x88\x02\x03\xf3"
    assert end.state is State.FAILED
    with pytest.raises(LookupError, match="own mistake"):
        end.next_message()


def test_the_traceback_of_a_fault_does_not_grow_with_each_read():
    end = server()
    end.on_ping = fail
    end.feed(said("1 000 1001"), 1.0)
    lengths = set()
    for _ in range(3):
        with pytest.raises(LookupError) as raised:
            end.next_message()
        lengths.add(len(raised.traceback))
    assert len(lengths) == 1


def test_a_fault_of_a_handler_that_runs_elsewhere_ends_the_connection_at_once():
    end = server()
    end.feed(HELLO, 1.0)
    end.fault(LookupError("late"))
    assert end.take_owed() == b"\x88\x02\x03\xf3"
    assert end.state is State.FAILED


def test_a_ping_handler_may_close():
    end = server()
    end.on_ping = lambda payload: end.start_close(1000, "", 1.0)
    end.feed(said("1 000 1001") + said("1 000 1000", b"\x03\xe8"), 1.0)
    assert end.take_owed() == b"\x88\x02\x03\xe8"
    assert end.state is State.DONE


def test_a_ping_handler_that_is_too_late_to_answer_harms_nothing():
    end = server()
    end.on_ping = lambda payload: end.write_control(Kind.PONG, payload, 1.0)
    end.start_close(1000, "", 1.0)
    end.feed(said("1 000 1001") + said("1 000 1000", b"\x03\xe8"), 1.0)
    with pytest.raises(CloseError, match="we closed with 1000"):
        end.next_message()


def test_an_end_of_its_own_is_a_handlers_fault_while_the_connection_is_open():
    def refuse(payload):
        raise CloseError(1008, "no pings")

    end = server()
    end.on_ping = refuse
    end.feed(said("1 000 1001"), 1.0)
    assert end.take_owed() == b"\x88\x02\x03\xf3"
    with pytest.raises(CloseError, match="no pings"):
        end.next_message()


def test_a_fault_after_the_end_changes_nothing():
    end = server()
    end.feed(said("1 000 1000", b"\x03\xe8"), 1.0)
    end.fault(LookupError("late"))
    assert end.ending.code == 1000


def test_a_handler_that_is_interrupted_loses_nothing_of_what_came_with_its_ping():
    end = server()
    pings = []

    def interrupted(payload):
        pings.append(payload)
        raise KeyboardInterrupt

    end.on_ping = interrupted
    with pytest.raises(KeyboardInterrupt):
        end.feed(said("1 000 1001", b"1") + said("1 000 1000", b"\x03\xe8"), 1.0)
    assert pings == [b"1"]
    with pytest.raises(CloseError):
        end.next_message()
    assert end.received == (1000, "")
