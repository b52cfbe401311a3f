"""Listens on every address of a name, on one port for all.

Making, binding and listening never wait, so they are here; the faces resolve names.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from typing import Any

from koko.opening.address import distinct, written

_ABSENT = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})  # IPv6 on many machines
BACKLOG = 1024  # connections that wait to be accepted, if the system allows as many
_TRIES = 8  # to find a port that is free on the first address and on all others


def names(host: str | list[str] | None) -> list[str | None]:
    """Return the names to resolve; None stands for all interfaces."""
    return [name or None for name in (host if isinstance(host, list) else [host])]


def bind(found: Iterable[Any], port: int, reuse_port: bool = False) -> list[socket.socket]:
    """Bind a socket to each address that ``getaddrinfo`` found; one free port for all of them.

    Raises:
        OSError: the port is taken, or none of the addresses is here.
    """
    addresses = {str(info[4][0]): info[4] for info in found}
    wanted = [addresses[name] for name in distinct(addresses)]
    for _ in range(_TRIES - 1):
        try:
            return _bind_all(wanted, port, reuse_port)
        except OSError as error:
            if port or error.errno != errno.EADDRINUSE:
                raise
    return _bind_all(wanted, port, reuse_port)


def listen(sock: socket.socket, backlog: int = BACKLOG) -> None:
    """Let a bound socket accept connections.

    Raises:
        OSError: another socket that is bound to the same port listens already.
    """
    try:
        sock.listen(backlog)
    except OSError as error:
        raise _refused(sock.getsockname(), error) from None


def close_all(sockets: Iterable[socket.socket]) -> None:
    """Close them."""
    for sock in sockets:
        sock.close()


def address_of(names: list[Any]) -> tuple[str, int]:
    """Return host and port of the first socket; for a Unix socket, its path and 0.

    An abstract name of Linux begins with a zero byte, as in Python.

    Raises:
        RuntimeError: there is no socket.
    """
    if not names:
        raise RuntimeError("the server has no address until it is started")
    match names[0]:
        case (str(host), int(port), *_):
            return host, port
        case bytes(name):
            return os.fsdecode(name), 0
    return str(names[0]), 0


def _bind_all(addresses: list[Any], port: int, reuse_port: bool) -> list[socket.socket]:
    bound: list[socket.socket] = []
    failure: OSError | None = None
    try:
        for host, _, *rest in addresses:
            try:
                bound.append(_bind((host, port, *rest), reuse_port))
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                failure = error
            else:
                port = port or bound[0].getsockname()[1]
        if failure and not bound:
            raise failure
    except BaseException:
        close_all(bound)
        raise
    return bound


def _bind(address: Any, reuse_port: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # Not on Windows, where it would let another process steal the port.
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:  # IPv4 has a socket of its own
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise _refused(address, error) from None
    except BaseException:
        sock.close()
        raise
    return sock


def _refused(address: object, error: OSError) -> OSError:
    said = f"could not listen on {written(address)}: {str(error.strerror).lower()}"
    return OSError(error.errno, said)
