"""An echo server on threads: python examples/echo_server.py [PORT]."""

import sys

from koko.sync import Conn, serve


def echo(conn: Conn) -> None:
    for message in conn:
        conn.send(message)


port = int(sys.argv[1]) if len(sys.argv) > 1 else 8765
print(f"ws://localhost:{port}, Ctrl-C stops", flush=True)
serve(echo, "localhost", port)
