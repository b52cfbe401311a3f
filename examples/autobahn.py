"""A server for the Autobahn test suite, on threads: each way to echo at its own path.

python examples/autobahn.py             PORT=9001 in the environment; Ctrl-C stops
wstest -m fuzzingclient -s spec.json    with "url": "ws://127.0.0.1:9001/m" and the others
"""

import os
import shutil

from koko import PreparedMessage
from koko.sync import Conn, Server, serve


def whole(conn: Conn) -> None:
    """Read a message, write a message."""
    while True:
        kind, data = conn.read_message()
        conn.write_message(kind, data)


def prepared(conn: Conn) -> None:
    """Write it in the form that is encoded once for any number of connections."""
    while True:
        conn.write_prepared(PreparedMessage(*conn.read_message()))


def streamed(conn: Conn) -> None:
    """Read a whole message, write it through a stream."""
    while True:
        kind, reader = conn.next_reader()
        with conn.next_writer(kind) as writer:
            writer.write(reader.read())


def copied(conn: Conn) -> None:
    """Copy from stream to stream: no message is ever whole in memory."""
    while True:
        kind, reader = conn.next_reader()
        with conn.next_writer(kind) as writer:
            shutil.copyfileobj(reader, writer)


def passed_on(conn: Conn) -> None:
    """Copy through one buffer, filled again and again."""
    buffer = memoryview(bytearray(4096))
    while True:
        kind, reader = conn.next_reader()
        with conn.next_writer(kind) as writer:
            while size := reader.readinto(buffer):
                writer.write(buffer[:size])


STYLES = {"/m": whole, "/p": prepared, "/r": streamed, "/f": copied, "/c": passed_on}


def echo(conn: Conn) -> None:
    style = STYLES.get(conn.request.path)
    if style is None:
        conn.close(1008, f"here are {', '.join(STYLES)}")
    else:
        style(conn)  # until a CloseError, which is how a connection ends


def announce(server: Server) -> None:
    print("ws://{}:{}".format(*server.address), flush=True)


port = int(os.environ.get("PORT", "9001"))
serve(
    echo,
    "127.0.0.1",
    port,
    compression=True,
    read_limit=32 << 20,  # the suite sends 16 MiB
    origins="*",
    on_start=announce,
)
