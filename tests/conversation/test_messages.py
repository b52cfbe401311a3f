"""What is said is heard: messages, their kinds, who may send and receive."""

from __future__ import annotations

import pytest

from koko import CloseError, ErrReadLimit, Kind, PreparedMessage
from koko.core.deflate import Agreed
from koko.core.wire import Role
from tests.conversation.conftest import Talk

SEVENS = bytes(number * 7 & 0xFF for number in range(256))


@pytest.fixture(params=list(Role), ids=lambda role: role.value)
def role(request: pytest.FixtureRequest) -> Role:
    return request.param  # type: ignore[no-any-return]


def test_text_comes_as_str_and_goes_as_text(talk: Talk, role: Role) -> None:
    us, peer = talk.open(role)
    peer.says("1 000 0001", "höre".encode())
    assert us.recv() == "höre"
    us.send("sage ß")
    peer.hears("1 000 0001", "sage ß".encode())


def test_binary_comes_as_bytes_and_goes_as_binary(talk: Talk, role: Role) -> None:
    us, peer = talk.open(role)
    peer.says("1 000 0010", b"\x00\xff")
    assert us.recv() == b"\x00\xff"
    us.send(memoryview(b"\xff\x00"))
    peer.hears("1 000 0010", b"\xff\x00")


def test_empty_message_is_a_message_and_not_the_end(talk: Talk, role: Role) -> None:
    us, peer = talk.open(role)
    for kind, empty in (("0001", ""), ("0010", b"")):
        peer.says(f"1 000 {kind}")
        assert us.recv() == empty
        us.send(empty)
        peer.hears(f"1 000 {kind}", b"")
    call = us.start_recv()
    peer.closes(1000)
    with pytest.raises(CloseError):
        call.result()


@pytest.mark.parametrize("agreed", [None, Agreed(threshold=0)], ids=["plain", "deflate"])
@pytest.mark.parametrize("size", [0, 1, 124, 125, 126, 127, 65535, 65536, 65537, 200_000])
def test_message_of_any_size_is_what_it_was_on_the_other_side(
    talk: Talk, role: Role, size: int, agreed: Agreed | None
) -> None:
    payload = (SEVENS * (size // len(SEVENS) + 1))[:size]
    us, peer = talk.open(role, agreed)
    us.send(payload)
    frame = peer.hears()
    them, echo = talk.open(role.peer, agreed)
    echo.says(frame.bits, frame.payload)
    assert them.recv() == payload


def test_waiting_receiver_gets_the_message_as_it_arrives(talk: Talk) -> None:
    us, peer = talk.open()
    call = us.start_recv()
    assert call.waits
    peer.says("1 000 0001", b"here")
    assert call.result() == "here"


def test_messages_that_nobody_waited_for_are_kept_in_order(talk: Talk) -> None:
    us, peer = talk.open()
    for payload in (b"1", b"2", b"3"):
        peer.says("1 000 0001", payload)
    assert [us.recv(), us.recv(), us.recv()] == ["1", "2", "3"]


def test_fragments_are_one_message_with_a_ping_in_between(talk: Talk) -> None:
    us, peer = talk.open()
    call = us.start_recv()
    peer.says("0 000 0001", "eins ä".encode()[:-1])
    peer.says("1 000 1001", b"alive?")
    peer.says("1 000 0000", "ä zwei".encode()[1:])
    peer.hears("1 000 1010", b"alive?")
    assert call.result() == "eins ä zwei"


def test_read_message_tells_the_kind(talk: Talk) -> None:
    us, peer = talk.open()
    peer.says("1 000 0001", b"text")
    peer.says("1 000 0010", b"bytes")
    assert us.read_message() == (Kind.TEXT, "text")
    assert us.read_message() == (Kind.BINARY, b"bytes")


def test_bytes_given_as_text_are_sent_as_they_are(talk: Talk) -> None:
    us, peer = talk.open()
    us.write_message(Kind.TEXT, b'{"a": 1}')
    peer.hears("1 000 0001", b'{"a": 1}')


def test_prepared_message_goes_to_many_connections(talk: Talk, role: Role) -> None:
    prepared = PreparedMessage(Kind.TEXT, "to all")
    for us, peer in (talk.open(role), talk.open(role)):
        us.write_prepared(prepared)
        peer.hears("1 000 0001", b"to all")


def test_what_is_no_message_is_a_type_error_that_shows_the_way_out(talk: Talk) -> None:
    us, peer = talk.open()
    with pytest.raises(TypeError, match="not dict"):
        us.send({})
    with pytest.raises(ValueError, match="see write_control"):
        us.write_message(Kind.PING, b"")
    with pytest.raises(TypeError, match="a binary message is bytes, not str"):
        us.write_message(Kind.BINARY, "text")
    peer.hears_nothing()


def test_recv_that_times_out_loses_nothing(talk: Talk) -> None:
    us, peer = talk.open()
    frame = peer.frame("1 000 0001", b"half before, half after")
    call = us.start_recv(timeout=5)
    peer.sends(frame[:12])
    talk.clock.advance(4.9)
    assert call.waits
    talk.clock.advance(0.2)
    with pytest.raises(TimeoutError, match="no message came within 5 s"):
        call.result()
    peer.sends(frame[12:])
    assert us.recv(timeout=5) == "half before, half after"


def test_recv_with_no_time_takes_what_is_there(talk: Talk) -> None:
    us, peer = talk.open()
    waiting = us.start_recv()
    peer.sends(peer.frame("1 000 0001", b"first") + peer.frame("1 000 0001", b"second"))
    assert waiting.result() == "first"
    assert us.recv(timeout=0) == "second"
    with pytest.raises(TimeoutError):
        us.recv(timeout=0)


def test_second_receiver_is_told_who_receives_already(talk: Talk) -> None:
    us, peer = talk.open()
    first = us.start_recv()
    with pytest.raises(RuntimeError, match=r"recv\(\) is already running in (task|thread) '\w+'"):
        us.recv()
    peer.says("1 000 0001", b"for the first")
    assert first.result() == "for the first"


def test_writers_that_meet_never_interleave(talk: Talk) -> None:
    us, peer = talk.open()
    peer.stops_reading()
    letters = b"abcd"
    calls = [us.start_send(bytes([letter]) * 100_000) for letter in letters]
    peer.reads_on()
    heard = [peer.hears("1 000 0010").payload for _ in letters]
    assert sorted(heard) == [bytes([letter]) * 100_000 for letter in letters]
    assert [call.result() for call in calls] == [None] * 4


def test_message_larger_than_the_limit_is_refused_with_1009(talk: Talk) -> None:
    us, peer = talk.open(read_limit=10)
    peer.says("1 000 0010", b"ten bytes.")
    peer.says("1 000 0010", b"eleven byte")
    assert us.recv() == b"ten bytes."
    with pytest.raises(ErrReadLimit, match="read_limit=10"):
        us.recv()
    peer.hears_close(1009)


def test_limit_is_the_messages_and_not_the_fragments(talk: Talk) -> None:
    us, peer = talk.open(read_limit=10)
    call = us.start_recv()
    for bits in ("0 000 0010", "0 000 0000"):
        peer.says(bits, b"five.")
    assert call.waits
    peer.says("0 000 0000", b"!")
    with pytest.raises(ErrReadLimit):
        call.result()


def test_limit_can_be_set_while_open(talk: Talk) -> None:
    us, peer = talk.open()
    us.conn.read_limit = 3
    peer.says("1 000 0001", b"four")
    with pytest.raises(ErrReadLimit):
        us.recv()
    assert us.conn.read_limit == 3


def test_limit_must_be_a_number_above_zero(talk: Talk) -> None:
    us, _ = talk.open()
    with pytest.raises(ValueError, match="above 0"):
        us.conn.read_limit = 0


@pytest.mark.parametrize("code", [1000, 1001, None])
def test_iteration_ends_with_an_ordinary_close(talk: Talk, code: int | None) -> None:
    us, peer = talk.open()
    call = us.start_iterate()
    peer.says("1 000 0001", b"one")
    peer.says("1 000 0001", b"two")
    peer.says("1 000 1000", b"" if code is None else code.to_bytes(2, "big"))
    assert call.result() == ["one", "two"]


@pytest.mark.parametrize("code", [1002, 1011, 3000])
def test_iteration_raises_any_other_close(talk: Talk, code: int) -> None:
    us, peer = talk.open()
    call = us.start_iterate()
    peer.closes(code, "because")
    with pytest.raises(CloseError, match="because") as raised:
        call.result()
    assert raised.value.code == code


def test_iteration_raises_a_lost_connection(talk: Talk) -> None:
    us, peer = talk.open()
    call = us.start_iterate()
    peer.ends()
    with pytest.raises(CloseError, match="stream ended without a Close"):
        call.result()


def test_iteration_ends_after_our_own_close(talk: Talk) -> None:
    us, peer = talk.open(Role.SERVER)
    reading = us.start_iterate()
    closing = us.start_close(3001)
    peer.closes(3001)
    closing.result()
    assert reading.result() == []


def test_json_goes_as_text_and_comes_from_text_and_binary(talk: Talk) -> None:
    us, peer = talk.open()
    us.write_json({"ä": [1, None]})
    peer.hears("1 000 0001", b'{"\\u00e4": [1, null]}')
    peer.says("1 000 0001", b"[1, 2]")
    peer.says("1 000 0010", b'{"a": true}')
    assert us.read_json() == [1, 2]
    assert us.read_json() == {"a": True}


def test_what_json_cannot_encode_sends_nothing(talk: Talk) -> None:
    us, peer = talk.open()
    with pytest.raises(TypeError, match="not JSON serializable"):
        us.write_json({1, 2})
    us.send("next")
    peer.hears("1 000 0001", b"next")


def test_bad_json_leaves_the_connection_unharmed(talk: Talk) -> None:
    us, peer = talk.open()
    whole = b'{"A": [1, "a"]}'
    for broken in (b"  ", b"nonsense", *(whole[:size] for size in range(len(whole)))):
        peer.says("1 000 0001", broken)
        with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
            us.read_json()
    peer.says("1 000 0001", whole)
    assert us.read_json() == {"A": [1, "a"]}


def test_another_json_library_can_be_given(talk: Talk) -> None:
    us, peer = talk.open()
    us.write_json([1], encoder=lambda value: bytes(value))
    peer.hears("1 000 0001", b"\x01")
    peer.says("1 000 0001", b"[1]")
    assert us.read_json(decoder=str.upper) == "[1]"
