"""Sockets that listen, for threads: every address of a name, one port, all of them or none."""

from __future__ import annotations

import socket

from koko import listening

_BACKLOG = 1024


def listen(host: str | list[str] | None, port: int, reuse_port: bool) -> list[socket.socket]:
    """Bind every address that ``host`` stands for, all of them to one port.

    Raises:
        OSError: a name is unknown, a port is taken, or none of the addresses is here.
    """
    found = []
    for name in listening.names(host):
        found += socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return listening.bind(found, port, reuse_port)


def open_up(listeners: list[socket.socket]) -> None:
    """Have bound sockets take connections, and never wait for one."""
    for listener in listeners:
        listener.listen(_BACKLOG)
        listener.setblocking(False)


def close_all(listeners: list[socket.socket]) -> None:
    """Close them."""
    for listener in listeners:
        listener.close()
