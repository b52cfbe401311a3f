"""The other end of a conversation: says frames with visible bits and tells what it hears.

Knows neither our codec nor which face it talks to. Between them is a ``Line``, the
memory that stands in for a network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from koko.core.wire import Role
from tests.wire import masked, wire


class Line(Protocol):
    """One end of a stream in memory, seen from the peer's side."""

    written: bytearray  # what we wrote and the peer has not looked at
    writes: int  # how many calls that took
    ended: bool  # we ended our half
    dropped: bool  # we closed it, or broke it

    @property
    def unheard(self) -> int:
        """Bytes that the peer sent and we have not taken."""

    def deliver(self, octets: bytes) -> None:
        """Hand bytes to our side, as far as it reads."""

    def hang_up(self) -> None:
        """End the peer's half."""

    def break_(self) -> None:
        """Break the connection, as a reset does."""

    def stall(self) -> None:
        """Take nothing more from our side: the peer reads no more."""

    def take(self, count: int) -> None:
        """Take a few bytes more and stop again."""

    def flow(self) -> None:
        """Take what waits, and all that comes."""


class Frame(NamedTuple):
    """What stands on the wire, without masking and length: ``1 000 0001`` is a whole text."""

    bits: str
    payload: bytes


class Peer:
    """Somebody who says and hears what the script says.

    After everything that the peer does, we have done what we can do about it.
    """

    def __init__(self, role: Role, line: Line, settle: Callable[[], None]) -> None:
        self.line = line
        self._role = role
        self._settle = settle

    # Saying

    def says(self, bits: str, payload: bytes = b"") -> None:
        """Send one frame: FIN, RSV and opcode as bits, masked as the peer's role has to."""
        self.sends(self.frame(bits, payload))

    def frame(self, bits: str, payload: bytes = b"") -> bytes:
        return wire(f"{bits} {self._role.masks:d} len", payload)

    def sends(self, octets: bytes) -> None:
        """Send bytes in one piece, whatever they are."""
        self.line.deliver(octets)
        self._settle()

    def closes(self, code: int, reason: str = "") -> None:
        """Send a Close."""
        self.says("1 000 1000", code.to_bytes(2, "big") + reason.encode())

    def ends(self) -> None:
        """End the stream."""
        self.line.hang_up()
        self._settle()

    def breaks(self) -> None:
        """Reset the connection."""
        self.line.break_()
        self._settle()

    def stops_reading(self) -> None:
        self.line.stall()

    def reads_a_little(self, count: int) -> None:
        """Take so many bytes more from our side, after having stopped."""
        self.line.take(count)
        self._settle()

    def reads_on(self) -> None:
        self.line.flow()
        self._settle()

    # Hearing

    def hears(self, bits: str | None = None, payload: bytes | None = None) -> Frame:
        """Return the next frame we sent; it must be there, and be this one if one is given."""
        frame = self._next_frame()
        assert frame is not None, f"the peer hears nothing, only {bytes(self.line.written)!r}"
        expected = Frame(frame.bits if bits is None else bits, payload or b"")
        assert frame == (expected if payload is not None else (expected.bits, frame.payload))
        return frame

    def hears_close(self, code: int, reason: str | None = None) -> None:
        """Check that the next frame is a Close with this code, and reason if one is given."""
        frame = self.hears("1 000 1000")
        assert int.from_bytes(frame.payload[:2], "big") == code
        assert reason is None or frame.payload[2:].decode() == reason

    def hears_nothing(self) -> None:
        frame = self._next_frame()
        assert frame is None, f"the peer hears {frame}"

    @property
    def is_left(self) -> bool:
        """True when we have ended our half of the stream, or all of it."""
        return self.line.ended or self.line.dropped

    def _next_frame(self) -> Frame | None:
        octets = self.line.written
        if len(octets) < 2:
            return None
        masks = octets[1] >= 0x80
        assert masks is not self._role.masks, "§5.1: a client masks every frame, a server none"
        length, start = octets[1] & 0x7F, 2
        if length > 125:
            start = 4 if length == 126 else 10
            length = int.from_bytes(octets[2:start], "big")
        start += 4 * masks
        if len(octets) < start + length:
            return None
        payload = bytes(octets[start : start + length])
        bits = f"{octets[0]:08b}"
        if masks:
            payload = masked(payload, bytes(octets[start - 4 : start]))
        del octets[: start + length]
        return Frame(f"{bits[0]} {bits[1:4]} {bits[4:]}", payload)
