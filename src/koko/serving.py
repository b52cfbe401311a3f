"""What a server tells its operator of the clients that came: one line for each, on both faces.

Levels and sentences only; who logs them, and when, the faces decide. A line never holds
the query of a URL.
"""

from __future__ import annotations

import errno
import logging

from koko.errors import HandshakeError

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
