"""Messages given a hold at a time, or in pieces as they come, on both codecs."""

from __future__ import annotations

import zlib

import pytest

from koko.core.wire import Control, Opcode, Piece, Role
from tests.wire import compressed, wire

PING = Control(Opcode.PING, b"")

# Hold and backlog


def test_feed_stops_after_hold_bytes_and_goes_on_without_new_ones(codec):
    client = codec.Decoder(Role.CLIENT, hold=4)
    assert client.feed(b"\x81\x03abc\x81\x03def\x81\x03ghi\x81\x01") == ["abc", "def"]
    assert client.backlog
    assert not client.mid_message
    assert client.feed(b"") == ["ghi"]
    assert not client.backlog
    assert client.mid_message
    assert client.feed(b"j") == ["j"]
    assert not client.mid_message


def test_backlog_keeps_its_place_before_new_bytes(codec):
    client = codec.Decoder(Role.CLIENT, hold=1)
    assert client.feed(b"\x81\x01a\x89\x00\x81\x01b") == ["a"]
    assert client.feed(b"\x81\x01c") == [PING, "b"]
    assert client.feed(b"") == ["c"]
    assert client.feed(b"") == []


def test_violation_in_the_backlog_shows_when_its_turn_comes(codec):
    client = codec.Decoder(Role.CLIENT, hold=1)
    assert client.feed(b"\x81\x01a\x83\x00") == ["a"]
    assert client.failure is None
    assert client.feed(b"") == []
    assert "reserved opcode" in str(client.failure)
    assert not client.backlog


def test_small_bytes_that_inflate_to_much_are_not_inflated_all_at_once(inflating):
    bomb = wire("1 100 0010  0 len", compressed(bytes(200_000)))
    client = inflating(read_limit=200_000)
    # 262144 bytes are inflated at once, and the step that passes it
    assert [len(client.feed(octets)) for octets in (bomb * 5, b"", b"", b"")] == [1, 1, 1, 2]
    assert not client.backlog


def test_one_message_that_inflates_to_much_is_inflated_a_hold_at_a_time(inflating):
    client = inflating()
    assert client.feed(wire("1 100 0010  0 len", compressed(bytes(1_000_000)))) == []
    assert client.backlog
    assert [client.feed(b"") for _ in range(3)] == [[], [], [bytes(1_000_000)]]
    assert not client.backlog


# Streams


def test_no_stream_is_opened_between_messages(codec):
    client = codec.Decoder(Role.CLIENT)
    assert client.open_stream() is None
    client.feed(b"\x81\x01a\x89")
    assert client.open_stream() is None


def test_stream_gives_what_has_come_and_then_what_comes(codec):
    server = codec.Decoder(Role.SERVER)
    frame = wire("1 000 0010  1 len", b"abcdef")
    assert server.feed(frame[:-4]) == []
    assert server.open_stream() is Opcode.BINARY
    assert server.feed(b"") == [Piece(b"ab", False)]
    assert server.feed(b"") == []
    assert server.feed(frame[-4:-1]) == [Piece(b"cde", False)]
    assert server.feed(frame[-1:] + frame) == [Piece(b"f", True), b"abcdef"]


def test_stream_of_text_gives_bytes_and_still_fails_at_the_first_bad_one(codec):
    client = codec.Decoder(Role.CLIENT)
    client.feed(b"\x01\x02a\xc3")
    assert client.open_stream() is Opcode.TEXT
    assert client.feed(b"\x00\x01\xa9") == [Piece("aé".encode(), False)]
    assert client.feed(b"\x00\x01b\x00\x01\xff\x80\x01c") == [Piece(b"b", False)]
    assert client.failure.code == 1007


def test_stream_of_text_that_ends_inside_a_character_is_refused(codec):
    client = codec.Decoder(Role.CLIENT)
    client.feed(b"\x01\x01\xc3")
    client.open_stream()
    assert client.feed(b"\x80\x00") == [Piece(b"\xc3", False)]
    assert client.failure.code == 1007


def test_stream_may_end_empty(codec):
    client = codec.Decoder(Role.CLIENT)
    client.feed(b"\x02\x00")
    client.open_stream()
    assert client.feed(b"\x00\x00") == []
    assert client.feed(b"\x80\x00") == [Piece(b"", True)]


def test_control_frames_keep_their_place_in_a_stream(codec):
    client = codec.Decoder(Role.CLIENT)
    client.feed(b"\x02\x01a")
    client.open_stream()
    assert client.feed(b"\x00\x01b\x89\x00\x00\x01c\x88\x00") == [
        Piece(b"ab", False),
        PING,
        Piece(b"c", False),
        Control(Opcode.CLOSE, b""),
    ]


def test_limit_counts_what_a_stream_has_handed_on(codec):
    client = codec.Decoder(Role.CLIENT, read_limit=3)
    client.feed(b"\x02\x02ab")
    client.open_stream()
    assert client.feed(b"\x00\x01c") == [Piece(b"abc", False)]
    assert client.feed(b"\x80\x01d") == []
    assert client.failure.code == 1009


@pytest.mark.parametrize("cut", [1, 100])
def test_compressed_stream_is_inflated_a_hold_at_a_time(inflating, cut):
    payload = compressed(bytes(1_000_000))
    client = inflating()
    client.feed(wire("0 100 0010  0 len", payload[:cut]))
    assert client.open_stream() is Opcode.BINARY
    sizes = [0]
    items = client.feed(wire("1 000 0000  0 len", payload[cut:]) + b"\x81\x01a")
    while client.backlog:
        sizes.append(sum(len(item.payload) for item in items))
        items = client.feed(b"")
    *pieces, last, text = items
    sizes.append(sum(len(piece.payload) for piece in [*pieces, last]))
    assert (last.final, text) == (True, "a")
    assert sum(sizes) == 1_000_000
    # What came before the stream was opened, 100 KB or so, comes with the first piece.
    assert max(sizes) <= (1 << 18) + 110_000


def test_compressed_stream_of_many_small_fragments_is_held_too(inflating):
    inner = zlib.compressobj(wbits=-15)
    fragments = [inner.compress(bytes(50_000)) + inner.flush(zlib.Z_SYNC_FLUSH) for _ in range(20)]
    client = inflating()
    client.feed(wire("0 100 0010  0 len", fragments[0]))
    client.open_stream()
    rest = b"".join(wire("0 000 0000  0 len", fragment) for fragment in fragments[1:])
    [piece] = client.feed(rest)
    assert len(piece.payload) < (1 << 18) + 2 * 50_000
    assert client.backlog


def test_bad_text_in_a_compressed_stream_is_refused(inflating):
    client = inflating()
    client.feed(b"\x41\x00")
    client.open_stream()
    client.feed(wire("1 000 0000  0 len", compressed(b"good\xff")))
    assert client.failure.code == 1007
