"""Messages that are read in pieces, as they come: what is given, skipped, waited for, refused."""

from __future__ import annotations

from typing import Any

import pytest

from koko import CloseError, ErrReadLimit, Kind, ProtocolError
from koko.aio import join_messages as join_aio
from koko.core.deflate import Agreed
from koko.core.wire import Role
from koko.sync import join_messages as join_sync
from tests.conversation.conftest import Talk
from tests.wire import compressed, wire

KIB = 1024


def reading(us: Any, **options: Any) -> Any:
    """Return the reader of the next message, which must have begun."""
    return us.on(us.next_reader(**options)[1])


# What is given


def test_reader_gives_what_has_come_and_then_what_comes(talk: Talk) -> None:
    us, peer = talk.open()
    begin = us.start_next_reader()
    assert begin.waits
    frame = peer.frame("0 000 0010", b"abcdef")
    peer.sends(frame[:-2])
    kind, reader = begin.result()
    assert kind is Kind.BINARY
    reader = us.on(reader)
    assert reader.read(3) == b"abc"
    assert reader.read(100) == b"d"
    more = reader.start_read(100)
    assert more.waits
    peer.sends(frame[-2:])
    assert more.result() == b"ef"
    peer.says("1 000 0000", b"g")
    assert reader.read(100) == b"g"
    assert reader.read(100) == reader.read() == b""


def test_reader_of_text_gives_bytes(talk: Talk) -> None:
    us, peer = talk.open()
    begin = us.start_next_reader()
    peer.says("0 000 0001", "hö".encode()[:-1])
    peer.says("1 000 0000", "hö".encode()[-1:] + b"re")
    kind, reader = begin.result()
    assert kind is Kind.TEXT
    assert us.on(reader).read() == "höre".encode()


def test_message_that_has_come_whole_is_read_the_same_way(talk: Talk) -> None:
    us, peer = talk.open()
    for payload in (b"whole", b"", b"next"):
        peer.says("1 000 0001", payload)
    reader = reading(us)
    assert [reader.read(4), reader.read(4), reader.read(4)] == [b"whol", b"e", b""]
    assert reading(us).read(1) == b""
    assert us.recv() == "next"


def test_read_without_a_size_waits_for_the_end(talk: Talk) -> None:
    us, peer = talk.open()
    begin = us.start_next_reader()
    peer.says("0 000 0010", b"one ")
    whole = us.on(begin.result()[1]).start_read()
    peer.says("0 000 0000", b"two ")
    assert whole.waits
    peer.says("1 000 0000", b"three")
    assert whole.result() == b"one two three"


def test_readinto_fills_what_it_can(talk: Talk) -> None:
    us, peer = talk.open()
    peer.says("1 000 0010", b"abcde")
    reader, buffer = reading(us), bytearray(3)
    assert reader.readinto(buffer) == 3
    assert buffer == b"abc"
    assert reader.readinto(buffer) == 2
    assert buffer == b"dec"
    assert reader.readinto(buffer) == 0


def test_iteration_over_a_reader_gives_lines(talk: Talk) -> None:
    us, peer = talk.open()
    begin = us.start_next_reader()
    peer.says("0 000 0001", b"one\ntwo\nth")
    lines = us.on(begin.result()[1]).start_iterate()
    peer.says("0 000 0000", b"r")
    peer.says("1 000 0000", b"ee\n\nfour")
    assert lines.result() == [b"one\n", b"two\n", b"three\n", b"\n", b"four"]


def test_pings_between_fragments_are_answered_while_reading(talk: Talk) -> None:
    us, peer = talk.open()
    begin = us.start_next_reader()
    peer.says("0 000 0010", b"a")
    whole = us.on(begin.result()[1]).start_read()
    peer.says("1 000 1001", b"alive?")
    peer.hears("1 000 1010", b"alive?")
    peer.says("1 000 0000", b"b")
    assert whole.result() == b"ab"


def test_compressed_message_is_inflated_as_it_is_read(talk: Talk) -> None:
    us, peer = talk.open(agreed=Agreed(), read_limit=None)
    begin = us.start_next_reader()
    payload = compressed(bytes(3_000_000))
    peer.says("0 100 0010", payload[:1000])
    reader = us.on(begin.result()[1])
    whole = 0
    peer.says("1 000 0000", payload[1000:])
    while piece := reader.read(1 << 20):
        whole += len(piece)
        assert piece.count(0) == len(piece) <= 1 << 20
    assert whole == 3_000_000


# What is skipped


@pytest.mark.parametrize("verb", ["recv", "next_reader", "read_message"])
def test_rest_of_a_message_is_skipped_when_the_next_is_asked_for(talk: Talk, verb: str) -> None:
    us, peer = talk.open(read_limit=10)
    begin = us.start_next_reader()
    peer.says("0 000 0010", b"six...")
    reader = us.on(begin.result()[1])
    assert reader.read(2) == b"si"
    then = getattr(us, f"start_{verb}")()
    assert then.waits
    peer.says("1 000 0000", b"ten.")
    assert then.waits
    # The limit is of this message alone; what was skipped is not charged to it.
    peer.says("1 000 0001", b"ten bytes.")
    then.result()
    with pytest.raises(ValueError, match="the next message was asked for"):
        reader.read(1)


@pytest.mark.parametrize("verb", ["recv", "next_reader", "read_message"])
def test_reader_is_closed_by_the_next_message_even_if_all_of_it_has_come(
    talk: Talk, verb: str
) -> None:
    us, peer = talk.open()
    peer.says("1 000 0010", b"first")
    peer.says("1 000 0010", b"second")
    reader = reading(us)
    assert reader.read(2) == b"fi"
    getattr(us, verb)()
    with pytest.raises(ValueError, match="the next message was asked for"):
        reader.read(1)


def test_iteration_closes_a_reader_too(talk: Talk) -> None:
    us, peer = talk.open()
    for payload in (b"first", b"second", b"third"):
        peer.says("1 000 0001", payload)
    reader = reading(us)
    peer.closes(1000)
    assert us.iterate() == ["second", "third"]
    with pytest.raises(CloseError):
        reader.read(1)


def test_reader_that_was_read_to_its_end_stays_at_its_end(talk: Talk) -> None:
    us, peer = talk.open()
    peer.says("1 000 0010", b"first")
    peer.says("1 000 0010", b"second")
    reader = reading(us)
    assert reader.read() == b"first"
    assert us.recv() == b"second"
    assert reader.read() == b""


def test_closed_reader_skips_its_message_at_once(talk: Talk) -> None:
    us, peer = talk.open(read_limit=None)
    begin = us.start_next_reader()
    peer.says("0 000 0010", b"some")
    reader = us.on(begin.result()[1])
    reader.close()
    reader.close()
    for _ in range(32):
        peer.says("0 000 0000", bytes(16 * KIB))
    talk.clock.advance(10)  # threads: 64 KiB a round of the housekeeper
    assert not peer.line.unheard
    peer.says("1 000 1001", b"still there?")
    talk.clock.advance(1)
    peer.hears("1 000 1010", b"still there?")
    with pytest.raises(ValueError, match="closed reader"):
        reader.read()


def test_compressed_message_that_is_skipped_is_drained(talk: Talk) -> None:
    us, peer = talk.open(agreed=Agreed(), read_limit=None)
    begin = us.start_next_reader()
    payload = compressed(bytes(3_000_000))
    peer.says("0 100 0010", payload[:10])
    begin.result()
    peer.says("1 000 0000", payload[10:])
    peer.says("1 000 0001", b"next")
    assert us.recv() == "next"


# Who waits, and how long


def test_read_that_times_out_loses_nothing(talk: Talk) -> None:
    us, peer = talk.open()
    begin = us.start_next_reader()
    peer.says("0 000 0010", b"before ")
    reader = us.on(begin.result()[1])
    for size in (-1, -1):
        late = reader.start_read(size, timeout=2)
        talk.clock.advance(2.1)
        with pytest.raises(TimeoutError, match="no more of the message came within 2 s"):
            late.result()
    peer.says("1 000 0000", b"and after")
    assert reader.read() == b"before and after"


def test_next_reader_that_times_out_leaves_the_message_to_recv(talk: Talk) -> None:
    us, peer = talk.open()
    late = us.start_next_reader(timeout=2)
    talk.clock.advance(2.1)
    with pytest.raises(TimeoutError, match="no message came within 2 s"):
        late.result()
    call = us.start_recv()
    peer.says("0 000 0001", b"in ")
    assert call.waits
    peer.says("1 000 0000", b"time")
    assert call.result() == "in time"


def test_second_receiver_is_refused_while_a_reader_waits(talk: Talk) -> None:
    us, peer = talk.open()
    begin = us.start_next_reader()
    peer.says("0 000 0010", b"")
    waiting = us.on(begin.result()[1]).start_read(1)
    with pytest.raises(RuntimeError, match="one receiver per connection"):
        us.recv()
    peer.says("1 000 0000", b"!")
    assert waiting.result() == b"!"


def test_reading_stops_at_about_64_kib_for_a_reader_that_is_busy(talk: Talk) -> None:
    us, peer = talk.open(read_limit=None)
    begin = us.start_next_reader()
    peer.says("0 000 0010", b"a")
    reader = us.on(begin.result()[1])
    for _ in range(16):
        peer.says("0 000 0000", bytes(16 * KIB))
    talk.clock.advance(1)
    taken = 16 * len(peer.frame("0 000 0000", bytes(16 * KIB))) - peer.line.unheard
    assert 64 * KIB <= taken <= 96 * KIB
    peer.says("1 000 0000", b"z")
    assert len(reader.read()) == 2 + 256 * KIB
    assert not peer.line.unheard


def test_reading_stops_there_for_half_a_message_that_nobody_waits_for(talk: Talk) -> None:
    us, peer = talk.open(read_limit=None)
    frame = peer.frame("1 000 0010", bytes(512 * KIB))
    peer.sends(frame)
    talk.clock.advance(1)
    assert 64 * KIB <= len(frame) - peer.line.unheard <= 96 * KIB
    assert us.recv() == bytes(512 * KIB)


def test_control_frames_alone_never_stop_the_reading(talk: Talk) -> None:
    _, peer = talk.open()
    ping = peer.frame("1 000 1001", bytes(125))
    for _ in range(10):
        peer.sends(ping * 100)
        talk.clock.advance(1)
        peer.line.written.clear()
    peer.sends(ping + ping[:3])
    talk.clock.advance(1)
    peer.hears("1 000 1010", bytes(125))
    peer.sends(ping[3:])
    talk.clock.advance(1)
    peer.hears("1 000 1010", bytes(125))


# Deadlines


def test_read_deadline_ends_every_read_and_harms_nothing(talk: Talk) -> None:
    us, peer = talk.open(ping_interval=None)
    us.conn.read_deadline = talk.clock.seconds + 5
    call = us.start_recv()
    talk.clock.advance(4.9)
    assert call.waits
    talk.clock.advance(0.2)
    for late in (call, us.start_recv(), us.start_next_reader(), us.start_recv(timeout=9)):
        with pytest.raises(TimeoutError, match="before read_deadline"):
            late.result()
    peer.says("1 000 0001", b"what has come is given")
    assert us.recv() == "what has come is given"
    us.conn.read_deadline = None
    call = us.start_recv()
    talk.clock.advance(100)
    peer.says("1 000 0001", b"at last")
    assert call.result() == "at last"


def test_earlier_one_of_deadline_and_timeout_counts(talk: Talk) -> None:
    us, _ = talk.open()
    us.conn.read_deadline = talk.clock.seconds + 5
    call = us.start_recv(timeout=2)
    talk.clock.advance(2.1)
    with pytest.raises(TimeoutError, match="within 2 s"):
        call.result()
    call = us.start_recv(timeout=20)
    talk.clock.advance(3)
    with pytest.raises(TimeoutError, match="before read_deadline"):
        call.result()


def test_pong_handler_can_put_the_deadline_off(talk: Talk) -> None:
    us, peer = talk.open()

    def put_off(_: bytes) -> None:
        us.conn.read_deadline = talk.clock.seconds + 5

    us.conn.read_deadline = talk.clock.seconds + 5
    us.conn.pong_handler = put_off
    call = us.start_recv()
    for _ in range(3):
        talk.clock.advance(4)
        peer.says("1 000 1010", b"")
    assert call.waits
    talk.clock.advance(5.1)
    with pytest.raises(TimeoutError, match="before read_deadline"):
        call.result()


def test_deadline_holds_for_a_reader(talk: Talk) -> None:
    us, peer = talk.open()
    us.conn.read_deadline = talk.clock.seconds + 5
    begin = us.start_next_reader()
    peer.says("0 000 0010", b"a")
    reader = us.on(begin.result()[1])
    late = reader.start_read()
    talk.clock.advance(5.1)
    with pytest.raises(TimeoutError, match="before read_deadline"):
        late.result()
    us.conn.read_deadline = None
    peer.says("1 000 0000", b"b")
    assert reader.read() == b"ab"


def test_message_held_back_under_a_deadline_is_given_without_one(talk: Talk) -> None:
    us, peer = talk.open(Role.SERVER, Agreed(), read_limit=None)
    us.conn.read_deadline = talk.clock.seconds + 5
    peer.says("1 100 0010", compressed(bytes(3_000_000)))
    us.conn.read_deadline = None
    assert us.recv() == bytes(3_000_000)


# The end in the middle


def test_close_between_fragments_is_raised_after_what_came_before_it(talk: Talk) -> None:
    us, peer = talk.open()
    begin = us.start_next_reader()
    peer.says("0 000 0010", b"good")
    reader = us.on(begin.result()[1])
    peer.closes(1001, "no more")
    assert reader.read(100) == b"good"
    for _ in range(2):
        with pytest.raises(CloseError, match="no more") as raised:
            reader.read(100)
        assert raised.value.code == 1001
    with pytest.raises(CloseError, match="no more"):
        us.next_reader()
    peer.hears_close(1001)


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
def test_end_of_the_stream_anywhere_in_a_frame_is_1006(talk: Talk, role: Role) -> None:
    whole = wire(f"1 000 0010 {role.peer.masks:d} len", bytes(130))
    for size in [*range(len(whole) - 126), len(whole) - 1]:
        us, peer = talk.open(role)
        begin = us.start_next_reader()
        peer.sends(whole[:size])
        readers = [] if begin.waits else [us.on(begin.result()[1])]
        peer.ends()
        if not readers:
            with pytest.raises(CloseError) as raised:
                begin.result()
            assert raised.value.code == 1006
        for reader in readers:
            got = reader.read(1000) if size > len(whole) - 130 else b""
            assert got == bytes(len(got))
            for _ in range(2):
                with pytest.raises(CloseError) as raised:
                    reader.read(1000)
                assert raised.value.code == 1006
        with pytest.raises(CloseError):
            us.next_reader()


def test_end_of_the_stream_between_fragments_is_1006(talk: Talk) -> None:
    us, peer = talk.open()
    begin = us.start_next_reader()
    peer.says("0 000 0010", b"good")
    reader = us.on(begin.result()[1])
    peer.ends()
    with pytest.raises(CloseError):
        reader.read()
    assert reader.read(100) == b"good"
    for verb in (reader.read, us.next_reader, us.recv):
        with pytest.raises(CloseError) as raised:
            verb()
        assert raised.value.code == 1006


@pytest.mark.parametrize("verb", ["recv", "next_reader"])
def test_end_of_the_stream_while_a_message_is_skipped_is_1006(talk: Talk, verb: str) -> None:
    us, peer = talk.open()
    begin = us.start_next_reader()
    peer.sends(peer.frame("1 000 0010", b"never read, nor whole")[:-1])
    begin.result()
    then = getattr(us, f"start_{verb}")()
    assert then.waits
    peer.ends()
    with pytest.raises(CloseError) as raised:
        then.result()
    assert raised.value.code == 1006


def test_bad_text_is_raised_where_the_good_ends(talk: Talk) -> None:
    us, peer = talk.open()
    begin = us.start_next_reader()
    peer.says("0 000 0001", b"good")
    reader = us.on(begin.result()[1])
    peer.sends(peer.frame("0 000 0000", b"more") + peer.frame("0 000 0000", b"\xff"))
    assert reader.read(4) == b"good"
    assert reader.read(8) == b"more"
    with pytest.raises(ProtocolError, match="not UTF-8"):
        reader.read(8)
    peer.hears_close(1007)
    with pytest.raises(ProtocolError):
        us.next_reader()


def test_limit_holds_for_a_message_read_in_pieces(talk: Talk) -> None:
    us, peer = talk.open(read_limit=10)
    begin = us.start_next_reader()
    peer.says("0 000 0010", b"five.")
    reader = us.on(begin.result()[1])
    peer.says("1 000 1010", b"a pong does not count")
    peer.says("1 000 0000", b"five.")
    assert reader.read() == b"five.five."
    begin = us.start_next_reader()
    peer.says("0 000 0010", b"five.")
    reader = us.on(begin.result()[1])
    peer.says("1 000 0000", b"six...")
    assert reader.read(100) == b"five."
    with pytest.raises(ErrReadLimit):
        reader.read(100)
    peer.hears_close(1009)


def test_negative_length_does_not_get_round_the_limit(talk: Talk) -> None:
    us, peer = talk.open(Role.SERVER, read_limit=10)
    begin = us.start_next_reader()
    peer.says("0 000 0010", b"five.")
    reader = us.on(begin.result()[1])
    peer.sends(wire("0 000 0000  1 1111111", length=(1 << 64) - 10))
    assert reader.read(100) == b"five."
    with pytest.raises(ProtocolError, match="top bit"):
        reader.read(100)
    peer.hears_close(1002)


def test_our_own_close_lets_a_reader_finish_what_came(talk: Talk) -> None:
    us, peer = talk.open()
    begin = us.start_next_reader()
    peer.says("0 000 0010", b"good")
    reader = us.on(begin.result()[1])
    waiting = reader.start_read()
    closing = us.start_close()
    peer.hears_close(1000)
    peer.says("1 000 0000", b"bye")
    assert waiting.result() == b"goodbye"
    peer.closes(1000)
    peer.ends()
    closing.result()


# Joined messages


@pytest.mark.parametrize("separator", ["", ","])
@pytest.mark.parametrize("chunk", range(1, 8))
def test_joined_messages_are_one_stream(talk: Talk, separator: str, chunk: int) -> None:
    us, peer = talk.open()
    messages = ["a", "bc", "", "def", "ghij", "", "k", "lmno", "p"]
    join = join_aio if talk.face == "aio" else join_sync
    joined = us.on(join(us.conn, separator))
    for message in messages[:-1]:
        peer.says("1 000 0001", message.encode())
    peer.says("0 000 0010", b"")
    peer.says("1 000 0000", b"p")
    peer.closes(1000)
    pieces = list(iter(lambda: joined.read(chunk), b""))
    assert all(len(piece) <= chunk for piece in pieces)
    assert b"".join(pieces) == "".join(message + separator for message in messages).encode()
    assert joined.read() == b""


def test_joined_messages_end_in_the_error_of_the_connection(talk: Talk) -> None:
    us, peer = talk.open()
    join = join_aio if talk.face == "aio" else join_sync
    joined = us.on(join(us.conn, b"\n"))
    whole = joined.start_read()
    peer.says("1 000 0001", b"one")
    peer.says("0 000 0001", b"tw")
    peer.closes(1000)
    with pytest.raises(CloseError):  # in the middle of a message no Close is ordinary
        whole.result()
    assert joined.read(100) == b"one\ntw"
    us, peer = talk.open()
    joined = us.on(join(us.conn))
    peer.closes(1011)
    with pytest.raises(CloseError):
        joined.read()
