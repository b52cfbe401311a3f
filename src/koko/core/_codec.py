"""The reference codec: bytes to messages and messages to bytes, in plain Python.

RFC 6455 §5, each check under its section number. ``_native.pyx`` is its twin: the
same names in the same order, equal on every byte. Neither decides anything but
whether a byte may stand where it stands; what follows from it is ``connection``'s.
"""

from __future__ import annotations

import codecs
import os
from typing import TYPE_CHECKING

from koko.core.wire import CLOSE_CODES, MAX_CONTROL_PAYLOAD, Control, Opcode, Piece, Role
from koko.errors import ErrReadLimit, ProtocolError

if TYPE_CHECKING:
    from koko.core.deflate import Inflater

Item = str | bytes | Control | Piece

HOLD = 1 << 18  # bytes of messages one feed gives before it stops; the rest is backlog
INFLATE_STEP = 1 << 16  # bytes asked of the inflater at once
KEYS = 64  # masking keys drawn from the system at once

OPCODES = {int(opcode): opcode for opcode in Opcode}
CONTINUATION, TEXT, BINARY, CLOSE = 0, 1, 2, 8


def mask(payload: bytes, key: bytes, at: int = 0) -> bytes:
    """Return ``payload`` masked or unmasked (§5.3) as if it began ``at`` bytes into the frame."""
    size = len(payload)
    if at & 3:
        key = key[at & 3 :] + key[: at & 3]
    # The 1 on top keeps the number large where the payload comes out as zeros. Since CPython 3.14
    # a small one keeps the block it was computed in, for the next small number that is made.
    keys = (key * (size // 4 + 1))[:size] + b"\1"
    masked = int.from_bytes(payload, "little") ^ int.from_bytes(keys, "little")
    return masked.to_bytes(size + 1, "little")[:size]


def check_close_payload(payload: bytes) -> None:
    """Raise ProtocolError unless ``payload`` may stand in a Close frame."""
    if not payload:
        return
    # §5.5.1: if there is a body, it begins with a code of two bytes.
    if len(payload) == 1:
        raise ProtocolError(1002, "peer sent a Close with a payload of 1 byte", "§5.5.1")
    code = int.from_bytes(payload[:2], "big")
    if code not in CLOSE_CODES:
        raise ProtocolError(
            1002, f"peer sent close code {code}, which may never appear on the wire", "§7.4.1"
        )
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise ProtocolError(1007, "peer sent a close reason that is not UTF-8", "§5.5.1") from None


class Utf8:
    """Checks UTF-8 that comes in pieces and fails on the first byte that cannot be right."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def feed(self, piece: bytes | bytearray, final: bool = False) -> None:
        try:
            self._decoder.decode(piece, final)
        except UnicodeDecodeError:
            raise bad_utf8() from None
        # CPython waits for the third byte of a surrogate; the second already gives it away.
        waiting = self._decoder.getstate()[0]
        if waiting[:1] == b"\xed" and waiting[1:2] >= b"\xa0":
            raise bad_utf8()


def bad_utf8() -> ProtocolError:
    return ProtocolError(1007, "peer sent a text message that is not UTF-8", "§8.1")


class Decoder:
    """What the peer sends, from bytes to messages.

    ``feed`` gives whole messages in the user's form (``str`` for text, ``bytes``
    for binary) and control frames. A violation becomes ``failure``: the messages
    before it have been given, nothing after it is parsed. Neither is anything
    after a Close. Memory follows what has arrived, never what a head announces.
    """

    def __init__(
        self,
        role: Role,
        *,
        read_limit: int | None = None,
        inflater: Inflater | None = None,
        hold: int = HOLD,
    ) -> None:
        self.failure: ProtocolError | None = None
        self.read_limit = read_limit
        self._peer_masks = role.peer.masks
        self._inflater = inflater
        self._hold = hold
        self._held = 0
        self._tail = b""
        self._taken = 0  # how much of what is being parsed must not be parsed again
        self._steady = False  # what is called now may fail, and all that is kept is as it was
        self._found: list[Item] | None = None  # what a feed had found that was interrupted then
        self._done = False
        # the frame being read; _left < 0 between frames
        self._left = -1
        self._final = True
        self._opcode = CONTINUATION
        self._key = b""
        self._at = 0
        self._control = b""
        # the message being read; _kind is 0 between messages
        self._kind = 0
        self._message = bytearray()
        self._wire = 0
        self._size = 0
        self._compressed = False
        self._draining = False
        self._streaming = False
        self._utf8: Utf8 | None = None

    @property
    def backlog(self) -> bool:
        """True when ``feed(b"")`` may give more without new bytes from the peer."""
        return self._held >= self._hold and not self._done

    @property
    def interrupted(self) -> bool:
        """True when the last ``feed`` was interrupted in the inflater; the next one goes on."""
        return self._found is not None

    @property
    def mid_message(self) -> bool:
        """True when the peer has begun a message and not ended it."""
        return self._kind != 0

    def feed(self, data: bytes) -> list[Item]:
        """Take bytes from the peer and return what they complete, in order.

        Stops after ``hold`` bytes of messages and keeps the rest as ``backlog``, so
        that small bytes that inflate to large messages are not all inflated at once.
        What a signal handler raises in the inflater loses nothing: see ``interrupted``.
        """
        items: list[Item] = self._found or []
        self._found = None
        if self._done:
            return items
        if self._tail:
            data = self._tail + data
        self._held = 0
        at = self._taken = 0
        try:
            if self._draining:
                self._inflate(items)
            while self._held < self._hold and not self._done:
                if self._left < 0:
                    start = self._read_head(data, at)
                    if start < 0:
                        break
                    at = self._taken = start
                stop = min(at + self._left, len(data))
                if stop == at and self._left:
                    break
                self._read_payload(data[at:stop], items)
                at = self._taken = stop
        except ProtocolError as failure:
            failure.__cause__ = failure.__context__ = None  # they hold the peer's bytes
            self.failure = failure.with_traceback(None)
            self._done = True
        except BaseException:
            if self._steady:  # pragma: no branch - interrupts: tests/sync/test_interrupts.py
                self._tail = data[self._taken :]
                self._found = items
            raise
        self._tail = b"" if self._done else data[at:]
        if self._streaming:
            self._hand_on(items)
        return items

    def open_stream(self) -> Opcode | None:
        """Have the message that has begun handed on in pieces; None when there is none.

        From the next ``feed`` on, ``Piece`` items stand in its place; the last
        one is final. What has arrived already comes first.
        """
        if not self._kind:
            return None
        self._streaming = True
        return OPCODES[self._kind]

    def _read_head(self, data: bytes, at: int) -> int:
        """Read the frame head at ``at``; return where its payload starts, -1 if more is needed."""
        if len(data) - at < 2:
            return -1
        first, second = data[at], data[at + 1]
        opcode = first & 0x0F
        self._check_first(first, opcode)
        # §5.1: a client masks every frame, a server none.
        if (second >= 0x80) != self._peer_masks:
            raise ProtocolError(
                1002,
                "peer sent an unmasked frame; a client must mask every frame"
                if self._peer_masks
                else "peer sent a masked frame; a server must not mask any frame",
                "§5.1",
            )
        length = second & 0x7F
        if opcode >= CLOSE:
            self._check_control(first, opcode, length)
        start = at + 2
        if length > 125:
            start, length = self._read_length(data, start, length)
            if start < 0:
                return -1
        if self._peer_masks:
            if len(data) < start + 4:
                return -1
            self._key = data[start : start + 4]
            start += 4
        self._begin_frame(first, opcode, length)
        return start

    def _check_first(self, first: int, opcode: int) -> None:
        # §5.2: reserved bits are 0 unless an extension gives them a meaning. RFC 7692
        # §6 gives RSV1 one, on the first frame of a message and nowhere else.
        if first & 0x70 and not (
            first & 0x70 == 0x40 and opcode in (TEXT, BINARY) and self._inflater is not None
        ):
            bits = ", ".join(f"RSV{i + 1}" for i in range(3) if first & 0x40 >> i)
            raise ProtocolError(1002, f"peer set {bits} on a frame of opcode {opcode}", "§5.2")
        # §5.4: fragments of one message follow each other; only control frames may come between.
        if opcode in (TEXT, BINARY):
            if self._kind:
                raise ProtocolError(1002, "peer began a message inside another", "§5.4")
        elif opcode not in OPCODES:
            raise ProtocolError(1002, f"peer sent reserved opcode {opcode}", "§5.2")
        elif opcode == CONTINUATION and not self._kind:
            raise ProtocolError(1002, "peer continued a message that it had not begun", "§5.4")

    def _check_control(self, first: int, opcode: int, length: int) -> None:
        # §5.5: a control frame carries at most 125 bytes and is never fragmented.
        name = OPCODES[opcode].name
        if length > MAX_CONTROL_PAYLOAD:
            raise ProtocolError(1002, f"peer sent a {name} frame of more than 125 bytes", "§5.5")
        if first < 0x80:
            raise ProtocolError(1002, f"peer sent a fragmented {name} frame", "§5.5")

    def _read_length(self, data: bytes, start: int, short: int) -> tuple[int, int]:
        """Read an extended length; return where it ends (-1 if more is needed) and the length."""
        size, least = (2, 126) if short == 126 else (8, 1 << 16)
        # §5.2: the most significant bit of a 64-bit length is 0.
        if size == 8 and len(data) > start and data[start] >= 0x80:
            raise ProtocolError(1002, "peer sent a length with its top bit set", "§5.2")
        if len(data) < start + size:
            return -1, 0
        length = int.from_bytes(data[start : start + size], "big")
        # §5.2: the minimal number of bytes must be used.
        if length < least:
            raise ProtocolError(1002, f"peer sent length {length} in {size} bytes", "§5.2")
        return start + size, length

    def _begin_frame(self, first: int, opcode: int, length: int) -> None:
        if opcode < CLOSE:
            self._wire += length
            if self.read_limit is not None and self._wire > self.read_limit:
                self._check_limit(self._wire)
            if opcode:
                self._kind = opcode
                self._compressed = first & 0x40 != 0
            self._final = first >= 0x80
        self._opcode = opcode
        self._left = length
        self._at = 0

    def _check_limit(self, size: int) -> None:
        if self.read_limit is not None and size > self.read_limit:
            raise ErrReadLimit(
                f"peer sent a message of at least {size} bytes, read_limit={self.read_limit}"
            )

    def _read_payload(self, piece: bytes, items: list[Item]) -> None:
        size = len(piece)
        if self._peer_masks and size:
            piece = mask(piece, self._key, self._at)
        ended = size == self._left
        if self._inflater is not None and self._compressed and self._opcode < CLOSE:
            self._steady = True
            self._inflater.put(piece, ended and self._final)
            self._taken += size
            self._draining = True
        # Nothing is moved before the inflater has it, and then nothing can fail.
        self._at += size
        self._left = -1 if ended else self._left - size
        if self._opcode >= CLOSE:
            self._control += piece
            if ended:
                self._finish_control(items)
        elif self._compressed:
            self._inflate(items)
        elif self._wire == size and ended and self._final and not self._streaming:
            self._give(piece, items)
        else:
            self._append(piece)
            if ended and self._final:
                self._finish(items)

    def _finish_control(self, items: list[Item]) -> None:
        opcode, payload = OPCODES[self._opcode], self._control
        self._control = b""
        if opcode is Opcode.CLOSE:
            check_close_payload(payload)
            self._done = True  # §5.5.1: nothing follows a Close
        self._hand_on(items)
        items.append(Control(opcode, payload))

    def _inflate(self, items: list[Item]) -> None:
        inflater = self._inflater
        assert inflater is not None  # RSV1 was refused otherwise
        last = self._final and self._left < 0
        while self._held < self._hold:
            room = INFLATE_STEP
            if self.read_limit is not None:
                # At least 1: read_limit may have been lowered below what has come.
                room = max(1, min(room, self.read_limit - self._size + 1))
            self._steady = True
            inflated = inflater.get(room)
            self._steady = False
            self._check_limit(self._size + len(inflated))
            self._append(inflated)
            self._held += len(inflated)
            self._draining = inflater.pending
            if not self._draining:
                if last:
                    self._finish(items)
                return

    def _append(self, piece: bytes) -> None:
        if self._kind == TEXT:
            if self._utf8 is None:
                self._utf8 = Utf8()
            self._utf8.feed(piece)
        self._message += piece
        self._size += len(piece)

    def _finish(self, items: list[Item]) -> None:
        if self._utf8 is not None:
            self._utf8.feed(b"", final=True)
        message = bytes(self._message)
        if not self._streaming:
            self._give(message, items)
            return
        items.append(Piece(message, True))
        self._end_message(0)

    def _give(self, message: bytes, items: list[Item]) -> None:
        if self._kind == BINARY:
            items.append(message)
        else:
            try:
                items.append(message.decode())
            except UnicodeDecodeError:
                raise bad_utf8() from None
        self._end_message(0 if self._compressed else len(message))

    def _end_message(self, size: int) -> None:
        self._held += size
        self._kind = self._wire = self._size = 0
        self._compressed = self._streaming = False
        self._utf8 = None
        if self._message:
            self._message = bytearray()

    def _hand_on(self, items: list[Item]) -> None:
        if self._streaming and self._message:
            items.append(Piece(bytes(self._message), False))
            self._message = bytearray()


class Encoder:
    """What we send, from payloads to frames; masked with fresh keys when we are the client.

    Attributes:
        bytes_out: of all frames so far; whoever sends a frame made elsewhere adds its own.
    """

    def __init__(self, role: Role) -> None:
        self.bytes_out = 0
        self._masks = role.masks
        self._keys = b""

    def encode(
        self,
        opcode: int,
        payload: str | bytes | bytearray | memoryview,
        fin: bool = True,
        rsv1: bool = False,
    ) -> bytes:
        """Return one whole frame. Text given as ``str`` is encoded, bytes are sent as they are."""
        if isinstance(payload, str):
            payload = payload.encode()
        elif not isinstance(payload, bytes):
            payload = bytes(memoryview(payload))
        frame = self.head(opcode, len(payload), fin, rsv1)
        if self._masks:
            key = self._next_key()
            frame += key + mask(payload, key)
        else:
            frame += payload
        self.bytes_out += len(frame)
        return frame

    def head(self, opcode: int, length: int, fin: bool = True, rsv1: bool = False) -> bytes:
        """Return the head of a frame up to its masking key (§5.2)."""
        first = fin << 7 | rsv1 << 6 | opcode
        bit = 0x80 if self._masks else 0
        if length < 126:
            return bytes((first, bit | length))
        if length < 1 << 16:
            return bytes((first, bit | 126, length >> 8, length & 0xFF))
        return bytes((first, bit | 127)) + length.to_bytes(8, "big")

    def _next_key(self) -> bytes:
        # §5.3, §10.3: keys from a strong source; drawn in batches, a call each costs 1 us.
        if not self._keys:
            self._keys = os.urandom(4 * KEYS)
        key, self._keys = self._keys[:4], self._keys[4:]
        return key
