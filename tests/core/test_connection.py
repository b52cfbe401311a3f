"""An open connection as a whole: keepalive, the limit of a message, how much has passed.

What is read is in ``test_receiver.py``, what is sent in ``test_sender.py``, handlers in
``test_responder.py``; the end in ``test_connection_close.py`` and ``test_connection_failure.py``.
"""

from __future__ import annotations

import pytest

from koko.core.connection import StreamAction
from koko.core.deflate import Agreed
from koko.core.lifecycle import State
from koko.errors import CloseError, ErrReadLimit
from koko.message import Kind, PreparedMessage
from tests.core.ends import client, said, server

HELLO = said("1 000 0001", b"hello")


# The limit of a message


def test_read_limit_can_change_while_the_connection_lives():
    end = server(read_limit=5)
    end.feed(HELLO, 1.0)
    assert end.read_limit == 5
    end.read_limit = 4
    end.feed(HELLO, 2.0)
    assert end.next_message() == "hello"
    with pytest.raises(ErrReadLimit, match=r"at least 5 bytes, read_limit=4"):
        end.next_message()


def test_read_limit_none_is_no_limit():
    end = server(read_limit=4)
    end.read_limit = None
    end.feed(HELLO, 1.0)
    assert end.next_message() == "hello"


@pytest.mark.parametrize("limit", [0, -1])
def test_read_limit_is_above_zero(limit):
    with pytest.raises(ValueError, match=f"read_limit={limit}: a number of bytes above 0"):
        server().read_limit = limit


@pytest.mark.parametrize("limit", ["5", True, 1.5])
def test_read_limit_is_a_whole_number(limit):
    end = server(read_limit=4)
    with pytest.raises(TypeError, match=f"^read_limit={limit}: a number of bytes above 0"):
        end.read_limit = limit
    assert end.read_limit == 4


# Keepalive


def test_a_silent_peer_is_pinged_and_then_given_up():
    end = server(ping_interval=20, ping_timeout=10)
    assert end.due_at == 20
    end.tick(20.0)
    assert end.take_owed()[:2] == b"\x89\x04"
    assert end.due_at == 30
    end.tick(30.0)
    assert end.state is State.CLOSED
    assert end.due_at is None
    assert end.stream_action is StreamAction.CLOSE
    with pytest.raises(CloseError) as raised:
        end.next_message()
    assert raised.value.code == 1006
    assert str(raised.value) == (
        "connection lost; no answer to a ping within 10 s, "
        "last heard the opening handshake 30.0 s ago"
    )


def test_the_keepalive_measures_the_latency():
    end = server(ping_interval=20)
    end.tick(20.0)
    end.feed(said("1 000 1010", end.take_owed()[2:]), 20.5)
    assert end.latency == 0.5


@pytest.mark.parametrize(("frame", "what"), [(HELLO, "a message"), (said("1 000 1010"), "a pong")])
def test_any_byte_is_life_and_the_error_says_what_came_last(frame, what):
    end = server(ping_interval=20, ping_timeout=20)
    end.feed(frame, 15.0)
    for due_at in (20.0, 35.0, 55.0):
        assert end.due_at == due_at
        end.tick(due_at)
    assert f"last heard {what} 40.0 s ago" in str(end.ending)


def test_nobody_is_pinged_where_the_interval_is_none():
    end = server(ping_interval=None)
    assert end.due_at is None
    end.tick(1e6)
    assert end.owed == []


def test_a_peer_we_did_not_listen_to_is_not_given_up():
    end = server(ping_interval=20, ping_timeout=20)
    end.tick(20.0)
    end.tick(40.0, listening=False)
    assert end.state is State.OPEN
    assert end.due_at == 60


def test_a_connection_that_is_over_has_nothing_due():
    end = server(ping_interval=20)
    end.feed_eof(1.0)
    end.tick(30.0)
    assert end.owed == []


# What passed


@pytest.mark.parametrize("agreed", [None, Agreed(threshold=0)], ids=["plain", "deflate"])
@pytest.mark.parametrize("make", [server, client])
def test_bytes_are_counted_as_they_pass(make, agreed):
    prepared = PreparedMessage(Kind.TEXT, "hello " * 50)
    for _ in range(2):  # a frame that is shared counts for each who sends it
        end = make(agreed)
        end.send(Kind.TEXT, "hello")
        end.send(Kind.BINARY, bytearray(300))
        end.send_prepared(prepared)
        end.start_ping(b"?", 1.0)
        with_parts = end.start_message(Kind.TEXT)
        with_parts.add(b"in parts")
        with_parts.end()
        end.start_close(1000, "", 1.0)
        assert end.bytes_out == len(end.take_owed())
    end = server(agreed)
    octets = HELLO + said("1 000 1001", b"?")
    for octet in octets:
        end.feed(bytes([octet]), 1.0)
    assert end.bytes_in == len(octets)


def test_how_much_is_read_ahead_can_be_asked_and_set() -> None:
    end = server()
    assert end.read_ahead == 1 << 16
    end.read_ahead = 1
    assert end.read_ahead == 1
