"""How a connection is closed: by the peer, by us, and the time it may take.

How it fails is in ``test_connection_failure.py``.
"""

from __future__ import annotations

import pytest

from koko.core.connection import StreamAction
from koko.core.lifecycle import State
from koko.errors import ErrCloseSent
from koko.message import Kind
from tests.core.ends import client, ending, said, server

HELLO = said("1 000 0001", b"hello")
CLOSE_1001 = said("1 000 1000", b"\x03\xe9")


# The peer closes


def test_close_answer_echoes_the_code_received():
    end = server()
    end.feed(said("1 000 1000", b"\x03\xe9deploying"), 1.0)
    assert end.take_owed() == b"\x88\x02\x03\xe9"
    error = ending(end)
    assert (error.code, error.reason) == (1001, "deploying")
    assert (error.sent, error.received) == ((1001, ""), (1001, "deploying"))
    assert error.by_peer
    assert error.ordinary
    assert str(error) == "peer closed with 1001 (going away) 'deploying'; we answered 1001"


def test_a_close_without_a_code_is_answered_without_one():
    end = server()
    end.feed(said("1 000 1000"), 1.0)
    assert end.take_owed() == b"\x88\x00"
    assert ending(end).code == 1005
    assert (end.sent, end.received) == ((1005, ""), (1005, ""))


def test_after_both_closes_the_server_drops_the_stream_and_the_client_waits_for_that():
    us, peer = server(), client()
    peer.start_close(1000, "", 1.0)
    us.feed(peer.take_owed(), 1.0)
    peer.feed(us.take_owed(), 1.0)
    assert us.state is peer.state is State.DONE
    assert us.stream_action is StreamAction.CLOSE
    assert peer.stream_action is StreamAction.KEEP
    peer.feed_eof(1.0)
    assert peer.stream_action is StreamAction.CLOSE
    assert str(peer.ending) == "we closed with 1000 (normal); peer answered 1000"


def test_a_client_does_not_wait_for_ever_for_the_server_to_drop_the_stream():
    end = client(close_timeout=10)
    end.feed(b"\x88\x02\x03\xe8", 1.0)
    assert end.due_at == 11
    end.tick(11.0)
    assert end.stream_action is StreamAction.CLOSE
    assert end.ending.code == 1000


def test_nothing_is_read_after_a_close():
    end = server()
    end.feed(CLOSE_1001 + HELLO + said("1 000 0011"), 1.0)
    end.feed(HELLO, 2.0)
    assert ending(end).code == 1001
    assert not end.full


def test_messages_before_a_close_are_read_and_can_be_answered():
    end = server()
    end.feed(HELLO + HELLO + CLOSE_1001, 1.0)
    for _ in range(2):
        assert end.next_message() == "hello"
        end.send(Kind.TEXT, "ho")
    assert end.take_owed() == b"\x81\x02ho\x81\x02ho"
    assert ending(end).code == 1001
    assert end.take_owed() == b"\x88\x02\x03\xe9"


def test_a_reader_that_took_a_message_can_answer_it_before_the_close():
    end = server()
    end.feed(HELLO, 1.0)
    assert end.next_message() == "hello"
    end.feed(CLOSE_1001, 1.1)
    assert end.owed == []
    end.send(Kind.TEXT, "ho")
    assert ending(end).code == 1001
    assert end.take_owed() == b"\x81\x02ho\x88\x02\x03\xe9"


def test_a_message_that_was_taken_long_ago_holds_nothing_back():
    end = server()
    end.feed(HELLO, 1.0)
    end.next_message()
    end.feed(CLOSE_1001, 1.3)
    assert end.take_owed() == b"\x88\x02\x03\xe9"


def test_an_answer_that_has_begun_may_end_and_what_is_sent_meanwhile_renews_nothing():
    end = server()
    end.feed(HELLO, 1.0)
    end.next_message()
    end.send(Kind.TEXT, "ho")
    end.feed(CLOSE_1001, 9.0)
    assert end.due_at == pytest.approx(9.1)
    end.send(Kind.TEXT, "ho")
    assert end.due_at == pytest.approx(9.1)
    end.tick(9.1)
    assert end.take_owed() == b"\x81\x02ho" * 2 + b"\x88\x02\x03\xe9"
    with pytest.raises(ErrCloseSent):
        end.send(Kind.TEXT, "more")


@pytest.mark.parametrize("ping_interval", [None, 1])
def test_what_nobody_takes_holds_a_close_back_for_a_second(ping_interval):
    end = server(close_timeout=10, ping_interval=ping_interval)
    end.feed(HELLO + CLOSE_1001, 1.0)
    end.feed(HELLO, 1.5)
    assert end.due_at == 2
    end.tick(1.9)
    assert end.owed == []
    end.tick(2.0)
    assert end.take_owed() == b"\x88\x02\x03\xe9"
    assert end.due_at == 12


def test_what_is_unread_when_a_close_takes_effect_can_be_read_but_not_answered():
    end = server()
    end.feed(HELLO + CLOSE_1001, 1.0)
    end.tick(2.0)
    assert end.next_message() == "hello"
    with pytest.raises(ErrCloseSent):
        end.send(Kind.TEXT, "ho")
    assert ending(end).code == 1001


def test_each_message_taken_holds_the_close_back_but_half_of_close_timeout_is_the_end():
    end = server(close_timeout=10)
    end.feed(HELLO * 9 + CLOSE_1001, 1.0)
    for taken_at in (1.9, 2.8, 3.7, 4.6, 5.5):
        end.inbox.taken_at = taken_at
        assert end.next_message() == "hello"
        assert end.due_at == min(taken_at + 1, 6)
        end.send(Kind.TEXT, "ho")
    end.tick(6.0)
    assert end.sent == (1001, "")


def test_our_own_close_answers_a_close_that_is_held_back():
    end = server()
    end.feed(HELLO + CLOSE_1001, 1.0)
    end.start_close(1000, "enough", 1.0)
    assert end.take_owed() == b"\x88\x08\x03\xe8enough"
    assert end.state is State.DONE
    assert end.next_message() == "hello"
    assert str(ending(end)) == "peer closed with 1001 (going away); we answered 1000"


def test_a_fault_while_a_close_is_held_back_is_answered_with_1011():
    end = server()
    end.feed(HELLO + CLOSE_1001, 1.0)
    end.fault(LookupError("own mistake"))
    assert end.take_owed() == b"\x88\x02\x03\xf3"
    assert end.received == (1001, "")
    assert end.state is State.DONE


def test_our_close_in_the_middle_of_a_message_of_ours_says_so():
    end = server(write_buffer_size=4)
    message = end.start_message(Kind.BINARY)
    message.add(b"abcdef")
    end.take_owed()
    end.start_close(1000, "", 1.0)
    assert end.sent == (1011, "a message was cut off in the middle")


@pytest.mark.parametrize("cut", [True, False])
def test_our_close_is_as_it_was_given_when_no_fragment_had_left(cut):
    end = server(write_buffer_size=4)
    message = end.start_message(Kind.BINARY)
    message.add(b"abcd")
    if not cut:
        message.add(b"ef")
        message.end()
    end.start_close(1000, "", 1.0)
    assert end.sent == (1000, "")


# The close handler


def test_the_close_handler_hears_the_code_and_the_reason_before_the_answer():
    end, heard = server(), []
    end.on_close = lambda code, reason: heard.append((code, reason, end.take_owed()))
    end.feed(said("1 000 1000", b"\x03\xe8bye"), 1.0)
    assert heard == [(1000, "bye", b"")]
    assert end.take_owed() == b"\x88\x02\x03\xe8"


def test_the_close_handler_hears_the_answer_to_our_own_close_too():
    end, heard = server(), []
    end.on_close = lambda *close: heard.append(close)
    end.start_close(1000, "", 1.0)
    end.feed(CLOSE_1001, 2.0)
    assert heard == [(1001, "")]


def test_the_close_handler_may_answer_in_its_own_words():
    end = server()
    end.on_close = lambda code, reason: end.start_close(3000, "mine", 1.0)
    end.feed(CLOSE_1001, 1.0)
    assert end.take_owed() == b"\x88\x06\x0b\xb8mine"
    assert end.state is State.DONE
    assert str(ending(end)) == "peer closed with 1001 (going away); we answered 3000"


def test_what_the_close_handler_raises_is_answered_with_1011_and_raised_to_the_reader():
    def fail(code, reason):
        raise LookupError("own mistake")

    end = server()
    end.on_close = fail
    end.feed(CLOSE_1001, 1.0)
    assert end.take_owed() == b"\x88\x02\x03\xf3"
    assert end.stream_action is StreamAction.CLOSE
    with pytest.raises(LookupError, match="own mistake"):
        end.next_message()


def test_a_close_handler_comes_too_late_to_send_and_that_is_not_its_fault():
    end = server()
    end.on_close = lambda code, reason: end.send(Kind.TEXT, "wait")
    end.feed(CLOSE_1001, 1.0)
    assert end.take_owed() == b"\x88\x02\x03\xe9"
    assert ending(end).code == 1001


def test_the_close_handler_may_drop_the_stream():
    end = server()
    end.on_close = lambda code, reason: end.feed_eof(1.0, "we dropped it")
    end.feed(CLOSE_1001, 1.0)
    assert end.owed == []
    assert str(ending(end)) == "peer closed with 1001 (going away); we could not answer"


# We close


@pytest.mark.parametrize(
    ("code", "reason", "frame"),
    [
        (1000, "", b"\x88\x02\x03\xe8"),
        (4999, "bye", b"\x88\x05\x13\x87bye"),
        (1005, "", b"\x88\x00"),
    ],
)
def test_our_close_is_owed_and_its_answer_awaited(code, reason, frame):
    end = server(close_timeout=10)
    end.start_close(code, reason, 1.0)
    assert end.take_owed() == frame
    assert end.state is State.CLOSING
    assert end.stream_action is StreamAction.KEEP
    assert end.due_at == 11


@pytest.mark.parametrize("code", [999, 1004, 1006, 1015, 1016, 2999, 5000])
def test_codes_that_may_not_be_sent_are_refused_and_nothing_has_happened(code):
    end = server()
    with pytest.raises(ValueError, match=f"close code {code} may not be sent"):
        end.start_close(code, "", 1.0)
    assert end.state is State.OPEN
    assert end.sent is None


def test_a_reason_goes_with_a_code():
    with pytest.raises(ValueError, match="close code 1005 may not be sent"):
        server().start_close(1005, "bye", 1.0)


def test_a_reason_too_long_is_refused_and_nothing_has_happened():
    end = server()
    with pytest.raises(ValueError, match="at most 123 bytes, this one 124"):
        end.start_close(1000, "é" * 62, 1.0)
    assert end.state is State.OPEN


@pytest.mark.parametrize(
    "write",
    [
        lambda end: end.send(Kind.TEXT, "x"),
        lambda end: end.write_control(Kind.PING, b"", 1.0),
        lambda end: end.start_ping(None, 1.0),
        lambda end: end.start_close(1000, "", 1.0),
    ],
    ids=["send", "write_control", "start_ping", "start_close"],
)
def test_nothing_can_be_written_after_our_close(write):
    end = server()
    end.start_close(1000, "bye", 1.0)
    end.take_owed()
    with pytest.raises(ErrCloseSent) as raised:
        write(end)
    assert str(raised.value) == "nothing can be sent after a Close; we sent 1000 (normal) 'bye'"
    assert end.owed == []


def test_nothing_is_ponged_after_our_close():
    end = server()
    end.start_close(1000, "", 1.0)
    end.take_owed()
    end.feed(said("1 000 1001", b"42"), 1.0)
    assert end.owed == []


def test_messages_are_read_after_our_close_until_the_peers():
    end = server()
    end.start_close(1000, "", 1.0)
    end.feed(HELLO, 1.0)
    assert end.next_message() == "hello"
    end.feed(CLOSE_1001, 2.0)
    assert end.state is State.DONE
    error = ending(end)
    assert error.code == 1001
    assert error.ordinary
    assert not error.by_peer
    assert str(error) == "we closed with 1000 (normal); peer answered 1001"


def test_after_our_close_the_peers_is_noticed_though_messages_are_unread():
    end = server()
    end.start_close(1000, "", 1.0)
    end.feed(HELLO + CLOSE_1001, 1.0)
    assert end.state is State.DONE
    assert end.next_message() == "hello"
    assert ending(end).code == 1001


def test_a_peer_that_never_answers_our_close_is_dropped():
    end = server(close_timeout=10)
    end.start_close(1000, "", 1.0)
    end.tick(10.9)
    assert end.state is State.CLOSING
    end.feed(HELLO, 10.9)
    end.tick(11.0)
    assert end.state is State.CLOSED
    assert end.stream_action is StreamAction.CLOSE
    assert end.next_message() == "hello"
    error = ending(end)
    assert (error.code, error.sent, error.received) == (1006, (1000, ""), None)
    assert str(error) == (
        "connection lost; we had sent 1000 (normal); no answer within 10 s, "
        "last heard a message 0.1 s ago"
    )


def test_our_close_answers_the_peers_that_waits_to_be_noticed():
    end = server()
    end.feed(HELLO + CLOSE_1001, 1.0)
    end.start_close(1000, "", 2.0)
    assert end.take_owed() == b"\x88\x02\x03\xe8"
    assert end.state is State.DONE
    assert end.next_message() == "hello"
    error = ending(end)
    assert error.by_peer
    assert str(error) == "peer closed with 1001 (going away); we answered 1000"


def test_writing_after_both_closes_says_who_closed_and_with_what():
    end = server()
    end.feed(CLOSE_1001, 1.0)
    with pytest.raises(ErrCloseSent) as raised:
        end.send(Kind.TEXT, "x")
    assert raised.value.code == 1001
    assert str(raised.value) == (
        "nothing can be sent after a Close; peer closed with 1001 (going away); we answered 1001"
    )
