"""RFC 6455 §5, claim by claim, on both codecs: heads, masks, control frames, fragments.

What a message may hold and cost is in ``test_codec_messages.py``, how it is handed
on in pieces in ``test_codec_streams.py``, what we send in ``test_codec_encoder.py``.
"""

from __future__ import annotations

import pytest

from koko.core.wire import Control, Opcode, Role
from tests.wire import KEY, bytewise, masked, wire

# Masks (§5.1, §5.3)


def test_the_examples_of_the_rfc_are_read(codec):  # §5.7
    client, server = codec.Decoder(Role.CLIENT), codec.Decoder(Role.SERVER)
    assert client.feed(b"\x81\x05Hello") == ["Hello"]
    assert server.feed(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58") == ["Hello"]
    assert client.feed(b"\x01\x03Hel\x80\x02lo") == ["Hello"]
    assert client.feed(b"\x89\x05Hello") == [Control(Opcode.PING, b"Hello")]
    assert server.feed(b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58") == [
        Control(Opcode.PONG, b"Hello")
    ]


def test_server_refuses_an_unmasked_frame(codec):
    server = codec.Decoder(Role.SERVER)
    assert server.feed(wire("1 000 0001  0 0000010", b"hi")) == []
    #                        fin rsv text  mask len
    assert server.failure.code == 1002
    assert str(server.failure) == (
        "peer sent an unmasked frame; a client must mask every frame (RFC 6455 §5.1)"
    )


def test_client_refuses_a_masked_frame(codec):
    client = codec.Decoder(Role.CLIENT)
    assert client.feed(wire("1 000 0001  1 0000010", b"hi")) == []
    assert client.failure.code == 1002
    assert str(client.failure) == (
        "peer sent a masked frame; a server must not mask any frame (RFC 6455 §5.1)"
    )


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 1000])
def test_mask_is_exclusive_or_with_the_key_again_and_again(codec, size):
    payload = bytes(i * 7 & 0xFF for i in range(size))
    assert codec.mask(payload, KEY) == masked(payload)
    assert codec.mask(masked(payload), KEY) == payload


@pytest.mark.parametrize("at", [0, 1, 2, 3, 4, 1001])
def test_mask_goes_on_where_the_payload_before_it_ended(codec, at):
    payload = bytes(range(40))
    assert codec.mask(payload, KEY, at) == masked(bytes(at) + payload)[at:]


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_every_size_up_to_1024_is_masked_from_every_position_in_the_key(codec, at):
    payload = bytes(i * 7 & 0xFF for i in range(1024))
    expected = masked(bytes(at) + payload)[at:]
    for size in range(1025):
        assert codec.mask(payload[:size], KEY, at) == expected[:size]


@pytest.mark.parametrize("cut", [0, 1, 2, 3])
@pytest.mark.parametrize("before", range(8))
def test_every_size_up_to_1024_is_unmasked_wherever_it_lies_in_memory(codec, before, cut):
    server = codec.Decoder(Role.SERVER)
    payload = bytes(i * 7 & 0xFF for i in range(1024))
    hidden = masked(payload)
    pong = wire("1 000 1010  1 len", bytes(before))  # shifts what stands behind it
    for size in range(cut, 1025):
        head = wire("1 000 0010  1 len", length=size)
        at = len(pong + head) + cut
        octets = pong + head + hidden[:size]
        assert (server.feed(octets[:at]) + server.feed(octets[at:]))[1] == payload[:size]


def test_key_of_zeros_masks_to_the_same_bytes(codec):
    assert codec.Decoder(Role.SERVER).feed(wire("1 000 0010  1 len", b"hi", key=bytes(4))) == [
        b"hi"
    ]


# Heads (§5.2)


@pytest.mark.parametrize(
    ("rsv", "names"),
    [("100", "RSV1"), ("010", "RSV2"), ("001", "RSV3"), ("011", "RSV2, RSV3")],
)
@pytest.mark.parametrize("opcode", ["0001", "0010", "1001"])
def test_reserved_bits_are_refused(codec, rsv, names, opcode):
    client = codec.Decoder(Role.CLIENT)
    assert client.feed(wire(f"1 {rsv} {opcode}  0 0000000")) == []
    assert client.failure.code == 1002
    assert f"peer set {names} on a frame of opcode {int(opcode, 2)}" in str(client.failure)


@pytest.mark.parametrize("opcode", ["0001", "0010"])
def test_rsv1_marks_a_compressed_message_once_compression_was_agreed(inflating, opcode):
    client = inflating()
    [message] = client.feed(wire(f"1 100 {opcode}  0 len", b"\xf2\x48\xcd\xc9\xc9\x07\x00"))
    assert message == ("Hello" if opcode == "0001" else b"Hello")  # RFC 7692 §7.2.3.1


def test_uncompressed_messages_are_fine_where_compression_was_agreed(inflating):
    client = inflating()
    assert client.feed(wire("1 000 0001  0 0000010", b"hi")) == ["hi"]


@pytest.mark.parametrize("rsv", ["110", "101", "111", "010"])
def test_compression_gives_no_meaning_to_rsv2_and_rsv3(inflating, rsv):
    client = inflating()
    assert client.feed(wire(f"1 {rsv} 0001  0 0000000")) == []
    assert client.failure.code == 1002


@pytest.mark.parametrize("opcode", ["0000", "1000", "1001", "1010"])
def test_rsv1_is_refused_on_continuation_and_control_frames(inflating, opcode):
    client = inflating()
    client.feed(wire("0 100 0001  0 0000000"))
    assert client.feed(wire(f"1 100 {opcode}  0 0000000")) == []
    assert client.failure.code == 1002
    assert "peer set RSV1" in str(client.failure)


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_reserved_opcodes_are_refused(codec, opcode):
    client = codec.Decoder(Role.CLIENT)
    assert client.feed(wire(f"1 000 {opcode:04b}  0 0000000")) == []
    assert client.failure.code == 1002
    assert str(client.failure) == f"peer sent reserved opcode {opcode} (RFC 6455 §5.2)"


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 255, 256, 65535, 65536, 65537])
@pytest.mark.parametrize("role", list(Role))
def test_every_length_is_read(codec, role, size):
    payload = bytes(size)
    bit = "1" if role.peer.masks else "0"
    assert codec.Decoder(role).feed(wire(f"1 000 0010  {bit} len", payload)) == [payload]
    assert codec.Decoder(role).feed(wire(f"1 000 0001  {bit} len", b"a" * size)) == ["a" * size]


@pytest.mark.parametrize(
    ("short", "length", "wide"),
    [("1111110", 0, 2), ("1111110", 125, 2), ("1111111", 126, 8), ("1111111", 65535, 8)],
)
def test_length_in_more_bytes_than_it_needs_is_refused(codec, short, length, wide):
    client = codec.Decoder(Role.CLIENT)
    assert client.feed(wire(f"1 000 0010  0 {short}", length=length)) == []
    assert client.failure.code == 1002
    assert f"peer sent length {length} in {wide} bytes" in str(client.failure)


@pytest.mark.parametrize("length", [1 << 63, (1 << 64) - 1])
def test_length_with_its_top_bit_set_is_refused_at_its_first_byte(codec, length):
    client = codec.Decoder(Role.CLIENT)
    assert client.feed(wire("1 000 0010  0 1111111", length=length)[:3]) == []
    assert client.failure.code == 1002
    assert "top bit" in str(client.failure)


def test_largest_length_there_is_waits_for_its_payload(codec):
    client = codec.Decoder(Role.CLIENT)
    assert client.feed(wire("1 000 0010  0 1111111", b"abc", length=(1 << 63) - 1)) == []
    assert client.failure is None
    assert client.mid_message


@pytest.mark.parametrize("size", [0, 1, 126, 65536])
@pytest.mark.parametrize("role", list(Role))
def test_head_may_come_byte_by_byte(codec, role, size):
    decoder = codec.Decoder(role)
    frame = wire(f"1 000 0010  {int(role.peer.masks)} len", bytes(size))
    head = len(frame) - size
    for octet in bytewise(frame[: head - 1]):
        assert decoder.feed(octet) == []
        assert not decoder.mid_message
    assert decoder.feed(frame[head - 1 :]) == [bytes(size)]
    assert not decoder.mid_message


def test_one_byte_a_read_is_the_same_as_all_at_once(codec):
    octets = (
        wire("0 000 0001  1 len", "né".encode()[:2])
        + wire("1 000 1001  1 len", b"?")
        + wire("1 000 0000  1 len", "né".encode()[2:])
        + wire("1 000 0010  1 len", bytes(130))
        + wire("1 000 1000  1 len", b"\x03\xe8bye")
    )
    whole = codec.Decoder(Role.SERVER).feed(octets)
    slow = codec.Decoder(Role.SERVER)
    assert [item for octet in bytewise(octets) for item in slow.feed(octet)] == whole
    assert whole == [
        Control(Opcode.PING, b"?"),
        "né",
        bytes(130),
        Control(Opcode.CLOSE, b"\x03\xe8bye"),
    ]


def test_several_messages_in_one_read_are_given_in_order(codec):
    client = codec.Decoder(Role.CLIENT)
    assert client.feed(b"\x81\x01a\x82\x01b\x89\x00\x81\x00\x82\x00") == [
        "a",
        b"b",
        Control(Opcode.PING, b""),
        "",
        b"",
    ]
    assert client.feed(b"") == []


# Fragments (§5.4)


def test_control_frames_may_come_between_fragments(codec):
    client = codec.Decoder(Role.CLIENT)
    assert client.feed(
        wire("0 000 0010  0 0000001", b"a")
        + wire("1 000 1001  0 0000001", b"1")
        + wire("0 000 0000  0 0000000")
        + wire("1 000 1010  0 0000001", b"2")
        + wire("1 000 0000  0 0000001", b"b")
    ) == [Control(Opcode.PING, b"1"), Control(Opcode.PONG, b"2"), b"ab"]


def test_message_may_end_with_an_empty_fragment(codec):
    client = codec.Decoder(Role.CLIENT)
    assert client.feed(b"\x01\x02hi\x80\x00\x02\x00\x00\x00\x80\x01x") == ["hi", b"x"]


@pytest.mark.parametrize("fin", ["0", "1"])
@pytest.mark.parametrize("before", [b"", b"\x82\x01a", b"\x02\x01a\x80\x01b", b"\x89\x00"])
def test_continuation_of_nothing_is_refused(codec, before, fin):
    client = codec.Decoder(Role.CLIENT)
    client.feed(before)
    assert client.feed(wire(f"{fin} 000 0000  0 0000001", b"x")) == []
    assert client.failure.code == 1002
    assert "continued a message that it had not begun" in str(client.failure)


@pytest.mark.parametrize("fin", ["0", "1"])
@pytest.mark.parametrize("opcode", ["0001", "0010"])
def test_message_inside_another_is_refused(codec, opcode, fin):
    client = codec.Decoder(Role.CLIENT)
    client.feed(wire("0 000 0010  0 0000000"))
    assert client.feed(wire(f"{fin} 000 {opcode}  0 0000001", b"x")) == []
    assert client.failure.code == 1002
    assert "began a message inside another" in str(client.failure)


# Control frames (§5.5)


@pytest.mark.parametrize(("opcode", "name"), [(8, "CLOSE"), (9, "PING"), (10, "PONG")])
@pytest.mark.parametrize("short", ["1111110", "1111111"])
def test_control_frame_of_more_than_125_bytes_is_refused_before_its_length(
    codec, opcode, name, short
):
    client = codec.Decoder(Role.CLIENT)
    assert client.feed(wire(f"1 000 {opcode:04b}  0 {short}")[:2]) == []
    assert client.failure.code == 1002
    assert f"{name} frame of more than 125 bytes" in str(client.failure)


@pytest.mark.parametrize(("opcode", "name"), [(8, "CLOSE"), (9, "PING"), (10, "PONG")])
def test_fragmented_control_frame_is_refused(codec, opcode, name):
    client = codec.Decoder(Role.CLIENT)
    assert client.feed(wire(f"0 000 {opcode:04b}  0 0000000")) == []
    assert client.failure.code == 1002
    assert f"fragmented {name} frame" in str(client.failure)


@pytest.mark.parametrize("opcode", [Opcode.PING, Opcode.PONG])
def test_control_payload_of_125_bytes_that_are_no_text_is_given_as_it_is(codec, opcode):
    payload = b"\xff" * 125
    server = codec.Decoder(Role.SERVER)
    [item] = server.feed(wire(f"1 000 {opcode:04b}  1 1111101", payload))
    assert type(item) is Control
    assert item == Control(opcode, payload)
    assert type(item.opcode) is Opcode


# Close (§5.5.1, §7.4)


def test_close_without_a_code_is_given(codec):
    client = codec.Decoder(Role.CLIENT)
    assert client.feed(b"\x88\x00") == [Control(Opcode.CLOSE, b"")]
    assert client.failure is None


@pytest.mark.parametrize(
    "code",
    [
        1000,
        1001,
        1002,
        1003,
        1007,
        1008,
        1009,
        1010,
        1011,
        1012,
        1013,
        1014,
        3000,
        3999,
        4000,
        4999,
    ],
)
def test_close_codes_that_may_be_sent_are_given(codec, code):
    payload = code.to_bytes(2, "big") + b"why"
    client = codec.Decoder(Role.CLIENT)
    assert client.feed(wire("1 000 1000  0 len", payload)) == [Control(Opcode.CLOSE, payload)]
    assert client.failure is None


@pytest.mark.parametrize(
    "code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]
)
def test_close_codes_that_may_not_be_sent_are_refused(codec, code):
    client = codec.Decoder(Role.CLIENT)
    assert client.feed(wire("1 000 1000  0 0000010", code.to_bytes(2, "big"))) == []
    assert client.failure.code == 1002
    assert str(client.failure) == (
        f"peer sent close code {code}, which may never appear on the wire (RFC 6455 §7.4.1)"
    )


def test_close_with_half_a_code_is_refused(codec):
    client = codec.Decoder(Role.CLIENT)
    assert client.feed(wire("1 000 1000  0 0000001", b"\x03")) == []
    assert client.failure.code == 1002


def test_close_reason_that_is_not_utf8_is_refused_with_1007(codec):
    client = codec.Decoder(Role.CLIENT)
    assert client.feed(wire("1 000 1000  0 len", b"\x03\xe8\xed\xa0\x80")) == []
    assert client.failure.code == 1007


def test_nothing_is_parsed_after_a_close(codec):
    client = codec.Decoder(Role.CLIENT)
    assert client.feed(b"\x88\x02\x03\xe8" + b"\x81\x01a") == [Control(Opcode.CLOSE, b"\x03\xe8")]
    assert client.feed(b"\x81\x01b\xff\xff") == []
    assert client.failure is None
    assert not client.backlog
    assert not client.mid_message


# Violations


def test_messages_before_a_violation_are_given_and_nothing_after_it_is_parsed(codec):
    client = codec.Decoder(Role.CLIENT)
    good, bad = b"\x81\x01a\x89\x00", b"\x83\x00"
    assert client.feed(good + bad + b"\x81\x01b") == ["a", Control(Opcode.PING, b"")]
    assert "reserved opcode 3" in str(client.failure)
    failure = client.failure
    assert client.feed(b"\x81\x01c\xf0\x00") == []
    assert client.failure is failure
    assert not client.backlog


@pytest.mark.parametrize("head", ["1 000 0001  0 len", "1 100 0010  0 len", "1 000 1000  0 len"])
def test_failure_keeps_none_of_the_peers_bytes_alive(inflating, head):
    client = inflating()
    client.feed(wire(head, b"\x03\xe8\xff\xff"))
    assert client.failure.__context__ is None
    assert client.failure.__cause__ is None
    assert client.failure.__traceback__ is None
