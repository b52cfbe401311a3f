"""permessage-deflate in use: RFC 7692 between us and a peer that speaks it by hand."""

from __future__ import annotations

import zlib

import pytest

from koko import ErrReadLimit, ProtocolError
from koko.core.deflate import Agreed
from tests.conversation.conftest import Talk


def deflated(octets: bytes) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (deflater.compress(octets) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


def inflated(payload: bytes) -> bytes:
    return zlib.decompressobj(-15).decompress(payload + b"\x00\x00\xff\xff")


def test_compressed_message_comes_and_goes(talk: Talk) -> None:
    us, peer = talk.open(agreed=Agreed())
    text = "tell me more " * 100
    peer.says("1 100 0001", deflated(text.encode()))
    assert us.recv() == text
    us.send(text)
    assert inflated(peer.hears("1 100 0001").payload) == text.encode()


def test_small_message_goes_as_it_is(talk: Talk) -> None:
    us, peer = talk.open(agreed=Agreed())
    us.send("short")
    peer.hears("1 000 0001", b"short")


def test_compression_can_be_turned_off_and_on_while_open(talk: Talk) -> None:
    us, peer = talk.open(agreed=Agreed(threshold=0))
    us.conn.write_compression = False
    us.send("plain")
    us.conn.write_compression = True
    us.conn.compression_level = 9
    us.send("packed")
    peer.hears("1 000 0001", b"plain")
    assert inflated(peer.hears("1 100 0001").payload) == b"packed"


def test_bomb_is_refused_with_1009_before_it_is_inflated(talk: Talk) -> None:
    us, peer = talk.open(agreed=Agreed(), read_limit=1 << 20)
    call = us.start_recv()
    peer.says("1 100 0010", deflated(bytes(4 << 20)))
    with pytest.raises(ErrReadLimit):
        call.result()
    peer.hears_close(1009)


def test_what_does_not_inflate_is_refused_with_1007(talk: Talk) -> None:
    us, peer = talk.open(agreed=Agreed())
    call = us.start_recv()
    peer.says("1 100 0001", b"\xff\xff\xff")
    with pytest.raises(ProtocolError):
        call.result()
    peer.hears_close(1007)


def test_inflated_text_must_be_utf8_too(talk: Talk) -> None:
    us, peer = talk.open(agreed=Agreed())
    call = us.start_recv()
    peer.says("1 100 0001", deflated(b"\xff"))
    with pytest.raises(ProtocolError, match="UTF-8"):
        call.result()
    peer.hears_close(1007)


def test_small_bytes_that_inflate_to_many_messages_are_inflated_as_they_are_read(
    talk: Talk,
) -> None:
    us, peer = talk.open(agreed=Agreed())
    peer.sends(peer.frame("1 100 0010", deflated(bytes(100_000))) * 20)
    talk.clock.advance(0.5)
    assert [len(us.recv()) for _ in range(20)] == [100_000] * 20
