"""Frames as a reader of §5.2 sees them: bits in, bytes out.

Written without the codec, so that the codec can be tested with it. A head may lie:
nothing here checks that a length is the payload's or that a bit may be set.
"""

from __future__ import annotations

import zlib
from itertools import cycle
from operator import xor

KEY = bytes.fromhex("37fa213d")  # the masking key of the examples in §5.7


def wire(bits: str, payload: bytes = b"", *, key: bytes = KEY, length: int | None = None) -> bytes:
    """Return a frame: FIN, RSV1-3, opcode, MASK and length as visible bits, then the payload.

    The word ``len`` in the place of the seven bits of length stands for the payload's own
    length in the fewest bytes. Where they are 126 or 127, an extended length follows:
    ``length``, by default the payload's. Where MASK is set, ``key`` follows and masks.
    """
    first, second = bits.replace(" ", "")[:8], bits.replace(" ", "")[8:]
    mask, short = second[0] == "1", second[1:]
    size = len(payload) if length is None else length
    if short == "len":
        low = size if size < 126 else 126 if size < 1 << 16 else 127
    else:
        low = int(short, 2)
    head = bytes((int(first, 2), mask << 7 | low))
    if low >= 126:
        head += size.to_bytes(2 if low == 126 else 8, "big")
    return head + (key + masked(payload, key) if mask else payload)


def masked(payload: bytes, key: bytes = KEY) -> bytes:
    """Return ``payload`` exclusive-or'ed with ``key`` byte by byte (§5.3)."""
    return bytes(map(xor, payload, cycle(key)))


def compressed(payload: bytes) -> bytes:
    """Return ``payload`` as a compressed message holds it (RFC 7692 §7.2.1)."""
    deflate = zlib.compressobj(wbits=-15)
    octets = deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH)
    return octets.removesuffix(b"\x00\x00\xff\xff")


def bytewise(octets: bytes) -> list[bytes]:
    """Return ``octets`` as a slow network delivers them, one by one."""
    return [octets[i : i + 1] for i in range(len(octets))]
