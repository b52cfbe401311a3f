"""What a message costs the codec: both twins beside the sans-I/O core of ``websockets``.

    python bench/codec.py [--secs 0.1]

Nanoseconds for one message that a server reads and echoes: masked frame in, message to the
user, frame out. The best of five runs of ``--secs`` each.
"""

from __future__ import annotations

import argparse
import timeit
from collections.abc import Callable
from types import ModuleType

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
PIECE = 1 << 14  # what a large message may come in


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


def cost(echo: Callable[[list[bytes]], None], pieces: list[bytes], secs: float) -> float:
    """Return nanoseconds a message."""
    timer = timeit.Timer(lambda: echo(pieces))
    count, took = timer.autorange()
    count = max(1, int(count * secs / took))
    return min(timer.repeat(5, count)) / count * 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description="what a message costs the codec")
    parser.add_argument("--secs", type=float, default=0.1)
    secs = parser.parse_args().secs
    codecs = {"native": _native, "pure": _codec}
    echoes = {name: echo_of_koko(codec) for name, codec in codecs.items() if codec is not None}
    if ServerProtocol is not None:
        echoes["websockets"] = echo_of_websockets()
    print(f"{'ns a message, feed + encode':<32}" + "".join(f"{name:>12}" for name in echoes))
    encoder = _codec.Encoder(Role.CLIENT)
    for title, message in MESSAGES.items():
        frame = encoder.encode(1 if isinstance(message, str) else 2, message)
        ways = {title: [frame]}
        if len(frame) > PIECE:
            pieces = [frame[at : at + PIECE] for at in range(0, len(frame), PIECE)]
            ways[f"{title}, in reads of 16"] = pieces
        for way, pieces in ways.items():
            costs = [cost(echo, pieces, secs) for echo in echoes.values()]
            print(f"{way:<32}" + "".join(f"{ns:12,.0f}" for ns in costs))


if __name__ == "__main__":
    main()
