"""What a signal handler raises while a message is being inflated: nothing is lost by it."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Any

import pytest

from koko.core.flate import Inflater
from koko.core.wire import Control, Opcode, Role
from tests.wire import compressed, wire

TEXT = "interrupted " * 3000
HI = wire("1 000 0001  1 0000010", b"hi")
PING = wire("1 000 1001  1 0000001", b"?")
WHOLE = wire("1 100 0001  1 len", compressed(TEXT.encode()))


class Interrupt(BaseException):
    pass


class Failing:
    """An inflater that is interrupted at the entry of its so-manieth call, once."""

    def __init__(self, number: int) -> None:
        self._inflater = Inflater()
        self._left = number

    def __getattr__(self, name: str) -> Any:
        if name in ("put", "get"):
            self._left -= 1
            if self._left == -1:
                raise Interrupt
        return getattr(self._inflater, name)


def fragments(octets: bytes, count: int) -> bytes:
    """Cut a compressed message into so many frames, with a ping between them."""
    size = len(octets) // count
    cut = [octets[at : at + size] for at in range(0, size * (count - 1), size)]
    cut.append(octets[size * (count - 1) :])
    heads = ["0 100 0001", *["0 000 0000"] * (count - 2), "1 000 0000"]
    return PING.join(wire(f"{head}  1 len", part) for head, part in zip(heads, cut, strict=True))


@pytest.mark.parametrize("number", range(12))
def test_feed_goes_on_behind_an_interrupt_in_the_inflater(codec: Any, number: int) -> None:
    decoder = codec.Decoder(Role.SERVER, inflater=Failing(number))
    octets = HI + fragments(compressed(TEXT.encode()), 3) + WHOLE + HI
    items = []
    try:
        items += decoder.feed(octets)
    except Interrupt:
        assert decoder.interrupted
        items += decoder.feed(b"")
    assert not decoder.interrupted
    assert decoder.failure is None
    ping = Control(Opcode.PING, b"?")
    assert items == ["hi", ping, ping, TEXT, TEXT, "hi"]


@pytest.mark.parametrize("takeover", [False, True])
@pytest.mark.parametrize("most", [7, 1 << 16])
def test_inflater_goes_on_behind_an_interrupt_at_any_moment(takeover: bool, most: int) -> None:
    message = TEXT.encode()[: 200 if most == 7 else None]
    octets = compressed(message)
    for number in itertools.count():
        inflater = Inflater(takeover=takeover)
        moments = Moments(number)
        moments.once(lambda inflater=inflater: inflater.put(octets[:9]))
        if moments.hit and inflater._payload == b"":  # it was not even taken
            inflater.put(octets[:9])
        given = bytearray()
        for piece, final in ((b"", False), (octets[9:], True)):
            if piece:
                inflater.put(piece, final)
            inflater.pending = True
            while inflater.pending:
                given += moments.retried(lambda inflater=inflater: inflater.get(most))
        assert given == message, f"interrupted at moment {number}"
        assert inflater.inflate(octets, 1 << 20, True) == message, "so does the next message"
        if not moments.hit:
            break
    assert number > 10


class Moments:
    """Interrupts Python at one of the moments at which it looks for signals."""

    def __init__(self, number: int) -> None:
        self.hit = False
        self._left = number

    def once(self, work: Callable[[], Any]) -> Any:
        """Call ``work`` and let it be interrupted."""
        try:
            sys.setprofile(self._look)
            return work()
        except Interrupt:
            return None
        finally:
            sys.setprofile(None)

    def retried(self, work: Callable[[], Any]) -> Any:
        """Call ``work`` again where it was interrupted."""
        result = self.once(work)
        return self.once(work) if result is None else result

    def _look(self, frame: Any, event: str, argument: Any) -> None:
        if event in ("call", "c_return") and "flate" in frame.f_code.co_filename:
            self._left -= 1
            if self._left == -1:
                self.hit = True
                raise Interrupt
