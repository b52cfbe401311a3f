"""Which functions of Koko a message, a ping, a Close, a violation and a dial go through.

``python -m house.walks`` walks each on asyncio and on threads, with the pure codec, and prints
every call in order, with its file and indented under its caller. Only public names are used, so
another checkout's Python walks that checkout: ``OTHER/.venv/bin/python -m house.walks``.

The other end is a plain socket that knows nothing of Koko. Each walk is taken a few times and
the one with the fewest calls is shown: a timer or the housekeeper may fall into any of them. A
coroutine that is entered again counts again.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import socket
import ssl
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import trustme

os.environ["KOKO_CODEC"] = "pure"  # before Koko is imported: native functions cannot be seen

import koko.aio
import koko.sync

HERE = "127.0.0.1"
SOURCE = str(Path(koko.aio.__file__).parent.parent)
TIMES = 3
QUIET = 0.05  # seconds after the last byte, for what is still to be done
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

# Client to server, masked with zeros: the bytes are readable (§5.2).
MESSAGE = b"\x81\x85\0\0\0\0hello"
PING = b"\x89\x85\0\0\0\0hello"
CLOSE = b"\x88\x82\0\0\0\0\x03\xe8"
UNMASKED = b"\x81\x05hello"  # §5.1: a client must mask

WALKS = {
    "a message received and answered": (MESSAGE, b"\x81\x05hello"),
    "a ping answered": (PING, b"\x8a\x05hello"),
    "a peer's Close": (CLOSE, b"\x88\x02\x03\xe8"),
    "a violation (an unmasked frame)": (UNMASKED, b"\x88"),
}

Step = tuple[int, str, str]  # how deep, function, file
Walk = list[Step]


class Recorder:
    """Notes every call of a function of Koko's, on all threads that were started under it."""

    def __init__(self) -> None:
        self._walk: Walk | None = None

    @contextmanager
    def everywhere(self) -> Iterator[None]:
        """Watch this thread and those that begin meanwhile."""
        threading.setprofile(self._hook)
        sys.setprofile(self._hook)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    @contextmanager
    def walk(self) -> Iterator[Walk]:
        """Record what is called meanwhile."""
        walk: Walk = []
        self._walk = walk
        try:
            yield walk
        finally:
            self._walk = None

    def _hook(self, frame: FrameType, event: str, _: object) -> None:
        if event != "call" or self._walk is None or not is_ours(frame):
            return
        file = frame.f_code.co_filename.removeprefix(f"{SOURCE}/")
        self._walk.append((depth(frame), frame.f_code.co_qualname, file))


def is_ours(frame: FrameType) -> bool:
    """Say whether this is a function of Koko's; a comprehension is a part of one."""
    code = frame.f_code
    return code.co_filename.startswith(SOURCE) and (
        not code.co_name.startswith("<") or code.co_name == "<lambda>"
    )


def depth(frame: FrameType) -> int:
    """Count the functions of Koko's that called this one."""
    count = 0
    caller = frame.f_back
    while caller is not None:
        count += is_ours(caller)
        caller = caller.f_back
    return count


# Servers, of which one connection is watched


@contextmanager
def server_of_threads() -> Iterator[int]:
    """Run an echo server of ``koko.sync`` and give its port."""

    def echo(conn: koko.sync.Conn) -> None:
        for message in conn:
            conn.send(message)

    with koko.sync.Server(echo, HERE) as server:
        yield server.address[1]


@contextmanager
def server_of_asyncio() -> Iterator[int]:
    """Run an echo server of ``koko.aio`` in a loop of its own and give its port."""

    async def echo(conn: koko.aio.Conn) -> None:
        async for message in conn:
            await conn.send(message)

    ports: list[int] = []
    listening = threading.Event()
    stopping: list[Callable[[], object]] = []

    async def serve() -> None:
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        stopping.append(lambda: loop.call_soon_threadsafe(over.set))
        async with koko.aio.Server(echo, HERE) as server:
            ports.append(server.address[1])
            listening.set()
            await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    listening.wait()
    try:
        yield ports[0]
    finally:
        stopping[0]()
        thread.join()


def of_a_server(recorder: Recorder, port: int, sent: bytes, answer: bytes) -> Walk:
    """Open a connection, send this on it, and return what the server called for it."""
    with socket.create_connection((HERE, port), timeout=10) as peer:
        key = b64encode(bytes(16))
        peer.sendall(
            b"GET / HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"
        )
        read_head(peer)
        peer.sendall(MESSAGE)  # the handler is under way then, and waits for the next
        peer.recv(7, socket.MSG_WAITALL)
        time.sleep(QUIET)
        with recorder.walk() as walk:
            peer.sendall(sent)
            got = peer.recv(len(answer), socket.MSG_WAITALL)
            assert got == answer, got
            if answer.startswith(b"\x88"):
                while peer.recv(4096):
                    pass
            time.sleep(QUIET)
    return walk


# A dial, through a proxy to TLS


@contextmanager
def far_end(context: ssl.SSLContext) -> Iterator[int]:
    """Be a proxy and, behind it, a server with TLS, both on one socket; give the port."""
    listener = socket.create_server((HERE, 0))

    def answer() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                with suppress(OSError), client:
                    shake_hands(client, context)

    threading.Thread(target=answer, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


def shake_hands(client: socket.socket, context: ssl.SSLContext) -> None:
    """Answer CONNECT, TLS and the opening handshake, and wait for the client to go."""
    read_head(client)
    client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    with context.wrap_socket(client, server_side=True) as stream:
        head = read_head(stream)
        key = head.lower().split(b"sec-websocket-key: ")[1].split(b"\r\n")[0]
        key = head[head.lower().index(key) :][: len(key)]
        accept = b64encode(hashlib.sha1(key + GUID).digest())
        stream.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        while stream.recv(4096):
            pass


def read_head(stream: socket.socket) -> bytes:
    """Read one head, which is all that the other end sends before it is answered."""
    head = b""
    while b"\r\n\r\n" not in head:
        more = stream.recv(4096)
        if not more:
            raise ConnectionError(f"the end came in a head: {head!r}")
        head += more
    return head


def dial_on_threads(recorder: Recorder, port: int, context: ssl.SSLContext) -> Walk:
    """Dial, and return what was called until the connection was open."""
    with recorder.walk() as walk:
        conn = koko.sync.dial(f"wss://{HERE}/", proxy=f"http://{HERE}:{port}", ssl=context)
    conn.abort()
    return walk


def dial_on_asyncio(recorder: Recorder, port: int, context: ssl.SSLContext) -> Walk:
    """Dial, and return what was called until the connection was open."""

    async def dial() -> Walk:
        with recorder.walk() as walk:
            conn = await koko.aio.dial(f"wss://{HERE}/", proxy=f"http://{HERE}:{port}", ssl=context)
        conn.abort()
        return walk

    return asyncio.run(dial())


# All of them


def walks() -> Iterator[tuple[str, Walk]]:
    """Take every walk on both faces."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert(HERE).configure_cert(server)
    authority.configure_trust(client)
    recorder = Recorder()
    faces: dict[str, tuple[Any, Any]] = {
        "asyncio": (server_of_asyncio, dial_on_asyncio),
        "threads": (server_of_threads, dial_on_threads),
    }
    with far_end(server) as proxy, recorder.everywhere():
        for face, (serving, dial) in faces.items():
            with serving() as port:
                for name, (sent, answer) in WALKS.items():
                    taken = (of_a_server(recorder, port, sent, answer) for _ in range(TIMES))
                    yield f"{face}: {name}", min(taken, key=len)
            taken = (dial(recorder, proxy, client) for _ in range(TIMES))
            yield f"{face}: a dial through a proxy to TLS", min(taken, key=len)


def main() -> None:
    """Print a line for each walk, and then the steps of each."""
    logging.disable()
    taken = list(walks())
    print(f"{'calls':>7}{'files':>7}")
    for name, walk in taken:
        print(f"{len(walk):7}{len({file for _, _, file in walk}):7}  {name}")
    for name, walk in taken:
        print(f"\n{name}: {len(walk)} calls in {len({file for _, _, file in walk})} files")
        for deep, function, file in walk:
            print(f"  {'  ' * deep + function:68} {file}")


if __name__ == "__main__":
    main()
