"""The streams under permessage-deflate: ``Deflater`` and ``Inflater`` (RFC 7692 §7.2).

The law: neither remembers more than was agreed, and inflating never gives more bytes
than were asked for. A ``Deflater`` without context takeover owns no state between
messages; an ``Inflater`` never shares one, for what a hostile peer could refer back to
must be its own.

``isal`` compresses where it is installed and is better at it (see ``ISAL_LEVELS``);
``KOKO_DEFLATE=zlib`` or ``isal`` chooses by hand and ``IMPLEMENTATION`` says which.
Inflating is always zlib's: it needs half of the memory, is the faster one up to 4 KiB
(1.4 us where isal takes 2.1 for 200 bytes; 33 and 16 for 16 KiB), and only its state
can be copied, which is how the end of a message is checked.
"""

from __future__ import annotations

import importlib
import os
import zlib
from collections import deque
from typing import Any, Protocol

from koko.errors import ProtocolError

LEVELS = frozenset({-2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9})

TAIL = b"\x00\x00\xff\xff"  # RFC 7692 §7.2.1: what a sync flush ends with, never sent
EMPTY = b"\x00"  # RFC 7692 §7.2.3.6: an empty message
PROBE = b"\x03\x00"  # a final and empty block: ends the stream if nothing was left open

POOLED = 4  # compressors kept for each level and window, at most 262 KiB each
SLICE = 4096  # zlib copies what it could not consume, so it is never shown more than this
MAX_FINAL_BLOCKS = 1024  # in one message; each costs a new state and as little as two bytes


def check_level(level: int) -> None:
    """Refuse what is not a compression level."""
    if type(level) is not int or level not in LEVELS:
        raise ValueError(
            f"compression level {level!r}: -2 (Huffman only), -1 (default), 0 (store) to 9 (small)"
        )


def _choose() -> Any:
    wanted = os.environ.get("KOKO_DEFLATE", "")
    if wanted not in ("", "isal", "zlib"):
        raise ValueError(f"KOKO_DEFLATE={wanted!r}, expected 'isal' or 'zlib'")
    if wanted == "zlib":
        return None
    try:
        return importlib.import_module("isal.isal_zlib")
    except ImportError as error:
        if wanted == "isal":
            raise ImportError("KOKO_DEFLATE=isal, but isal is not installed") from error
        return None


_isal = _choose()
IMPLEMENTATION = "zlib" if _isal is None else "isal"


# Compressing


class _Compressor(Protocol):
    def compress(self, payload: Any, /) -> bytes: ...
    def flush(self, mode: int, /) -> bytes: ...


# Our levels that isal does, and its level for them. It is left out where zlib gives less
# (16 KiB of JSON: level 1 in 34 us to 3057 bytes, zlib's 67 us and 3177; but its
# best, 3, takes 121 us to 2901 where zlib's 3 takes 82 to 2930 and zlib's 6 goes to 2605).
ISAL_LEVELS = {-1: 2, 1: 1, 2: 2}

_pool: dict[tuple[int, int], deque[_Compressor]] = {}


def _is_isal(level: int, bits: int) -> bool:
    return _isal is not None and level in ISAL_LEVELS and bits > 8


def _new_compressor(level: int, bits: int) -> _Compressor:
    if _is_isal(level, bits):
        made: _Compressor = _isal.compressobj(ISAL_LEVELS[level], zlib.DEFLATED, -bits)
        return made
    strategy = zlib.Z_HUFFMAN_ONLY if level == -2 else zlib.Z_DEFAULT_STRATEGY
    # zlib has no raw window of 8 bits, but with one of 9 it never refers back further
    # than 512 - 262 = 250 bytes (its MAX_DIST), so 9 honours 8 to the letter. A
    # window that was made small is meant to save memory: the hash table shrinks with it.
    return zlib.compressobj(
        max(level, -1), zlib.DEFLATED, -max(bits, 9), max(bits - 7, 5), strategy
    )


class Deflater:
    """Compresses the messages of one connection, one at a time.

    Without context takeover the state is borrowed while a message is being written:
    making one costs 1 us of zlib's 7 for 200 bytes, but 60 when malloc has given the
    262 KiB back to the system. isal's is a fifth of that; making it costs 1 us of 6, and
    its full flush 20 bytes of 150, so it is not kept. One caller at a time; what two
    deflaters do is never visible to each other.
    """

    __slots__ = ("_kept", "_level", "_made_for", "_writing", "bits", "takeover")

    def __init__(self, level: int = 1, bits: int = 15, *, takeover: bool = False) -> None:
        self.level = level
        self.bits = bits
        self.takeover = takeover
        self._writing: _Compressor | None = None  # while a message is being written
        self._kept: _Compressor | None = None  # between messages, with context takeover
        self._made_for = level

    @property
    def level(self) -> int:
        """The compression level; a new one applies from the next message.

        With context takeover that message starts from an empty window.
        """
        return self._level

    @level.setter
    def level(self, level: int) -> None:
        check_level(level)
        self._level = level

    @property
    def shareable(self) -> tuple[int, int] | None:
        """What ``compress`` depends on beside the payload; None if on earlier messages."""
        return None if self.takeover else (self._level, self.bits)

    def compress(self, payload: bytes | bytearray | memoryview) -> bytes:
        """Return a whole message, compressed."""
        return self.compress_piece(payload) + self.finish()

    def compress_piece(self, payload: bytes | bytearray | memoryview) -> bytes:
        """Return what can be sent already of a message that goes on; often nothing."""
        if not payload:
            return b""
        if self._writing is None:
            self._writing = self._begin()
        return self._writing.compress(payload)

    def finish(self) -> bytes:
        """Return the rest of the message."""
        compressor, self._writing = self._writing, None
        if compressor is None:
            return EMPTY
        if self.takeover:
            self._kept = compressor
        elif not _is_isal(self._made_for, self.bits):
            return self._give_back(compressor)
        return compressor.flush(zlib.Z_SYNC_FLUSH).removesuffix(TAIL)

    def discard(self) -> None:
        """Forget a message that was not finished and of which the peer has seen nothing.

        With context takeover the next one starts from an empty window.
        """
        self._writing = self._kept = None

    def _begin(self) -> _Compressor:
        if self._kept is not None and self._made_for == self._level:
            return self._kept
        self._made_for = self._level
        try:
            return _pool[self._level, self.bits].pop()
        except LookupError:
            return _new_compressor(self._level, self.bits)

    def _give_back(self, compressor: _Compressor) -> bytes:
        # A full flush forgets all that was written, so the next borrower, who talks to
        # somebody else, cannot refer to it. deque(maxlen) bounds the pool without a lock.
        rest = compressor.flush(zlib.Z_FULL_FLUSH).removesuffix(TAIL)
        _pool.setdefault((self._made_for, self.bits), deque(maxlen=POOLED)).append(compressor)
        return rest


# Inflating


class Inflater:
    """Inflates the messages of one connection, never more at once than asked for.

    Without context takeover nothing is kept between messages; with it, the window.
    A block marked final may stand anywhere in a message (RFC 7692 §7.2.3.4); what
    follows cannot refer back over it, nor does any sender whose library ends a stream.
    ``pending`` tells whether ``get`` may give more, perhaps nothing.

    An interrupt loses nothing: what zlib gives is kept by the call in C that made it, what
    that has taken is noted by plain stores, and ``get`` goes on where it was cut off.
    """

    __slots__ = (
        "_at", "_checks", "_final", "_final_blocks", "_inflated", "_noted", "_payload", "_shown",
        "_stream", "bits", "pending", "takeover",
    )  # fmt: skip

    def __init__(self, bits: int = 15, *, takeover: bool = False) -> None:
        self.bits = bits
        self.takeover = takeover
        self.pending = False
        self._stream: Any = None  # a zlib.decompressobj, a type without a name
        self._payload = b""
        self._at = 0  # how much of it zlib has taken
        self._shown = 0  # how much of it zlib has seen
        self._inflated: list[bytes] = []  # what zlib gave and nobody has got
        self._noted = 0  # how many of them ``_at`` knows of
        self._checks: list[bytes] = []  # what zlib gave for what ends a message
        self._final = False
        self._final_blocks = 0

    def inflate(self, piece: bytes, max_length: int, final: bool = False) -> bytes:
        """Do as ``put`` and ``get``."""
        self.put(piece, final)
        return self.get(max_length)

    def put(self, piece: bytes, final: bool = False) -> None:
        """Take more of the message; ``final`` says that ``piece`` ends it.

        The message is over once that was said and ``pending`` is False; the next piece then
        begins the next message.
        """
        payload = self._payload[self._at :] + piece if piece else self._payload
        # What is pending stays where it is, else each call would copy it.
        at = 0 if piece else self._at
        self._payload, self._at, self._final = payload, at, self._final or final

    def get(self, max_length: int) -> bytes:
        """Return at most ``max_length`` more bytes of the message.

        Raises:
            ProtocolError: 1007, the payload is not what a deflater makes.
            ValueError: ``max_length`` is not above 0, which zlib takes for no limit.
        """
        if max_length <= 0:
            raise ValueError(f"max_length={max_length}: a number of bytes above 0")
        stepped = False
        while (room := max_length - self._note()) and not (
            stepped and self._at == len(self._payload)
        ):
            self._step(room)
            stepped = True
        inflated = b"".join(self._inflated)
        if room:
            if self._final:
                self._end()
            self._payload, self._at = b"", 0
        self._inflated, self._noted, self.pending = [], 0, not room
        return inflated

    def _step(self, room: int) -> None:
        shown = self._payload[self._at : self._at + SLICE]
        if self._stream is None:
            if not shown:
                return
            self._stream = zlib.decompressobj(-self.bits)
        self._shown = self._at + len(shown)
        try:
            self._inflated.extend(map(self._stream.decompress, (shown,), (room,)))
        except zlib.error as error:
            raise _violation(f"payload is not deflate data: {error}{self._hint(error)}") from error

    def _note(self) -> int:
        """Take note of what zlib has taken; return how many bytes it has given."""
        given, size = len(self._inflated), sum(map(len, self._inflated))
        if self._noted == given:
            return size
        stream = self._stream
        # Once a final block has been read, unconsumed_tail is what it was before (CPython).
        rest = len(stream.unused_data if stream.eof else stream.unconsumed_tail)
        self._noted, self._at = given, self._shown - rest
        if stream.eof:
            self._stream, self._final_blocks = None, self._final_blocks + 1
        if self._final_blocks > MAX_FINAL_BLOCKS:
            raise _violation(f"payload has more than {MAX_FINAL_BLOCKS} final blocks")
        return size

    def _hint(self, error: Exception) -> str:
        # Some peers, Tornado's client for one, do not notice what was agreed.
        if self.takeover or "too far back" not in str(error):
            return ""
        return "; it was agreed that each message is compressed on its own"

    def _end(self) -> None:
        # A message may also end with a final block, as of Go or Java senders that close.
        if (self._stream is not None or not self._final_blocks) and not self._tail_fits():
            raise _violation("payload ends in the middle of a deflate block")
        if not self.takeover or (self._stream is not None and self._stream.eof):
            self._stream = None
        self._final, self._final_blocks, self._checks = False, 0, []

    def _tail_fits(self) -> bool:
        # RFC 7692 §7.2.2: the tail is read as the end of an empty block. Where it gives
        # a byte, or leaves a block open, the message was cut off in the middle of one.
        if self._stream is None:
            self._stream = zlib.decompressobj(-self.bits)
        stream, checks = self._stream, self._checks
        try:
            if not checks:
                checks.extend(map(stream.decompress, (TAIL,), (1,)))
            if checks[0]:
                return False
            if stream.eof:
                return not stream.unused_data
            if self.takeover:
                probe = stream.copy()
                return not probe.decompress(PROBE, 1) and bool(probe.eof)
            if len(checks) == 1:  # pragma: no branch - else it was interrupted here
                checks.extend(map(stream.decompress, (PROBE,), (1,)))
            return not checks[1] and bool(stream.eof)
        except zlib.error:
            return False


def _violation(what: str) -> ProtocolError:
    return ProtocolError(1007, f"peer sent a compressed message whose {what}", "RFC 7692 §7.2.2")
