"""A message that is written in parts: what is gathered of it, and the fragments it becomes (§5.4).

A face decides who may write when; the sender decides whether anything may be sent at all.
The buffer exists only while the message is being written.
"""

from __future__ import annotations

from typing import Protocol

from koko.core.outbox import Outbox
from koko.core.wire import Opcode
from koko.message import Kind

Octets = bytes | bytearray | memoryview

WRITE_SIZE = 1 << 16  # bytes to add at once; a face waits for room before it adds more
CUT = "a message was cut off in the middle"


class Permit(Protocol):
    """What a message asks of whoever has let it begin."""

    @property
    def may_send(self) -> bool: ...
    def check_open(self) -> None: ...
    def message_ended(self) -> None: ...
    def start_close(self, code: int, reason: str, now: float) -> None: ...


class Outgoing:
    """One message on its way; ``begun`` once a fragment of it was owed, ``ended`` with the last.

    A fragment is owed when the buffer is full and more comes, so what fits into one frame
    is one frame and leaves as if it had been sent whole.
    """

    __slots__ = (
        "_buffer",
        "_deflater",
        "_kind",
        "_opcode",
        "_outbox",
        "_permit",
        "_size",
        "_whole",
        "begun",
        "ended",
    )

    def __init__(self, permit: Permit, outbox: Outbox, kind: Kind, size: int) -> None:
        self.begun = False
        self.ended = False
        self._permit = permit
        self._outbox = outbox
        self._deflater = outbox.deflater if outbox.compressing else None
        self._kind = kind
        self._opcode: int = kind
        self._size = size
        self._buffer = bytearray()
        self._whole = True  # nothing was compressed or owed yet: it may become one frame

    def add(self, octets: Octets) -> None:
        """Take at most ``WRITE_SIZE`` bytes more of the message, and owe the fragments it fills."""
        self._permit.check_open()
        if self._deflater is not None and not self._whole:
            octets = self._deflater.compress_piece(octets)
        self._buffer += octets
        if len(self._buffer) <= self._size:
            return
        if self._whole:
            self._whole = False
            if self._deflater is not None:
                self._buffer[:] = self._deflater.compress_piece(self._buffer)
        self._owe_full()

    def end(self) -> None:
        """Owe the rest, as the last fragment; once."""
        if self.ended:
            return
        self._permit.check_open()
        if self._whole:
            self._outbox.add(self._kind, bytes(self._buffer))
        else:
            if self._deflater is not None:
                self._buffer += self._deflater.finish()
                self._owe_full()
            self._owe(self._buffer, final=True)
        self.ended = True
        self._buffer = bytearray()
        self._permit.message_ended()

    def cut(self, now: float) -> None:
        """Give the message up; if a part of it was owed, that ends the connection."""
        if self._deflater is not None and not self._whole:
            self._deflater.discard()
        self._buffer = bytearray()
        # Without a last fragment the peer waits for ever. With one it takes a part for the whole.
        if self.begun and not self.ended and self._permit.may_send:
            self._permit.start_close(1011, CUT, now)
        self._permit.message_ended()

    def late(self) -> TimeoutError:
        """Return the error of a write that took too long."""
        if self.begun:
            return TimeoutError(f"{CUT} because it took too long, which ends the connection")
        return TimeoutError("the message could not be sent in time; nothing was sent")

    def _owe_full(self) -> None:
        at = 0
        with memoryview(self._buffer) as view:
            while len(view) - at > self._size:
                self._owe(view[at : at + self._size], final=False)
                at += self._size
        del self._buffer[:at]

    def _owe(self, octets: Octets, final: bool) -> None:
        rsv1 = self._deflater is not None and self._opcode != Opcode.CONTINUATION
        self._outbox.add_fragment(self._opcode, octets, final, rsv1)
        self._opcode = Opcode.CONTINUATION  # RFC 7692 §6.1: RSV1 on the first fragment only
        self.begun = True
