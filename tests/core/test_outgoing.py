"""Messages written in parts: their fragments, and all the ways of cutting both sides."""

from __future__ import annotations

import pytest

from koko.core.deflate import Agreed
from koko.core.incoming import ALL
from koko.errors import ErrCloseSent
from koko.message import Kind, PreparedMessage
from tests.core.ends import client, server

SIZES = [0, 1, 2, 124, 125, 126, 127, 128, 129, 4095, 4096, 4097, 65534, 65535, 65536, 65537]
NUMBERS = bytes(number * number % 251 for number in range(max(SIZES)))
TAKEOVER = Agreed(client_no_context_takeover=False, server_no_context_takeover=False)


def cut(payload, size):
    return [payload[at : at + size] for at in range(0, len(payload), size)] or [b""]


@pytest.mark.parametrize("agreed", [None, Agreed(), TAKEOVER], ids=["plain", "deflate", "takeover"])
@pytest.mark.parametrize("ours", [client, server], ids=["client", "server"])
@pytest.mark.parametrize(
    ("parts", "size"),
    [
        *((parts, size) for parts in ("whole", "halves") for size in SIZES),
        *(("bytes", size) for size in SIZES if size < 1 << 15 or size == 65535),
    ],
)
def test_what_is_written_is_what_is_read(agreed, ours, parts, size):
    writer = ours(agreed, read_limit=None)
    reader = (server if ours is client else client)(agreed, read_limit=None)
    payload = NUMBERS[:size]
    step = {"whole": size, "halves": size // 2, "bytes": 1}[parts] or 1
    assert reader.next_stream() is None
    message = writer.start_message(Kind.BINARY)
    for part in cut(payload, step):
        message.add(part)
    message.end()
    stream, read = None, b""
    for octets in cut(writer.take_owed(), 1 << 14):
        reader.feed(octets, 1.0)
        stream = stream or reader.next_stream()
    assert stream.kind is Kind.BINARY
    while octets := reader.read_stream(stream, step):
        assert len(octets) <= step
        read += octets
    assert read == payload


def test_cut_message_of_which_nothing_left_does_not_spoil_the_next():
    writer, reader = client(TAKEOVER, write_buffer_size=1000), server(TAKEOVER)
    for payload in (b"first " * 100, b"cut " * 1000, b"first " * 100):
        message = writer.start_message(Kind.BINARY)
        message.add(payload)
        if payload[:3] == b"cut":
            message.cut(1.0)
            assert not message.begun
            assert writer.take_owed() == b""
        else:
            message.end()
            reader.feed(writer.take_owed(), 1.0)
            assert reader.next_message() == payload


def test_cut_message_of_which_a_part_left_closes_with_1011():
    writer = server(write_buffer_size=2)
    message = writer.start_message(Kind.TEXT)
    message.add(b"abc")
    message.cut(1.0)
    message.cut(1.0)
    reason = b"a message was cut off in the middle"
    assert writer.take_owed() == b"\x01\x02ab" + b"\x88\x25\x03\xf3" + reason
    for late in (lambda: message.add(b"d"), message.end, lambda: writer.start_message(Kind.TEXT)):
        with pytest.raises(ErrCloseSent):
            late()


def test_compression_is_as_it_was_when_the_message_began():
    writer, reader = client(Agreed(), write_buffer_size=100), server(Agreed())
    message = writer.start_message(Kind.BINARY)
    writer.write_compression = False
    writer.compression_level = 9
    for part in cut(bytes(range(256)) * 40, 1000):
        message.add(part)
    message.end()
    assert writer.owed[0][0] == 0b0100_0010
    assert {frame[0] for frame in writer.owed[1:-1]} == {0}
    reader.feed(writer.take_owed(), 1.0)
    assert reader.next_message() == bytes(range(256)) * 40


def test_short_message_is_compressed_as_if_it_had_been_sent_whole():
    one, other = client(Agreed()), client(Agreed())
    for payload in (b"below the threshold", b"above it " * 100):
        message = one.start_message(Kind.BINARY)
        message.add(payload)
        message.end()
        other.send(Kind.BINARY, payload)
        assert len(one.take_owed()) == len(other.take_owed())


def test_prepared_messages_do_not_mind_a_message_that_was_cut():
    writer, reader = client(Agreed(), write_buffer_size=1000), server(Agreed())
    message = writer.start_message(Kind.BINARY)
    message.add(bytes(5000))
    message.cut(1.0)
    writer.send_prepared(PreparedMessage(Kind.TEXT, "to all " * 100))
    reader.feed(writer.take_owed(), 1.0)
    stream = reader.next_stream()
    assert reader.read_stream(stream, ALL) == b"to all " * 100
