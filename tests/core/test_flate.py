"""Compressing and inflating: by the examples of RFC 7692, within limits, against hostile peers."""

from __future__ import annotations

import random
import sys
import zlib

import pytest

from koko.core import flate
from koko.core.flate import Deflater, Inflater
from koko.errors import ProtocolError

pytestmark = pytest.mark.once

LEVELS = [-2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
HELLO = bytes.fromhex("f2 48 cd c9 c9 07 00")  # RFC 7692 §7.2.3.1
JSON = b'[{"symbol": "SYM1", "bid": 100.4}, {"symbol": "SYM2", "bid": 100.6}]' * 10
NOISE = random.Random(7692).randbytes(70_000)


@pytest.fixture(params=["zlib", "isal"], autouse=True)
def implementation(request, monkeypatch):
    """Run every test with both libraries, from an empty pool."""
    chosen = None if request.param == "zlib" else pytest.importorskip("isal.isal_zlib")
    monkeypatch.setattr(flate, "_isal", chosen)
    monkeypatch.setattr(flate, "_pool", {})
    return request.param


def drain(inflater: Inflater, payload: bytes, room: int = 1 << 20) -> bytes:
    """Inflate a whole message, ``room`` bytes at a time."""
    pieces = [inflater.inflate(payload, room, final=True)]
    while inflater.pending:
        pieces.append(inflater.inflate(b"", room))
    assert max(map(len, pieces)) <= room
    return b"".join(pieces)


def alone(payload: bytes, bits: int = 15) -> bytes:
    """Inflate by zlib itself, byte by byte so that the window is all it can refer to."""
    stream, pieces, rest = zlib.decompressobj(-bits), [], payload + flate.TAIL
    while rest or pieces[-1]:
        pieces.append(stream.decompress(rest, 1))
        rest = stream.unconsumed_tail
    return b"".join(pieces)


def raw(payload: bytes, level: int = 9, flush: int = zlib.Z_SYNC_FLUSH) -> bytes:
    stream = zlib.compressobj(level, zlib.DEFLATED, -15)
    return stream.compress(payload) + stream.flush(flush)


# The choice of a library


def test_isal_is_used_where_it_is_installed(monkeypatch):
    isal = pytest.importorskip("isal.isal_zlib")
    monkeypatch.delenv("KOKO_DEFLATE", raising=False)
    assert flate._choose() is isal


@pytest.mark.parametrize(("wanted", "missing"), [("zlib", False), ("", True)])
def test_zlib_is_used_on_request_and_where_isal_is_missing(monkeypatch, wanted, missing):
    monkeypatch.setenv("KOKO_DEFLATE", wanted)
    if missing:
        monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
    assert flate._choose() is None


def test_isal_on_request_but_missing_is_an_error(monkeypatch):
    monkeypatch.setenv("KOKO_DEFLATE", "isal")
    monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
    with pytest.raises(ImportError, match="KOKO_DEFLATE=isal, but isal is not installed"):
        flate._choose()


def test_an_unknown_library_is_an_error(monkeypatch):
    monkeypatch.setenv("KOKO_DEFLATE", "gzip")
    with pytest.raises(ValueError, match="KOKO_DEFLATE='gzip', expected 'isal' or 'zlib'"):
        flate._choose()


# Compressing


@pytest.mark.parametrize("takeover", [False, True])
@pytest.mark.parametrize("level", LEVELS)
def test_what_is_compressed_inflates_to_the_same(level, takeover):
    deflater = Deflater(level, takeover=takeover)
    inflater = Inflater(takeover=takeover)
    for message in (b"", b"a", JSON, NOISE[:5000], b"", JSON, b"\x00" * 70_000, JSON):
        assert drain(inflater, deflater.compress(message)) == message


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_bytes_like_payload_is_compressed(kind):
    assert drain(Inflater(), Deflater().compress(kind(JSON))) == JSON
    assert Deflater().compress(kind(b"")) == b"\x00"


def test_hello_is_the_example_of_the_rfc():
    assert Deflater(9).compress(b"Hello") == HELLO


@pytest.mark.parametrize("takeover", [False, True])
def test_an_empty_message_is_one_zero_byte(takeover):
    deflater = Deflater(takeover=takeover)
    assert deflater.compress(b"") == b"\x00"
    deflater.compress(b"Hello")
    assert deflater.compress(b"") == b"\x00"
    assert deflater.compress_piece(b"") + deflater.finish() == b"\x00"


@pytest.mark.parametrize("takeover", [False, True])
@pytest.mark.parametrize("level", [0, 1, 6])
def test_a_message_in_pieces_is_one_message(level, takeover):
    deflater, inflater = Deflater(level, takeover=takeover), Inflater(takeover=takeover)
    for _ in range(2):
        pieces = [deflater.compress_piece(NOISE[at : at + 999]) for at in range(0, 20_000, 999)]
        payload = b"".join(pieces) + deflater.finish()
        assert not payload.endswith(flate.TAIL)
        assert drain(inflater, payload) == NOISE[:20_979]


def test_context_takeover_refers_to_earlier_messages():
    deflater, inflater = Deflater(takeover=True), Inflater(takeover=True)
    first, second = deflater.compress(JSON), deflater.compress(JSON)
    assert len(second) < len(first) / 2
    assert drain(inflater, first) == drain(inflater, second) == JSON


@pytest.mark.parametrize("level", LEVELS)
def test_without_takeover_every_message_inflates_alone(level):
    deflaters = [Deflater(level), Deflater(level)]
    for message in (NOISE[:3000], NOISE[:3000] + JSON, JSON, JSON):
        for deflater in deflaters:
            assert alone(deflater.compress(message)) == message


@pytest.mark.parametrize("level", LEVELS)
def test_a_borrowed_compressor_writes_what_a_new_one_would(level):
    new = Deflater(level).compress(JSON)
    Deflater(level).compress(JSON + b"the secret of another connection" * 9)
    assert Deflater(level).compress(JSON) == new


def test_a_compressor_that_is_in_use_is_not_in_the_pool():
    one, two = Deflater(6), Deflater(6)
    one.compress_piece(b"secret " * 100)
    two.compress_piece(b"secret " * 10)
    assert alone(two.finish()) == b"secret " * 10
    assert alone(one.finish()) == b"secret " * 100


def test_an_idle_deflater_holds_no_state_and_zlibs_goes_back_to_a_bounded_pool():
    deflaters = [Deflater(6) for _ in range(3 * flate.POOLED)]
    for deflater in deflaters:
        deflater.compress_piece(JSON)
    for deflater in deflaters:
        deflater.finish()
    assert [(d._writing, d._kept) for d in deflaters] == [(None, None)] * len(deflaters)
    assert {key: len(kept) for key, kept in flate._pool.items()} == {(6, 15): flate.POOLED}


def test_a_deflater_with_takeover_holds_no_state_before_its_first_message():
    deflater = Deflater(takeover=True)
    assert (deflater._writing, deflater._kept) == (None, None)
    deflater.compress(JSON)
    assert deflater._kept is not None


@pytest.mark.parametrize("takeover", [False, True])
def test_a_new_level_applies_from_the_next_message(takeover):
    deflater, inflater = Deflater(9, takeover=takeover), Inflater(takeover=takeover)
    assert drain(inflater, deflater.compress(JSON)) == JSON
    first = deflater.compress_piece(JSON)
    deflater.level = 0
    first += deflater.finish()
    assert len(first) < 200
    assert drain(inflater, first) == JSON
    stored = deflater.compress(JSON)
    assert len(stored) > len(JSON)
    assert drain(inflater, stored) == JSON
    deflater.level = 9
    assert drain(inflater, deflater.compress(JSON)) == JSON


@pytest.mark.parametrize("level", [-3, 10, 1.5, None])
def test_a_level_out_of_range_is_refused_and_the_old_one_kept(level):
    deflater = Deflater(3)
    with pytest.raises(ValueError, match="compression level"):
        deflater.level = level
    assert deflater.level == 3


def test_what_can_be_shared_depends_on_level_and_window_and_never_on_the_past():
    assert Deflater(3, 10).shareable == (3, 10)
    assert Deflater(3, 10, takeover=True).shareable is None


@pytest.mark.parametrize("bits", [8, 9, 10, 11])
@pytest.mark.parametrize("level", [1, 2, 3, 6, 9])
def test_no_reference_reaches_further_back_than_the_window(bits, level):
    window = 1 << bits
    for distance in (window - 263, window - 200, window - 1, window, window + 1, window + 99):
        if distance > 0:
            message = NOISE[:distance] + NOISE[: min(distance, 300)] * 2
            assert alone(Deflater(level, bits).compress(message), bits) == message


def test_a_reference_further_back_than_the_window_would_have_been_seen():
    message = NOISE[:600] + NOISE[:300]
    with pytest.raises(zlib.error, match="too far back"):
        alone(Deflater(6, 10).compress(message), 9)


# Inflating


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ("f2 48 cd c9 c9 07 00", b"Hello"),  # one fixed block
        ("00 05 00 fa ff 48 65 6c 6c 6f 00", b"Hello"),  # §7.2.3.3: one stored block
        ("f3 48 cd c9 c9 07 00 00", b"Hello"),  # §7.2.3.4: a final block
        ("f2 48 05 00 00 00 ff ff ca c9 c9 07 00", b"Hello"),  # §7.2.3.5: two blocks
        ("00", b""),  # §7.2.3.6
        ("02 00", b""),
        ("f3 48 cd c9 c9 07 00 f3 48 cd c9 c9 07 00 00", b"HelloHello"),  # two final blocks
        ("f3 48 cd c9 c9 07 00 f2 48 cd c9 c9 07 00", b"HelloHello"),  # the first is final
        ("f2 48 cd c9 c9 07 00 00 00 ff ff f3 48 cd c9 c9 07 00", b"HelloHello"),  # the last is
        ("f3 48 cd c9 c9 07 00", b"Hello"),  # a final block and no octet for the tail
        ("f2 48 cd c9 c9 07 00 00 00 ff ff 01", b"Hello"),  # the tail fills a final empty block
    ],
)
@pytest.mark.parametrize("takeover", [False, True])
@pytest.mark.parametrize("room", [1, 5, 100])
def test_what_the_rfc_allows_is_inflated(payload, message, takeover, room):
    inflater = Inflater(takeover=takeover)
    for _ in range(2):
        assert drain(inflater, bytes.fromhex(payload), room) == message


def test_context_takeover_inflates_references_to_earlier_messages():
    inflater = Inflater(takeover=True)
    assert drain(inflater, HELLO) == b"Hello"
    assert drain(inflater, bytes.fromhex("f2 00 11 00 00")) == b"Hello"  # §7.2.3.2


@pytest.mark.parametrize("payload", ["f2 00 11 00 00", "f3 48 cd c9 c9 07 00 f2 00 11 00 00"])
def test_a_reference_before_the_beginning_is_refused(payload):
    inflater = Inflater()
    assert drain(inflater, HELLO) == b"Hello"
    with pytest.raises(ProtocolError, match="too far back"):
        drain(inflater, bytes.fromhex(payload))


def test_a_reference_outside_the_agreed_window_is_refused():
    payload = Deflater(6, 10).compress(NOISE[:600] + NOISE[:300])
    assert drain(Inflater(10), payload, 1) == NOISE[:600] + NOISE[:300]
    with pytest.raises(ProtocolError, match="too far back"):
        drain(Inflater(9), payload, 1)


@pytest.mark.parametrize("takeover", [False, True])
@pytest.mark.parametrize("split", [1, 2, 3, 100])
def test_a_message_may_come_in_any_pieces(takeover, split):
    inflater = Inflater(takeover=takeover)
    for message in (JSON, NOISE[:1000], JSON):
        payload = raw(message)[:-4] if not takeover else Deflater(6).compress(message)
        pieces = [payload[at : at + split] for at in range(0, len(payload), split)]
        inflated = b"".join(inflater.inflate(piece, 5000) for piece in pieces)
        assert inflated + inflater.inflate(b"", 5000, final=True) == message
        assert not inflater.pending


def test_new_input_queues_behind_what_is_pending():
    payload = Deflater(6).compress(JSON + NOISE[:9000])
    inflater = Inflater()
    inflated = inflater.inflate(payload[:5000], 10)
    assert inflater.pending
    inflated += inflater.inflate(payload[5000:], 10, final=True)
    while inflater.pending:
        inflated += inflater.inflate(b"", 1000)
    assert inflated == JSON + NOISE[:9000]


@pytest.mark.parametrize("size", [1, 10, 1000, 5000])
def test_a_message_of_exactly_the_room_leaves_nothing_but_its_end(size):
    inflater = Inflater()
    assert inflater.inflate(Deflater().compress(NOISE[:size]), size, True) == NOISE[:size]
    assert inflater.pending
    assert inflater.inflate(b"", 1) == b""
    assert not inflater.pending
    assert drain(inflater, HELLO) == b"Hello"


@pytest.mark.parametrize("room", [0, -1])
def test_a_limit_that_zlib_takes_for_none_is_refused(room):
    with pytest.raises(ValueError, match=f"max_length={room}: a number of bytes above 0"):
        Inflater().inflate(HELLO, room)


def test_a_bomb_is_inflated_no_further_than_asked():
    bomb = raw(bytes(1 << 20))[:-4]
    assert len(bomb) < 1100
    inflater = Inflater()
    assert inflater.inflate(bomb, 1000, final=True) == bytes(1000)
    assert inflater.pending


def test_what_waits_behind_a_full_room_is_not_copied_again():
    payload = Deflater(6).compress(NOISE)
    inflater = Inflater()
    inflater.inflate(payload, 1, final=True)
    for _ in range(10):
        inflater.inflate(b"", 1)
        assert inflater._payload is payload


@pytest.mark.parametrize("takeover", [False, True])
@pytest.mark.parametrize(
    "payload",
    [
        "07",  # a block of type 3
        "ff ff ff ff",
        "00 01 02 03 04",  # a stored block whose lengths disagree
        "f2 48 cd c9 c9 07 00 00 00 ff ff 07",  # good data, then a block of type 3
    ],
)
def test_what_is_no_deflate_data_is_refused_with_1007(payload, takeover):
    with pytest.raises(ProtocolError, match="payload is not deflate data") as violation:
        drain(Inflater(takeover=takeover), bytes.fromhex(payload))
    assert violation.value.code == 1007
    assert violation.value.section == "RFC 7692 §7.2.2"


def test_a_peer_that_refers_back_in_spite_of_what_was_agreed_is_told_so():
    remembering, forgetting = Deflater(takeover=True), Inflater(takeover=False)
    drain(forgetting, remembering.compress(JSON))
    with pytest.raises(ProtocolError, match="agreed that each message is compressed on its own"):
        drain(forgetting, remembering.compress(JSON))


@pytest.mark.parametrize("takeover", [False, True])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_a_message_cut_off_anywhere_is_refused(level, takeover):
    payload = Deflater(level).compress(JSON[:200] + NOISE[:50])
    for length in range(len(payload)):
        if payload[:length] == b"\x00":  # which is the whole of an empty message
            continue
        with pytest.raises(ProtocolError, match="payload") as violation:
            drain(Inflater(takeover=takeover), payload[:length])
        assert violation.value.code == 1007


@pytest.mark.parametrize("takeover", [False, True])
@pytest.mark.parametrize(
    "payload",
    [
        "",  # §7.2.3.6: even an empty message has an octet
        "f2 48 cd c9 c9 07 00 00 00 ff ff",  # the tail was not removed
        "00 04 00 fb ff",  # a stored block that would hold our tail
        "00 05 00 fa ff",  # and one byte more
        "f3 48 cd c9 c9",  # our tail would end the final block and be left over
    ],
)
def test_a_message_that_stops_inside_a_block_is_refused(payload, takeover):
    with pytest.raises(ProtocolError, match="ends in the middle of a deflate block"):
        drain(Inflater(takeover=takeover), bytes.fromhex(payload))


def test_final_blocks_without_end_are_refused():
    payload = bytes.fromhex("03 00") * flate.MAX_FINAL_BLOCKS
    inflater = Inflater()
    assert drain(inflater, payload) == b""
    assert drain(inflater, payload) == b""  # counted for each message
    with pytest.raises(ProtocolError, match="more than 1024 final blocks"):
        drain(inflater, payload + b"\x03\x00")


def test_without_takeover_an_inflater_keeps_nothing_between_messages():
    inflater = Inflater()
    drain(inflater, HELLO)
    assert inflater._stream is None
    assert inflater._payload == b""


def test_with_takeover_a_stream_that_ended_is_not_kept():
    inflater = Inflater(takeover=True)
    drain(inflater, HELLO)
    assert inflater._stream is not None
    drain(inflater, bytes.fromhex("f3 48 cd c9 c9 07 00"))
    assert inflater._stream is None
