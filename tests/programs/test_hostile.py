"""A hostile hour in small: what a server must survive, on both faces, seen from outside."""

from __future__ import annotations

import selectors
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import cache

import pytest

from koko.core.codec import Encoder
from koko.core.wire import Opcode, Role
from koko.opening.handshake import make_key
from koko.sync import dial
from tests.codecs import CODECS
from tests.programs.served import Served, served

MIB = 1 << 20

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "MSG_DONTWAIT"), reason="reads /proc to see the server's memory"
)


@pytest.fixture(params=["aio", "sync"])
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def handshake(server: Served, extensions: str = "") -> socket.socket:
    """Open a connection by hand, so that nobody reads or answers for us."""
    raw = socket.create_connection((server.host, server.port), timeout=20)
    raw.sendall(
        f"GET / HTTP/1.1\r\nHost: {server.host}:{server.port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {make_key()}\r\n"
        f"{extensions}\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += raw.recv(1)
    assert head.startswith(b"HTTP/1.1 101"), head
    return raw


def close_code(raw: socket.socket) -> int:
    """Read up to the server's Close and return its code."""
    received = b""
    while chunk := raw.recv(65536):
        received += chunk
    assert received[0] == 0x80 | Opcode.CLOSE, received[:40]
    return int.from_bytes(received[2:4], "big")


def test_a_client_that_never_reads_its_echoes_costs_bounded_memory(face: str) -> None:
    with served("--face", face) as server:
        with handshake(server) as raw:
            before = server.resident
            frame = Encoder(Role.CLIENT).encode(Opcode.BINARY, bytes(65536))
            # 64 MiB, as far as the server takes them: its buffers and the kernel's fill up first.
            sent = pour(raw, frame, 64 * MIB, server)
            assert server.resident - before < 8 * MIB, f"after {sent >> 20} MiB"
        assert echoes(server)


def pour(raw: socket.socket, frame: bytes, total: int, server: Served) -> int:
    """Send ``frame`` again and again until ``total`` bytes or until the server takes no more.

    It has had its chance when it has served other clients meanwhile.
    """
    raw.setblocking(False)
    sent = visits = 0
    while sent < total and visits < 50:
        try:
            sent += raw.send(frame[sent % len(frame) :])
            visits = 0
        except BlockingIOError:
            assert echoes(server)
            visits += 1
    return sent


def echoes(server: Served) -> bool:
    with dial(f"ws://{server.host}:{server.port}") as conn:
        conn.send("still there?")
        return conn.recv(timeout=10) == "still there?"


def test_half_open_handshakes_are_cut_off_while_a_good_client_is_served(face: str) -> None:
    with served("--face", face, "--handshake-timeout", "4") as server:
        began = time.monotonic()
        slow = [socket.create_connection((server.host, server.port)) for _ in range(200)]
        for raw in slow:
            raw.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        assert echoes(server)
        assert sum(1 for _ in ended(slow, began + 30)) == 200
        assert echoes(server)


def ended(connections: list[socket.socket], until: float) -> Iterator[socket.socket]:
    """Yield each connection as the server ends it."""
    with selectors.DefaultSelector() as selector:
        for raw in connections:
            selector.register(raw, selectors.EVENT_READ)
        while selector.get_map() and (left := until - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                raw = key.fileobj
                assert isinstance(raw, socket.socket)
                with suppress(ConnectionResetError):
                    assert raw.recv(4096)[:12] in (b"", b"HTTP/1.1 408")
                selector.unregister(raw)
                raw.close()
                yield raw


@pytest.mark.parametrize("codec", CODECS)
def test_a_deflate_bomb_is_closed_with_1009_and_costs_less_than_64_mib(
    face: str, codec: str
) -> None:
    bomb = deflated_zeros(1 << 30)
    assert len(bomb) < 1.1 * MIB
    if codec == "native":
        pytest.importorskip("koko.core._native", reason="the native codec was not built")
    # The limit lets every compressed byte pass; what stops the bomb is its inflated size.
    with served(
        "--face", face, "--compression", "--read-limit", str(2 * MIB), KOKO_CODEC=codec
    ) as server:
        before = server.resident
        with handshake(server, "Sec-WebSocket-Extensions: permessage-deflate\r\n") as raw:
            raw.sendall(Encoder(Role.CLIENT).encode(Opcode.BINARY, bomb, True, True))
            assert close_code(raw) == 1009
        assert server.resident - before < 64 * MIB
        assert echoes(server)


@cache
def deflated_zeros(size: int) -> bytes:
    """Return the payload of a compressed message of ``size`` zero bytes.

    A full flush forgets what was before it, so every MiB is the same few bytes.
    """
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = deflater.compress(bytes(MIB)) + deflater.flush(zlib.Z_FULL_FLUSH)
    return (piece * (size // MIB)).removesuffix(b"\x00\x00\xff\xff")


def test_a_hundred_thousand_empty_fragments_do_no_harm(face: str) -> None:
    encoder = Encoder(Role.CLIENT)
    with served("--face", face) as server, handshake(server) as raw:
        before = server.resident
        raw.sendall(encoder.encode(Opcode.TEXT, b"", fin=False))
        fragments = b"".join(
            encoder.encode(Opcode.CONTINUATION, b"", fin=False) for _ in range(100_000)
        )
        raw.sendall(fragments)
        raw.sendall(encoder.encode(Opcode.CONTINUATION, b"end"))
        assert raw.recv(100) == b"\x81\x03end"
        assert server.resident - before < 4 * MIB
