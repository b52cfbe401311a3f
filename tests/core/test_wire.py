"""The tables of RFC 6455, as far as a slip in them could hide."""

from __future__ import annotations

from koko.core.wire import CLOSE_CODES, Opcode, Role
from koko.message import CloseCode, Kind


def test_the_client_masks_and_the_server_does_not():
    assert Role.CLIENT.masks
    assert not Role.SERVER.masks


def test_each_role_is_the_peer_of_the_other():
    assert Role.CLIENT.peer is Role.SERVER
    assert Role.SERVER.peer is Role.CLIENT


def test_close_codes_are_the_registered_ones_and_those_free_to_use():
    reserved = {1004, 1005, 1006, 1015}  # may never appear on the wire (§7.4.1)
    assert CLOSE_CODES & set(range(3000)) == set(range(1000, 1015)) - reserved
    assert CLOSE_CODES - set(range(3000)) == set(range(3000, 5000))


def test_the_kinds_of_messages_are_the_opcodes_of_their_frames():
    for kind in Kind:
        assert Opcode[kind.name] == kind


def test_kinds_and_close_codes_have_their_registered_numbers():
    assert [(kind.name, int(kind)) for kind in Kind] == [
        ("TEXT", 1),
        ("BINARY", 2),
        ("CLOSE", 8),
        ("PING", 9),
        ("PONG", 10),
    ]
    assert [(code.name, int(code)) for code in CloseCode] == [
        ("NORMAL_CLOSURE", 1000),
        ("GOING_AWAY", 1001),
        ("PROTOCOL_ERROR", 1002),
        ("UNSUPPORTED_DATA", 1003),
        ("NO_STATUS_RECEIVED", 1005),
        ("ABNORMAL_CLOSURE", 1006),
        ("INVALID_FRAME_PAYLOAD_DATA", 1007),
        ("POLICY_VIOLATION", 1008),
        ("MESSAGE_TOO_BIG", 1009),
        ("MANDATORY_EXTENSION", 1010),
        ("INTERNAL_SERVER_ERR", 1011),
        ("SERVICE_RESTART", 1012),
        ("TRY_AGAIN_LATER", 1013),
        ("BAD_GATEWAY", 1014),
        ("TLS_HANDSHAKE", 1015),
    ]
