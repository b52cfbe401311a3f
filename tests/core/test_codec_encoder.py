"""The frames we send, on both codecs: §5.2 and §5.3 from the other side."""

from __future__ import annotations

import os
import secrets

import pytest

from koko.core.wire import Opcode, Role
from tests.wire import wire


@pytest.mark.parametrize("size", [0, 1, 7, 8, 125, 126, 127, 65535, 65536, 70000])
def test_server_sends_the_payload_as_it_is(codec, size):
    payload = bytes(i & 0xFF for i in range(size))
    server = codec.Encoder(Role.SERVER)
    assert server.encode(2, payload) == wire("1 000 0010  0 len", payload)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 125, 126, 127, 65535, 65536, 70000])
def test_client_sends_the_payload_masked(codec, size):
    payload = bytes(i & 0xFF for i in range(size))
    frame = codec.Encoder(Role.CLIENT).encode(2, payload)
    start = len(frame) - size
    assert frame == wire("1 000 0010  1 len", payload, key=frame[start - 4 : start])


@pytest.mark.parametrize("text", ["", "hello", "né", "日本語", "𐍈" * 40, "a" * 200 + "é"])
@pytest.mark.parametrize("role", list(Role))
def test_text_is_sent_as_utf8(codec, role, text):
    frame = codec.Encoder(role).encode(1, text)
    assert codec.Decoder(role.peer).feed(frame) == [text]
    assert frame[0] == 0b1_000_0001


def test_str_that_has_no_utf8_is_refused(codec):
    with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
        codec.Encoder(Role.SERVER).encode(1, "\ud800")


def test_text_given_as_bytes_is_sent_as_it_is(codec):
    assert codec.Encoder(Role.SERVER).encode(1, b"\xff") == b"\x81\x01\xff"


@pytest.mark.parametrize(
    "payload",
    [
        bytearray(b"ace"),
        memoryview(b"ace"),
        memoryview(b"abcde")[::2],
        memoryview(b"eca")[::-1],
        memoryview(bytearray(b"\0ace"))[1:],
    ],
    ids=["bytearray", "memoryview", "every other byte", "backwards", "slice"],
)
def test_any_buffer_can_be_sent(codec, payload):
    assert codec.Encoder(Role.SERVER).encode(2, payload) == b"\x82\x03ace"


@pytest.mark.parametrize("payload", [3, None, ["a"], 1.5])
def test_what_is_neither_text_nor_bytes_is_a_type_error(codec, payload):
    with pytest.raises(TypeError, match="bytes-like object is required"):
        codec.Encoder(Role.SERVER).encode(2, payload)


def test_fin_and_rsv1_are_bits_of_the_first_byte(codec):
    server = codec.Encoder(Role.SERVER)
    assert server.encode(2, b"", False, False) == wire("0 000 0010  0 0000000")
    assert server.encode(1, b"", fin=True, rsv1=True) == wire("1 100 0001  0 0000000")
    assert server.encode(Opcode.PONG, b"") == wire("1 000 1010  0 0000000")


@pytest.mark.parametrize(
    ("length", "size"), [(0, 2), (125, 2), (126, 4), (65535, 4), (65536, 10), (1 << 62, 10)]
)
@pytest.mark.parametrize("role", list(Role))
def test_head_ends_before_the_masking_key(codec, role, length, size):
    head = codec.Encoder(role).head(2, length, False, True)
    assert len(head) == size
    assert head == wire(f"0 100 0010  {int(role.masks)} len", length=length)[:size]


def test_no_masking_key_is_used_twice(codec):
    client = codec.Encoder(Role.CLIENT)
    keys = {client.encode(2, b"")[2:] for _ in range(1000)}
    assert len(keys) > 990  # 1000 of 2**32: a pair in common has odds of 1 in 8600


def test_masking_keys_are_what_the_system_gave(codec, monkeypatch):
    drawn = []

    def urandom(size):
        drawn.append(secrets.token_bytes(size))
        return drawn[-1]

    monkeypatch.setattr(os, "urandom", urandom)
    client = codec.Encoder(Role.CLIENT)
    keys = b"".join(client.encode(2, b"")[2:] for _ in range(200))
    assert b"".join(drawn)[: len(keys)] == keys
