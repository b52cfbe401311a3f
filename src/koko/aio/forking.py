"""Connections and servers in a child of fork: they are the parent's, and let go of at once.

Copies of the descriptors would keep a peer waiting for an end that the parent has sent, and
clients in the queue of a port that nobody serves; what a child does with its event loop would
take the parent's sockets out of the epoll that both share.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import Protocol
from weakref import WeakSet

INHERITED = "since a fork it belongs to the parent process"


class Kept(Protocol):
    """What a child lets go of."""

    def _disown(self) -> None: ...


_kept: WeakSet[Kept] = WeakSet()


def keep(kept: Kept) -> None:
    """Have ``kept`` told when it finds itself in a child."""
    _kept.add(kept)


def disown(descriptor: int) -> None:
    """Put a dead socket in the place of a descriptor: whatever is done with it reaches nobody."""
    if descriptor >= 0:
        with suppress(OSError), socket.socket() as dead:
            os.dup2(dead.fileno(), descriptor, inheritable=False)


def disown_transport(transport: asyncio.Transport) -> None:
    """Do so with the socket under a transport."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        disown(sock.fileno())


def _disown_all() -> None:
    for kept in tuple(_kept):
        kept._disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_all)
