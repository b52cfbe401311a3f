"""What a message costs the codec: both twins beside the sans-I/O core of ``websockets``.

    python bench/codec.py [--fast] [-o after.json]      and every other option of pyperf
    python -m pyperf compare_to before.json after.json

The time of one message that a server reads and echoes: masked frame in, message to the user,
frame out.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pyperf

from koko.core import _codec
from koko.core.wire import Opcode, Role

try:
    from koko.core import _native
except ImportError:
    _native = None

try:
    from websockets.protocol import State
    from websockets.server import ServerProtocol
except ImportError:
    ServerProtocol = None

MESSAGES = {
    "text, 16 B": "a" * 16,
    "text, 256 B": "a" * 256,
    "text, 256 B, not ASCII": "é" * 128,
    "binary, 256 B": bytes(256),
    "binary, 4 KiB": bytes(4096),
    "binary, 64 KiB": bytes(1 << 16),
    "text, 64 KiB": "a" * (1 << 16),
}
PIECE = 1 << 14  # bytes of a read, where a large message comes in several


def echo_of_koko(codec: ModuleType) -> Callable[[list[bytes]], None]:
    decoder, encode = codec.Decoder(Role.SERVER), codec.Encoder(Role.SERVER).encode
    feed = decoder.feed

    def echo(pieces: list[bytes]) -> None:
        for piece in pieces:
            for message in feed(piece):
                encode(1 if type(message) is str else 2, message)

    return echo


def echo_of_websockets() -> Callable[[list[bytes]], None]:
    protocol = ServerProtocol(state=State.OPEN)

    def echo(pieces: list[bytes]) -> None:
        for piece in pieces:
            protocol.receive_data(piece)
            for frame in protocol.events_received():
                if frame.opcode == Opcode.TEXT:
                    protocol.send_text(str(frame.data, "utf-8").encode())
                else:
                    protocol.send_binary(frame.data)
                protocol.data_to_send()

    return echo


def timed(count: int, echo: Callable[[list[bytes]], None], pieces: list[bytes]) -> float:
    """Return the seconds that ``count`` messages take."""
    started = pyperf.perf_counter()
    for _ in range(count):
        echo(pieces)
    return pyperf.perf_counter() - started


def echoes() -> dict[str, Callable[[list[bytes]], None]]:
    """Return the functions that echo, by name."""
    codecs = {"native": _native, "pure": _codec}
    found = {name: echo_of_koko(codec) for name, codec in codecs.items() if codec is not None}
    if ServerProtocol is not None:
        found["websockets"] = echo_of_websockets()
    return found


def ways() -> dict[str, list[bytes]]:
    """Return what arrives, by name: a message at once, and a large one in several reads."""
    encoder, found = _codec.Encoder(Role.CLIENT), {}
    for title, message in MESSAGES.items():
        frame = encoder.encode(1 if isinstance(message, str) else 2, message)
        found[title] = [frame]
        if len(frame) > PIECE:
            pieces = [frame[at : at + PIECE] for at in range(0, len(frame), PIECE)]
            found[f"{title}, in reads of 16"] = pieces
    return found


def main() -> None:
    runner = pyperf.Runner(values=3, processes=3)
    for way, pieces in ways().items():
        for name, echo in echoes().items():
            runner.bench_time_func(f"{way}: {name}", timed, echo, pieces)


if __name__ == "__main__":
    main()
