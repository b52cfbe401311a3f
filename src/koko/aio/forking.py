"""Lets go of connections and servers in a child of fork: they belong to the parent.

If the child kept its copies of the descriptors, a peer would not see the end of a stream that
the parent has closed, and clients would queue at a port that no process serves. What the child
does with its event loop would take the parent's sockets out of the epoll that both share.
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
    """Something that a child lets go of."""

    def _disown(self) -> None: ...


_kept: WeakSet[Kept] = WeakSet()


def keep(kept: Kept) -> None:
    """Call ``kept._disown()`` in every child of fork, as long as ``kept`` exists."""
    _kept.add(kept)


def disown(descriptor: int) -> None:
    """Put a dead socket on a descriptor, so that whatever is done with it reaches no peer."""
    if descriptor >= 0:
        with suppress(OSError), socket.socket() as dead:
            os.dup2(dead.fileno(), descriptor, inheritable=False)


def disown_transport(transport: asyncio.Transport) -> None:
    """Put a dead socket under a transport."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        disown(sock.fileno())


def _disown_all() -> None:
    for kept in tuple(_kept):
        kept._disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_all)
