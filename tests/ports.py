"""A port for a program that has to be told one, which nobody else is given before it listens."""

from __future__ import annotations

import socket

HOST = "127.0.0.1"
_kept: list[socket.socket] = []  # for as long as this process runs


def free_port() -> int:
    """Return a port on which nobody listens; whoever names it, and nobody else, may have it.

    It stays bound. The system gives it to nobody who asks for just any port, and Linux lets a
    second socket listen there if both have ``SO_REUSEADDR``, as those of servers do.
    """
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind((HOST, 0))
    _kept.append(kept)
    return int(kept.getsockname()[1])
