"""From a name and a port to a stream: resolution, TCP, TLS, each before a deadline."""

from __future__ import annotations

import queue
import socket
import ssl
import threading
from functools import partial
from typing import Any

from koko.sync.tls import TLSStream
from koko.sync.transport import PlainStream, Stream, time_left


def connect(host: str, port: int, deadline: float | None) -> PlainStream:
    """Connect to the first address of ``host`` that answers.

    Raises:
        TimeoutError: none did in time.
        OSError: the name is unknown, or no address wants us.
    """
    addresses = _resolve(host, port, deadline)
    errors: list[OSError] = []
    for tried, address in enumerate(addresses):
        left = time_left(deadline)
        try:
            # The last one gets all the time that is left, the others a fair part of it.
            return _try(address, left and left / (len(addresses) - tried))
        except OSError as error:
            errors.append(error)
    reasons = "; ".join(
        f"{address[4][0]}: {error.strerror or error}"
        for address, error in zip(addresses, errors, strict=True)
    )
    sentence = f"no connection to {host} port {port}: {reasons}"
    number = errors[0].errno
    raise TimeoutError(sentence) if number is None else OSError(number, sentence)


def _try(address: Any, timeout: float | None) -> PlainStream:
    family, kind, protocol, _, where = address
    if timeout == 0:
        raise TimeoutError("no time was left to try it")
    sock = socket.socket(family, kind, protocol)
    try:
        sock.settimeout(timeout)
        sock.connect(where)
    except BaseException:
        sock.close()
        raise
    return PlainStream(sock)


def _resolve(host: str, port: int, deadline: float | None) -> list[Any]:
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    try:
        return look_up(flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass  # a name
    if deadline is None:
        return look_up()
    # The system's resolver cannot be interrupted, only left behind.
    answer: queue.SimpleQueue[list[Any] | Exception] = queue.SimpleQueue()
    threading.Thread(target=_ask, args=(look_up, answer), name="koko-resolver", daemon=True).start()
    try:
        found = answer.get(timeout=time_left(deadline))
    except queue.Empty:
        raise TimeoutError(f"the name {host!r} was not resolved in time") from None
    if isinstance(found, socket.gaierror):
        raise socket.gaierror(found.errno, f"{found.strerror}: {host!r}") from None
    if isinstance(found, Exception):
        raise found
    return found


def _ask(look_up: Any, answer: queue.SimpleQueue[list[Any] | Exception]) -> None:
    try:
        answer.put(look_up())
    except Exception as error:
        answer.put(error)


def secure(stream: Stream, context: ssl.SSLContext, name: str, deadline: float | None) -> TLSStream:
    """Start TLS with a server that must prove to be ``name``; close the stream if it cannot."""
    try:
        session = TLSStream(stream, context, server_hostname=name)
        session.handshake(deadline)
    except BaseException:
        stream.close()
        raise
    return session
