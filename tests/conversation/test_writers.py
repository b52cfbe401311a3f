"""Messages that are written in parts: their fragments, their turn, what becomes of a half one."""

from __future__ import annotations

import gc
import zlib
from typing import Any

import pytest

from koko import CloseError, ErrCloseSent, Kind, PreparedMessage
from koko.core.deflate import Agreed
from koko.core.wire import Role
from koko.sync import Delivery
from tests.conversation.conftest import Talk

CUT = "a message was cut off in the middle"


def writing(us: Any, kind: Kind = Kind.BINARY, **options: Any) -> Any:
    return us.on(us.next_writer(kind, **options))


def drop(held: list[Any]) -> None:
    held.clear()
    gc.collect()


# Fragments


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
def test_message_that_fits_is_one_frame(talk: Talk, role: Role) -> None:
    us, peer = talk.open(role, write_buffer_size=8)
    for payload in (b"", b"short", b"exactly."):
        writer = writing(us, Kind.TEXT)
        assert writer.write(payload) == len(payload)
        peer.hears_nothing()
        writer.close()
        peer.hears("1 000 0001", payload)


def test_fragment_leaves_when_the_buffer_is_full_and_more_comes(talk: Talk) -> None:
    us, peer = talk.open(write_buffer_size=4)
    writer = writing(us)
    writer.write(b"abc")
    writer.write(b"d")
    peer.hears_nothing()
    writer.write(b"efghijk")
    peer.hears("0 000 0010", b"abcd")
    peer.hears("0 000 0000", b"efgh")
    peer.hears_nothing()
    writer.close()
    peer.hears("1 000 0000", b"ijk")


def test_text_is_written_as_str_or_as_bytes(talk: Talk) -> None:
    us, peer = talk.open()
    writer = writing(us, Kind.TEXT)
    assert writer.write("hö") == 3
    writer.write(memoryview(b"re"))
    writer.close()
    peer.hears("1 000 0001", "höre".encode())


def test_only_messages_are_written_in_parts(talk: Talk) -> None:
    us, peer = talk.open()
    with pytest.raises(ValueError, match="see write_control"):
        us.next_writer(Kind.PING)
    writer = writing(us)
    with pytest.raises(TypeError, match="a binary message is bytes, not str"):
        writer.write("text")
    writer.close()
    peer.hears("1 000 0010", b"")


def test_closed_writer_takes_nothing_more(talk: Talk) -> None:
    us, peer = talk.open()
    writer = writing(us)
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="closed writer"):
        writer.write(b"more")
    assert writer.conn.closed
    peer.hears("1 000 0010", b"")
    peer.hears_nothing()


@pytest.mark.parametrize("takeover", [False, True])
def test_compressed_message_is_one_deflate_stream_over_its_fragments(
    talk: Talk, takeover: bool
) -> None:
    agreed = Agreed(client_no_context_takeover=not takeover)
    us, peer = talk.open(agreed=agreed, write_buffer_size=100)
    inflate = zlib.decompressobj(-15)
    for _ in range(2):
        payload = b"".join(b"%d " % (number * number) for number in range(2000))
        writer = writing(us)
        for at in range(0, len(payload), 999):
            writer.write(payload[at : at + 999])
        writer.close()
        first = peer.hears("0 100 0010")
        octets = first.payload
        while (frame := peer.hears()).bits != "1 000 0000":
            assert frame.bits == "0 000 0000"
            assert len(frame.payload) == 100
            octets += frame.payload
        assert inflate.decompress(octets + frame.payload + b"\x00\x00\xff\xff") == payload
        if not takeover:
            inflate = zlib.decompressobj(-15)


# Turns


def test_other_messages_wait_for_the_end_of_one_and_control_frames_do_not(talk: Talk) -> None:
    us, peer = talk.open(write_buffer_size=4)
    writer = writing(us)
    writer.write(b"abcdef")
    sends = [
        us.start_send("text"),
        us.start_write_message(Kind.BINARY, b"bytes"),
        us.start_write_json([1]),
        us.start_write_prepared(PreparedMessage(Kind.TEXT, "prepared")),
    ]
    us.pong(b"heartbeat")
    us.write_control(Kind.PING, b"ping", deadline=talk.clock.seconds + 1)
    assert all(call.waits for call in sends)
    writer.close()
    peer.hears("0 000 0010", b"abcd")
    peer.hears("1 000 1010", b"heartbeat")
    peer.hears("1 000 1001", b"ping")
    peer.hears("1 000 0000", b"ef")
    heard = sorted(peer.hears().payload for _ in range(4))
    assert heard == [b"[1]", b"bytes", b"prepared", b"text"]
    assert [call.result() for call in sends] == [None] * 4


def test_second_writer_waits_for_the_end_of_the_first(talk: Talk) -> None:
    us, peer = talk.open()
    first = writing(us)
    opening = us.start_next_writer(Kind.TEXT)
    assert opening.waits
    first.close()
    second = us.on(opening.result())
    second.write("second")
    second.close()
    peer.hears("1 000 0010", b"")
    peer.hears("1 000 0001", b"second")


def test_send_that_does_not_get_its_turn_in_time_sends_nothing(talk: Talk) -> None:
    us, peer = talk.open()
    writer = writing(us)
    calls = [us.start_send("late", timeout=2), us.start_next_writer(Kind.TEXT, timeout=2)]
    talk.clock.advance(2.1)
    for call in calls:
        with pytest.raises(TimeoutError):
            call.result()
    writer.write(b"unharmed")
    writer.close()
    peer.hears("1 000 0010", b"unharmed")
    peer.hears_nothing()


def test_receiving_goes_on_while_a_message_is_written(talk: Talk) -> None:
    us, peer = talk.open(write_buffer_size=4)
    writer = writing(us)
    writer.write(b"abcdef")
    peer.says("1 000 0001", b"hello")
    assert us.recv() == "hello"
    writer.close()


def test_who_waits_for_a_writer_is_told_when_the_connection_ends(talk: Talk) -> None:
    us, peer = talk.open()
    writer = writing(us)
    waiting = [us.start_send("never"), us.start_next_writer(Kind.TEXT)]
    reading = us.start_recv()
    peer.closes(1001)
    with pytest.raises(CloseError):
        reading.result()
    for call in waiting:
        with pytest.raises(CloseError):
            call.result()
    with pytest.raises(CloseError):
        writer.write(b"never")
    with pytest.raises(ValueError, match="closed writer"):
        writer.write(b"never")


def test_no_message_ends_after_our_close(talk: Talk) -> None:
    us, peer = talk.open(write_buffer_size=4)
    writer = writing(us)
    writer.write(b"abcdef")
    us.start_close(1000)
    with pytest.raises(ErrCloseSent):
        writer.close()
    peer.hears("0 000 0010", b"abcd")
    peer.hears_close(1011, "a message was cut off in the middle")
    peer.hears_nothing()


# Half a message


@pytest.mark.parametrize("agreed", [None, Agreed()], ids=["plain", "compressed"])
def test_block_that_fails_before_a_fragment_left_sends_nothing(
    talk: Talk, agreed: Agreed | None
) -> None:
    us, peer = talk.open(agreed=agreed, write_buffer_size=100)
    writer = writing(us)
    writer.write(bytes(90) if agreed is None else bytes(5000))
    with pytest.raises(KeyError):
        writer.leave(KeyError("app"))
    peer.hears_nothing()
    us.send("unharmed")
    peer.hears("1 000 0001", b"unharmed")
    assert us.conn.ending is None


def test_block_that_fails_in_the_middle_closes_with_1011(talk: Talk) -> None:
    us, peer = talk.open(write_buffer_size=4)
    writer = writing(us)
    writer.write(b"abcdef")
    waiting = us.start_send("never")
    with pytest.raises(KeyError):
        writer.leave(KeyError("app"))
    peer.hears("0 000 0010", b"abcd")
    peer.hears_close(1011, CUT)
    peer.hears_nothing()
    for late in (lambda: us.send("never"), waiting.result):
        with pytest.raises(ErrCloseSent, match=CUT):
            late()
    with pytest.raises(ValueError, match="closed writer"):
        writer.write(b"never")


def test_block_that_ends_well_ends_the_message(talk: Talk) -> None:
    us, peer = talk.open()
    writer = writing(us)
    writer.write(b"whole")
    writer.leave()
    peer.hears("1 000 0010", b"whole")


def test_write_that_times_out_in_the_middle_closes_the_connection_and_says_so(
    talk: Talk,
) -> None:
    us, peer = talk.open(close_timeout=3)
    writer = writing(us)
    writer.write(bytes(100_000))
    peer.stops_reading()
    blocked = us.on(writer.conn).start_write(bytes(300_000), timeout=2)
    talk.clock.advance(2.1)
    with pytest.raises((TimeoutError, CloseError), match=CUT):
        blocked.result()
    with pytest.raises(CloseError):
        us.send("never")
    talk.clock.advance(5)
    assert peer.is_left


def test_write_that_times_out_before_the_first_fragment_sends_nothing(talk: Talk) -> None:
    us, peer = talk.open()
    writer = writing(us)
    peer.stops_reading()
    clogging = us.start_write_control(Kind.PONG, b"", deadline=None)
    clogging.result()
    us.conn.write_deadline = talk.clock.seconds + 2
    talk.clock.advance(2.1)
    with pytest.raises(TimeoutError, match="nothing was sent"):
        writer.write(b"too late")
    with pytest.raises(ValueError, match="closed writer"):
        writer.write(b"too late")
    us.conn.write_deadline = None
    peer.reads_on()
    us.send("unharmed")
    peer.hears("1 000 1010")
    peer.hears("1 000 0001", b"unharmed")


def test_dropped_writer_never_ends_its_message(talk: Talk) -> None:
    us, peer = talk.open(write_buffer_size=4)
    held = [writing(us)]
    held[0].write(b"abcdef")
    waiting = us.start_send("never")
    with pytest.warns(ResourceWarning, match="was never closed"):
        drop(held)
    talk.clock.advance(1)
    peer.hears("0 000 0010", b"abcd")
    peer.hears_close(1011, CUT)
    with pytest.raises(ErrCloseSent):
        waiting.result()


def test_dropped_writer_of_which_nothing_left_only_gives_up_its_turn(talk: Talk) -> None:
    us, peer = talk.open()
    held = [writing(us)]
    held[0].write(b"abc")
    waiting = us.start_send("next")
    with pytest.warns(ResourceWarning, match="was never closed"):
        drop(held)
    talk.clock.advance(1)
    waiting.result()
    peer.hears("1 000 0001", b"next")


# Deadlines


def test_nothing_is_written_after_the_write_deadline(talk: Talk) -> None:
    us, peer = talk.open()
    us.conn.write_deadline = talk.clock.seconds + 5
    us.send("in time")
    talk.clock.advance(5.1)
    for verb, what in (("send", ("late",)), ("write_json", (1,)), ("next_writer", (Kind.TEXT,))):
        with pytest.raises(TimeoutError, match="write_deadline had passed"):
            getattr(us, verb)(*what)
    us.pong(b"has its own")
    us.conn.write_deadline = None
    us.send("again")
    peer.hears("1 000 0001", b"in time")
    peer.hears("1 000 1010")
    peer.hears("1 000 0001", b"again")


def test_write_deadline_ends_the_wait_for_a_slow_peer(talk: Talk) -> None:
    us, peer = talk.open()
    peer.stops_reading()
    first = us.start_send(bytes(100_000))
    us.conn.write_deadline = talk.clock.seconds + 5
    second = us.start_send("late", timeout=50)
    talk.clock.advance(4.9)
    assert second.waits
    talk.clock.advance(0.2)
    with pytest.raises(TimeoutError, match="nothing was sent"):
        second.result()
    peer.reads_on()
    first.result()
    peer.hears("1 000 0010", bytes(100_000))
    peer.hears_nothing()


def test_broadcast_does_not_get_into_a_message(talk: Talk) -> None:
    us, peer = talk.open(write_buffer_size=4)
    writer = writing(us)
    writer.write(b"abcdef")
    assert talk.broadcast([us], "to all") == Delivery(0, 1, 0, 0)
    writer.close()
    assert talk.broadcast([us], "to all") == Delivery(1, 0, 0, 0)
    peer.hears("0 000 0010", b"abcd")
    peer.hears("1 000 0000", b"ef")
    peer.hears("1 000 0001", b"to all")
