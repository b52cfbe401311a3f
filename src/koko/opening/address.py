"""Writes addresses for people, as in a URL, and tells which addresses mean the same.

Functions of what ``socket.getpeername`` and the like return; nothing is resolved here.
"""

from __future__ import annotations

from collections.abc import Iterable

_WILDCARDS = ("0.0.0.0", "::")  # all interfaces, of either family


def written(address: object) -> str:
    """Return an address as it stands in a URL; a Unix socket is its path."""
    match address:
        case (str(host), int(port), *_):
            shown = f"[{host}]" if ":" in host else host
            return f"{shown}:{port}" if port else shown  # what a proxy tells may have none
        case str(path) if path:
            return path
        case bytes(name) if name:  # an abstract name of Linux, which is no file
            return "@" + name.lstrip(b"\0").decode(errors="replace")
        case "" | b"":  # the client's end of a Unix socket has no name
            return "a Unix socket"
    return "an unknown address"


def distinct(addresses: Iterable[str]) -> list[str]:
    """Return the addresses to listen on: each once, without those that a wildcard includes."""
    found = list(dict.fromkeys(addresses))
    covered = [":" in wildcard for wildcard in _WILDCARDS if wildcard in found]
    return [each for each in found if each in _WILDCARDS or (":" in each) not in covered]
