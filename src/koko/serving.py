"""What a server tells its operator of the clients that came: one line for each, on both faces.

Levels and sentences only; who logs them, and when, the faces decide. A line never holds
the query of a URL.
"""

from __future__ import annotations

import logging

from koko.errors import HandshakeError

HUNG_UP = "the client hung up before its request was whole"
HUNG_UP_ANSWERING = "the client hung up before it was answered"


def answered(status: int) -> str:
    """Return the sentence for a request that was answered without a WebSocket."""
    return f"answered {status}"


def no_tls(error: BaseException) -> str:
    """Return the sentence for a client with which TLS did not come about."""
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
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
