"""What a server tells its operator: of itself, and one line for each client, on both faces.

Levels and sentences only; who logs them, and when, the faces decide. A line never holds
the query of a URL. ``docs/operating.md`` says what to do about each.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence
from typing import Any

from koko.core.connection import Connection
from koko.errors import HandshakeError
from koko.misuse import WrongKindError
from koko.opening.address import written

# Of the server; the first and the last at INFO.
LISTENING = "listening on %s"
CLOSING = "closing: waiting up to %g s for %d connections: %s"
HURRIED = "closing now: stopped a second time"  # WARNING
LATE = "closing: %d handlers did not end in time: %s"  # WARNING
CLOSED = "closed within %.1f s; no longer listening on %s"

# Of one client: its address, what it asked for, and a sentence. INFO where nothing is said.
CLIENT = "%s %s: %s"
UNKNOWN = "-"  # in the place of what it asked for
NO_ANSWER = "could not answer %s"  # ERROR, with what the application raised
HANDLER_FAILED = "handler of %s at %s failed"  # ERROR, with what it raised

_NAMED = 5  # addresses that a line has room for

HUNG_UP = "the client hung up before its request was whole"
HUNG_UP_ANSWERING = "the client hung up before it was answered"
GOING_AWAY = "the server is going away"

RETRY = 1.0  # seconds until the next try to accept, after one that failed for want of something

# What accept() says of a connection that is gone before it was taken (accept(2)).
GONE = frozenset(
    getattr(errno, name)
    for name in (
        "ECONNABORTED",
        "EINTR",
        "EPERM",
        "EPROTO",
        "ENETDOWN",
        "ENOPROTOOPT",
        "EHOSTDOWN",
        "ENONET",
        "EHOSTUNREACH",
        "EOPNOTSUPP",
        "ENETUNREACH",
    )
    if hasattr(errno, name)
)


def cannot_accept(error: Exception) -> str:
    """Return the sentence for a server that has run out of something; others are served on."""
    reason = str(getattr(error, "strerror", None) or error)
    return f"cannot accept: {reason[:1].lower()}{reason[1:]}; next try in {RETRY:g} s"


def answered(status: int) -> str:
    """Return the sentence for a request that was answered without a WebSocket."""
    return f"answered {status}"


def no_tls(error: BaseException) -> str:
    """Return the sentence for a client with which TLS did not come about."""
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    # The end of the stream in the middle, as OpenSSL names it and as the systems and loops do.
    ends = (ConnectionResetError, BrokenPipeError)
    if reason == "UNEXPECTED_EOF_WHILE_READING" or isinstance(error, ends):
        reason = "the client hung up"
    return f"TLS failed: {reason or type(error).__name__}"


def too_slow(timeout: float | None) -> str:
    """Return the sentence for a request that never came whole."""
    return f"the request was not whole within {timeout:g} s"


def level_of(error: BaseException) -> int:
    """Return how much a refusal matters: a WARNING where the operator can do something."""
    advice = isinstance(error, HandshakeError) and error.advice
    return logging.WARNING if advice else logging.INFO


def sentence_of(error: BaseException) -> str:
    """Return the sentence of a refusal, with what the operator can do."""
    if isinstance(error, HandshakeError) and error.advice:
        return f"{error}; {error.advice}"
    return str(error)


def ended(core: Connection, now: float, others: int | None) -> str:
    """Return the sentence for the end of a connection: how, and what it had been.

    ``others`` is how many are open still, None where nobody counts them.
    """
    lasted = now - core.opened_at
    said = f"{core.ending}; after {lasted:.1f} s, {core.bytes_in} bytes in, {core.bytes_out} out"
    return said if others is None else f"{said}; {others} open"


def handler_failed(
    conn: Any, error: BaseException
) -> tuple[str, tuple[object, ...], BaseException | None]:
    """Return what to log of a handler: a sentence, its values, and what to show a traceback of."""
    if isinstance(error, WrongKindError):  # its sentence says it all
        return "%s", (error,), None
    return HANDLER_FAILED, (conn, conn.request.shown), error


def addresses(of: Sequence[object]) -> str:
    """Return addresses in one line, as far as it has room for them."""
    return ", ".join([*map(written, of[:_NAMED]), *["..."] * (len(of) > _NAMED)])
