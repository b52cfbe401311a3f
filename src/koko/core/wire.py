"""The nouns of RFC 6455: roles, opcodes, close codes, limits.

Tables and names only; no behaviour, no state. Sets of valid numbers are written
out, never derived from an enum.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import NamedTuple


class Role(Enum):
    """Which end of the connection somebody is."""

    CLIENT = "client"
    SERVER = "server"

    masks: bool  # §5.1: the client masks, the server never does
    peer: Role


Role.CLIENT.masks, Role.SERVER.masks = True, False
Role.CLIENT.peer, Role.SERVER.peer = Role.SERVER, Role.CLIENT


class Opcode(IntEnum):
    """What a frame carries (§5.2)."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class Control(NamedTuple):
    """A control frame, whole and checked (§5.5)."""

    opcode: Opcode
    payload: bytes


class Piece(NamedTuple):
    """Part of a message that is read as a stream; ``final`` ends the message."""

    payload: bytes
    final: bool


MAX_CONTROL_PAYLOAD = 125  # §5.5, bytes
MAX_CLOSE_REASON = 123  # §5.5.1: two of the 125 bytes are the code
MAX_HEAD = 14  # §5.2: two bytes, eight of length, four of masking key

# §7.4.1, §7.4.2 and the IANA registry: what may stand in a Close frame. 1004,
# 1005, 1006 and 1015 must not; 1016-2999 are reserved; 3000-4999 are free to use.
CLOSE_CODES = frozenset(
    {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014}
    | set(range(3000, 5000))
)
