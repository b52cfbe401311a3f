"""The tables of RFC 6455, as far as a slip in them could hide."""

from __future__ import annotations

from koko.core.wire import CLOSE_CODES, Opcode, Role
from koko.message import Kind


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
