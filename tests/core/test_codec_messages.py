"""What a message may hold and what it may cost, on both codecs: UTF-8, limits, memory."""

from __future__ import annotations

import sys
import tracemalloc
import zlib

import pytest

from koko.core.wire import Control, Opcode, Role
from koko.errors import ErrReadLimit
from tests.wire import bytewise, compressed, wire

PING = Control(Opcode.PING, b"")


# UTF-8 (§8.1). What may begin a text, and the first byte that cannot go on.

BAD_UTF8 = [
    ("", "80"),  # a continuation byte at the beginning
    ("", "bf"),  # another
    ("", "c0"),  # an overlong lead
    ("", "c1"),  # an overlong lead
    ("", "f5"),  # a lead above U+10FFFF
    ("", "ff"),  # no byte of UTF-8
    ("c2", "41"),  # a lead without its continuation
    ("c2", "c2"),  # a lead after a lead
    ("df", "7f"),  # a lead without its continuation
    ("e0", "9f"),  # overlong
    ("e1", "7f"),  # a lead without its continuation
    ("e1 80", "c0"),  # two of three bytes
    ("ed", "a0"),  # a surrogate
    ("ed", "bf"),  # a surrogate
    ("ef bf", "2e"),  # two of three bytes
    ("f0", "8f"),  # overlong
    ("f0 90", "41"),  # two of four bytes
    ("f0 90 80", "41"),  # three of four bytes
    ("f4", "90"),  # above U+10FFFF
    ("f4 8f bf", "c0"),  # three of four bytes
    ("41 42 43 44 45 46 47 48 49 c3 a9", "ff"),  # a bad byte behind good text
]

GOOD_UTF8 = [
    "plain ascii, longer than eight bytes",
    "\x00\x7f\x80߿ࠀ퟿\ue000￿\U00010000\U0010ffff",
    "κόσμε, 日本語, 𐍈𐍈, é at the end: é",
]


@pytest.mark.parametrize(("good", "bad"), BAD_UTF8)
@pytest.mark.parametrize("role", list(Role))
def test_text_fails_at_the_first_byte_that_cannot_be_right(codec, role, good, bad):
    bit = int(role.peer.masks)
    octets = bytes.fromhex(good + bad)
    frame = wire(f"0 000 0001  {bit} len", octets + b"and more to come")
    head = len(frame) - 16 - len(octets)
    decoder = codec.Decoder(role)
    for octet in bytewise(frame[: head + len(octets) - 1]):
        assert decoder.feed(octet) == []
        assert decoder.failure is None
    decoder.feed(frame[head + len(octets) - 1 :][:1])
    assert decoder.failure.code == 1007
    assert str(decoder.failure) == "peer sent a text message that is not UTF-8 (RFC 6455 §8.1)"


@pytest.mark.parametrize(("good", "bad"), BAD_UTF8)
@pytest.mark.parametrize("head", ["1 000 0001  0 len", "0 000 0001  0 len", "1 100 0001  0 len"])
def test_bad_text_in_one_piece_is_refused(inflating, head, good, bad):
    octets = b"ascii before it " + bytes.fromhex(good + bad)
    decoder = inflating()
    decoder.feed(wire(head, compressed(octets) if " 100 " in head else octets))
    assert decoder.failure.code == 1007


@pytest.mark.parametrize("good", ["c3", "e2 82", "f0 9f 98", "41 42 43 44 45 46 47 f0"])
@pytest.mark.parametrize("head", ["1 000 0001  0 len", "1 100 0001  0 len"])
def test_text_that_ends_inside_a_character_is_refused(inflating, head, good):
    octets = bytes.fromhex(good)
    payload = compressed(octets) if " 100 " in head else octets
    for pieces in ([wire(head, payload)], bytewise(wire(head, payload))):
        decoder = inflating()
        assert [item for piece in pieces for item in decoder.feed(piece)] == []
        assert decoder.failure.code == 1007


@pytest.mark.parametrize("text", GOOD_UTF8)
def test_utf8_split_across_fragments_at_each_byte_is_one_message(codec, text):
    octets = text.encode()
    for cut in range(len(octets) + 1):
        server = codec.Decoder(Role.SERVER)
        first = wire("0 000 0001  1 len", octets[:cut])
        assert server.feed(first + wire("1 000 0000  1 len", octets[cut:])) == [text]


@pytest.mark.parametrize("text", GOOD_UTF8)
def test_utf8_split_across_reads_at_each_byte_is_one_message(codec, text):
    frame = wire("1 000 0001  1 len", text.encode())
    for cut in range(len(frame)):
        server = codec.Decoder(Role.SERVER)
        assert server.feed(frame[:cut]) + server.feed(frame[cut:]) == [text]


@pytest.mark.parametrize(
    "lead", [0x41, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xED, 0xEE, 0xF0, 0xF1, 0xF4, 0xF5]
)
def test_second_byte_is_right_exactly_when_some_text_begins_so(codec, lead):
    tails = [bytes.fromhex(tail) for tail in ("", "80", "8080")]
    for second in (0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC2, 0xFF):
        client = codec.Decoder(Role.CLIENT)
        begun = bytes((lead, second))
        client.feed(wire("0 000 0001  0 0000010", begun))
        possible = any(_is_utf8(begun + tail) for tail in tails) or second == 0xC2 == lead + 0x81
        assert (client.failure is None) == possible


def _is_utf8(octets: bytes) -> bool:
    try:
        octets.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_binary_may_hold_any_byte(codec):
    payload = bytes(range(256))
    frame = wire("1 000 0010  1 len", payload)
    server = codec.Decoder(Role.SERVER)
    assert server.feed(frame[:100]) + server.feed(frame[100:] + frame) == [payload, payload]


# The read limit


def test_frame_over_the_limit_is_refused_at_its_head(codec):
    server = codec.Decoder(Role.SERVER, read_limit=1000)
    assert server.feed(wire("1 000 0010  1 len", length=1001)) == []
    assert type(server.failure) is ErrReadLimit
    assert server.failure.code == 1009
    assert str(server.failure) == "peer sent a message of at least 1001 bytes, read_limit=1000"


def test_message_of_exactly_the_limit_is_given(codec):
    server = codec.Decoder(Role.SERVER, read_limit=4)
    whole = wire("1 000 0001  1 len", b"four")
    halves = wire("0 000 0001  1 len", b"fo") + wire("1 000 0000  1 len", b"ur")
    assert server.feed(whole + halves + whole) == ["four", "four", "four"]


def test_limit_counts_all_fragments_of_a_message(codec):
    client = codec.Decoder(Role.CLIENT, read_limit=4)
    assert client.feed(b"\x02\x03abc\x89\x00\x00\x01d\x80\x01e") == [PING]
    assert client.failure.code == 1009


@pytest.mark.parametrize("length", [(1 << 63) - 10, (1 << 63) - 1])
def test_lengths_that_overflow_together_do_not_get_round_the_limit(codec, length):
    server = codec.Decoder(Role.SERVER, read_limit=15)
    assert server.feed(wire("0 000 0010  1 len", bytes(10))) == []
    assert server.failure is None
    assert server.feed(wire("1 000 0000  1 1111111", length=length)) == []
    assert type(server.failure) is ErrReadLimit
    assert f"at least {length + 10} bytes" in str(server.failure)


def test_limit_does_not_count_control_frames(codec):
    client = codec.Decoder(Role.CLIENT, read_limit=4)
    assert client.feed(wire("1 000 1001  0 1111101", bytes(125)) + b"\x82\x01a")[1] == b"a"


@pytest.mark.parametrize("cut", [4, 10_000])
def test_limit_counts_inflated_bytes(inflating, cut):
    frame = wire("1 100 0010  0 len", compressed(bytes(100_000)))
    client = inflating(read_limit=99_999)
    assert client.feed(frame[:cut]) + client.feed(frame[cut:]) == []
    assert str(client.failure) == "peer sent a message of at least 100000 bytes, read_limit=99999"
    assert inflating(read_limit=100_000).feed(frame) == [bytes(100_000)]


def test_limit_that_is_used_up_by_a_fragment_holds_for_the_next(inflating):
    deflate = zlib.compressobj(wbits=-15)
    exact, bomb = (
        deflate.compress(bytes(size)) + deflate.flush(zlib.Z_SYNC_FLUSH) for size in (1000, 900_000)
    )
    client = inflating(read_limit=1000)
    assert client.feed(wire("0 100 0010  0 len", exact)) == []
    assert client.failure is None
    tracemalloc.start()
    try:
        assert client.feed(wire("1 000 0000  0 len", bomb)) == []
        assert tracemalloc.get_traced_memory()[1] < 50_000
    finally:
        tracemalloc.stop()
    assert str(client.failure) == "peer sent a message of at least 1001 bytes, read_limit=1000"


def test_limit_counts_compressed_bytes_on_the_wire_too(inflating):
    client = inflating(read_limit=1)
    client.feed(wire("1 100 0010  0 len", b"\x00\x00"))
    assert client.failure.code == 1009


def test_limit_may_change_between_messages(codec):
    client = codec.Decoder(Role.CLIENT, read_limit=1)
    assert client.feed(b"\x82\x01a") == [b"a"]
    client.read_limit = None
    assert client.feed(b"\x82\x03abc") == [b"abc"]
    client.read_limit = 1 << 100
    assert client.read_limit == 1 << 100
    assert client.feed(b"\x82\x03abc") == [b"abc"]
    client.read_limit = 2
    assert client.feed(b"\x82\x03abc") == []
    assert client.failure.code == 1009


def test_limit_lowered_below_what_has_come_stops_the_inflating(inflating):
    frame = wire("1 100 0010  0 len", compressed(bytes(range(256)) * 40))
    client = inflating(read_limit=100_000)
    client.feed(frame[:-20])
    client.read_limit = 10
    assert client.feed(frame[-20:]) == []
    assert client.failure.code == 1009


# Memory follows what has arrived


@pytest.mark.parametrize("head", ["1 000 0010  1 len", "0 000 0001  1 len"])
def test_claim_of_2_to_the_62_bytes_that_sends_ten_costs_ten(codec, head):
    frame = wire(head, b"ten bytes!", length=1 << 62)
    tracemalloc.start()
    try:
        server = codec.Decoder(Role.SERVER)
        for octet in bytewise(frame):
            assert server.feed(octet) == []
        assert tracemalloc.get_traced_memory()[1] < 10_000
    finally:
        tracemalloc.stop()
    assert server.failure is None


def test_message_that_comes_in_pieces_costs_at_most_twice_what_has_come(codec):
    client = codec.Decoder(Role.CLIENT)
    fragment = wire("0 000 0000  0 len", bytes(1 << 16))
    tracemalloc.start()
    try:
        client.feed(wire("0 000 0010  0 len", bytes(1 << 16)))
        for _ in range(5):
            client.feed(fragment)
        assert tracemalloc.get_traced_memory()[0] < (2 * 6 << 16) + 2000
    finally:
        tracemalloc.stop()


def test_message_is_no_larger_than_its_bytes(codec):
    for frame in (
        wire("1 000 0010  1 len", bytes(5000)),
        wire("0 000 0010  1 len", bytes(3000)) + wire("1 000 0000  1 len", bytes(2000)),
    ):
        server = codec.Decoder(Role.SERVER)
        items = [
            item for i in range(0, len(frame), 700) for item in server.feed(frame[i : i + 700])
        ]
        assert items == [bytes(5000)]
        assert sys.getsizeof(items[0]) == sys.getsizeof(bytes(5000))


def test_messages_keep_nothing_alive_of_what_was_fed(codec):
    client = codec.Decoder(Role.CLIENT)
    octets = wire("1 000 0010  0 len", b"x" * 1000) + wire("1 000 0001  0 len", b"y" * 1000)
    known = sys.getrefcount(octets)
    messages = client.feed(octets)
    assert messages == [b"x" * 1000, "y" * 1000]
    assert sys.getrefcount(octets) == known


def test_100000_empty_fragments_are_one_message_and_take_no_room(codec):
    client = codec.Decoder(Role.CLIENT, read_limit=10)
    assert client.feed(b"\x01\x01a" + b"\x00\x00" * 100_000 + b"\x80\x01b") == ["ab"]


def test_many_small_fragments_are_one_message(codec):
    client = codec.Decoder(Role.CLIENT)
    octets = b"\x02\x01a" + b"\x00\x01b" * 1000 + b"\x80\x01c"
    assert client.feed(octets) == [b"a" + b"b" * 1000 + b"c"]


def test_compressed_message_masked_and_cut_anywhere_is_one_message(inflating):
    text = "κόσμε " * 30
    frame = wire("1 100 0001  1 len", compressed(text.encode()))
    for cut in range(len(frame)):
        server = inflating(Role.SERVER)
        assert server.feed(frame[:cut]) + server.feed(frame[cut:]) == [text]


def test_compressed_message_larger_than_one_step_of_inflating_is_one_message(inflating):
    payload = bytes(range(256)) * 1000
    assert inflating().feed(wire("1 100 0010  0 len", compressed(payload))) == [payload]


def test_payload_that_is_not_compressed_is_refused(inflating):
    client = inflating()
    client.feed(wire("1 100 0010  0 len", b"\xff\xff\xff\xff"))
    assert client.failure.code == 1007


def test_idle_codec_holds_no_buffer(codec):
    def fill(decoder, encoder):
        decoder.feed(frame)
        encoder.encode(2, bytes(10_000))

    frame = wire("1 000 0010  1 len", bytes(10_000))  # zeros: see mask() in the pure codec
    pairs = [(codec.Decoder(Role.SERVER), codec.Encoder(Role.SERVER)) for _ in range(4)]
    tracemalloc.start()
    try:
        for pair in pairs:
            fill(*pair)
        assert tracemalloc.get_traced_memory()[0] < 8000
    finally:
        tracemalloc.stop()
