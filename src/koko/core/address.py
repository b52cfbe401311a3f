"""How an address is written for people: ``host:port``, as in a URL.

A function over what ``socket.getpeername`` and its like give; nothing is resolved here.
"""

from __future__ import annotations


def written(address: object) -> str:
    """Return an address as it stands in a URL; a Unix socket is its path."""
    match address:
        case (str(host), int(port), *_):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        case str(path) if path:
            return path
        case bytes(name) if name:  # of Linux's own kind, which is in no file system
            return "@" + name.lstrip(b"\0").decode(errors="replace")
        case "" | b"":  # the client's end of a Unix socket has no name
            return "a Unix socket"
    return "an unknown address"
