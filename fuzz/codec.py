# Invariant: whatever bytes arrive, in whatever pieces, a Decoder either yields messages or sets
# .failure with a sendable close code; it never raises, hangs or gives more than it was sent
# and allowed to inflate; after a failure or a Close it gives nothing; both codecs agree on
# every byte; and (without compression) how the bytes were cut makes no difference.
"""Fuzz the codec: random conversations, whole and corrupted, played to both twins.

python fuzz/codec.py [--seconds 10] [--seed N]

What fails is printed as a script that ``check`` takes; ``tests/core/test_twins.py`` has
hypothesis write such scripts, and makes them small.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from types import ModuleType
from typing import Any, NamedTuple

from koko.core import _codec
from koko.core.deflate import Agreed
from koko.core.wire import CLOSE_CODES, Control, Opcode, Piece, Role

try:
    from koko.core import _native
except ImportError:  # without a compiler there is one codec, and all but the agreement to check
    _native = None

CODECS: list[ModuleType] = [_codec] if _native is None else [_codec, _native]
INFLATED = 1 << 16  # bytes a compressed message of ours may have


@dataclass(frozen=True)
class Limit:
    """A step that sets ``read_limit``."""

    read_limit: int | None


@dataclass(frozen=True)
class Open:
    """A step that calls ``open_stream``."""


@dataclass(frozen=True)
class Script:
    """A decoder and what happens to it: bytes are fed."""

    role: Role
    steps: tuple[bytes | Limit | Open, ...]
    compression: bool = False
    read_limit: int | None = None
    hold: int = _codec.HOLD


# The invariant


class Seen(NamedTuple):
    """What can be seen of a decoder after a step."""

    opened: Opcode | None
    items: list[Any]
    types: list[type]
    failure: tuple[type, int, str] | None
    backlog: bool
    mid_message: bool


def check(script: Script) -> None:
    """Raise AssertionError unless the invariant holds for ``script``."""
    seen, *others = [play(codec, script) for codec in CODECS]
    for other in others:
        for ours, theirs in zip(seen, other, strict=True):
            assert ours == theirs, f"pure: {ours}, native: {theirs}"
    _check_end(seen)
    pieces = [step for step in script.steps if isinstance(step, bytes)]
    if not script.compression:
        given = sum(_size(item) for now in seen for item in now.items)
        assert given <= sum(map(len, pieces)), f"{given} bytes were given"
        if len(pieces) == len(script.steps):
            whole = replace(script, steps=(b"".join(pieces),))
            assert _outcome(play(CODECS[-1], whole)) == _outcome(seen)


def play(codec: ModuleType, script: Script) -> list[Seen]:
    """Return what is seen before the first step, after each, and while the backlog is drained."""
    decoder = codec.Decoder(
        script.role,
        read_limit=script.read_limit,
        inflater=Agreed().inflater(script.role) if script.compression else None,
        hold=script.hold,
    )
    seen = [_take(decoder, step) for step in (b"", *script.steps)]
    while decoder.backlog:
        seen.append(_take(decoder, b""))
    return seen


def _take(decoder: Any, step: bytes | Limit | Open) -> Seen:
    opened, items = None, []
    if isinstance(step, Limit):
        decoder.read_limit = step.read_limit
    elif isinstance(step, Open):
        opened = decoder.open_stream()
    else:
        items = decoder.feed(step)
    error = decoder.failure
    failure = None if error is None else (type(error), error.code, str(error))
    types = [type(item) for item in items]
    return Seen(opened, items, types, failure, decoder.backlog, decoder.mid_message)


def _check_end(seen: list[Seen]) -> None:
    over = False
    for before, now in pairwise(seen):
        assert not (over and now.items), f"{now.items} after the end"
        assert before.failure in (None, now.failure)
        if now.failure is not None:
            assert now.failure[1] in CLOSE_CODES
        controls = [item for item in now.items if isinstance(item, Control)]
        over = now.failure is not None or any(c.opcode is Opcode.CLOSE for c in controls) or over
        assert not (over and now.backlog)


def _size(item: Any) -> int:
    payload = item.payload if isinstance(item, Control | Piece) else item
    return len(payload.encode() if isinstance(payload, str) else payload)


def _outcome(seen: list[Seen]) -> tuple[Any, ...]:
    return [item for now in seen for item in now.items], seen[-1].failure, seen[-1].mid_message


# Random scripts


def random_script(rng: random.Random) -> Script:
    role = rng.choice(list(Role))
    compression = rng.random() < 0.4
    octets = b"".join(_random_frames(rng, role, compression))
    if rng.random() < 0.3:
        octets = _corrupted(rng, octets)
    return Script(
        role,
        tuple(_random_steps(rng, octets)),
        compression,
        rng.choice([None, None, 0, 10, 300, INFLATED]),
        rng.choice([1, 50, 1000, _codec.HOLD]),
    )


def _random_frames(rng: random.Random, role: Role, compression: bool) -> Iterator[bytes]:
    """Yield the frames of a few messages, most of them as they should be."""
    encoder, deflater = _codec.Encoder(role.peer), Agreed().deflater(role.peer)
    for _ in range(rng.randint(1, 6)):
        opcode, payload = rng.choice([Opcode.TEXT, Opcode.BINARY]), _random_payload(rng)
        rsv1 = compression and rng.random() < 0.6
        if rsv1:
            payload = deflater.compress(payload * rng.choice([1, 1, 50]))
        cuts = sorted(rng.randint(0, len(payload)) for _ in range(rng.choice([0, 0, 1, 3])))
        for at, end in pairwise([0, *cuts, len(payload)]):
            yield encoder.encode(opcode, payload[at:end], end == len(payload), rsv1)
            opcode, rsv1 = Opcode.CONTINUATION, False
            if rng.random() < 0.2:
                yield encoder.encode(*_random_control(rng))


def _random_payload(rng: random.Random) -> bytes:
    size = rng.choice([0, 1, 2, 7, 8, 30, 125, 126, 127, 400, 66_000 if rng.random() < 0.05 else 5])
    kind = rng.random()
    if kind < 0.3:
        return rng.randbytes(size)
    if kind < 0.5:
        return b"a" * size
    text = "".join(rng.choice("az\x00é߿ࠀ日￿𐍈\U0010ffff") for _ in range(size // 2)).encode()
    return text if kind < 0.9 else _corrupted(rng, text)


def _random_control(rng: random.Random) -> tuple[Opcode, bytes]:
    if rng.random() < 0.8:
        return rng.choice([Opcode.PING, Opcode.PONG]), rng.randbytes(rng.choice([0, 4, 125]))
    code = rng.choice([999, 1000, 1004, 1005, 1006, 1011, 1014, 1015, 2999, 3000, 4999, 5000])
    close = code.to_bytes(2, "big") + _random_payload(rng)[:99]
    return Opcode.CLOSE, rng.choice([b"", b"\x03", close, close])


def _corrupted(rng: random.Random, octets: bytes) -> bytes:
    changed = bytearray(octets)
    for _ in range(rng.randint(1, 3)):
        at = rng.randint(0, len(changed))
        change = rng.random()
        if change < 0.6 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif change < 0.8:
            changed[at:at] = rng.randbytes(rng.randint(1, 9))
        else:
            del changed[at : at + rng.randint(1, 9)]
    return bytes(changed)


def _random_steps(rng: random.Random, octets: bytes) -> list[bytes | Limit | Open]:
    steps: list[bytes | Limit | Open] = []
    longest = rng.choice([1, 3, 20, 500, 1 << 20]) if len(octets) < 5000 else 1 << 14
    quiet = rng.random() < 0.5
    at = 0
    while at < len(octets):
        size = rng.randint(0, longest)
        steps.append(octets[at : at + size])
        at += size
        if not quiet and rng.random() < 0.1:
            steps.append(rng.choice([Open(), Open(), Open(), Limit(rng.choice([None, 5, 1000]))]))
    return steps


def main() -> int:
    parser = argparse.ArgumentParser(description="fuzz the codec")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=None, help="begin here, to repeat a failure")
    options = parser.parse_args()
    seed = first = random.randrange(1 << 32) if options.seed is None else options.seed
    if _native is None:
        print("the native codec is not built: only the pure one is checked")
    end = time.monotonic() + options.seconds
    while time.monotonic() < end:
        script = random_script(random.Random(seed))
        try:
            check(script)
        except Exception:
            print(f"seed {seed} breaks the invariant: {script}", file=sys.stderr)
            raise
        seed += 1
    print(f"{seed - first} scripts from seed {first}: the invariant holds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
