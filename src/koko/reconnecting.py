"""When to dial again, and after how long: the policy of ``reconnect``.

It counts failures, computes waits and logs each one. Random numbers and times are arguments:
nothing here waits, dials or reads a clock.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import TypeVar

from koko.core.names import check_names
from koko.dialing import Dialer, DialerOptions
from koko.errors import CloseError, ErrBadHandshake, HandshakeError, ProtocolError
from koko.http import Response
from koko.logs import tell
from koko.misuse import BOTH, check_face, check_function, check_returned, refuse_async

D = TypeVar("D", bound=Dialer)
Retry = Callable[[Exception], bool]

logger = logging.getLogger("koko.client")

LONGEST = 3600.0  # seconds that a Retry-After may ask for: a typing error costs an hour at most

# 408 Request Timeout, 425 Too Early, 429 Too Many Requests (RFC 9110, 8470, 6585)
_NOT_NOW = frozenset({408, 425, 429})
_NEVER = frozenset({501, 505, 511})  # the 5xx that do not change by waiting
# §7.4.1 and the registry's 3000, Unauthorized, and 3003, Forbidden: the same client would be
# closed again. Not 1000: most servers send it whenever a handler returns.
_FINAL = frozenset({1002, 1003, 1007, 1008, 1009, 1010, 3000, 3003})


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """How long to wait before dialing again: exponential, with full jitter.

    The wait after the first failure is random between 0 and ``base`` seconds. Each further
    failure doubles the upper bound, up to ``cap``. So clients that lost a server together do
    not come back together. The seconds that a server asks for by ``Retry-After`` are added,
    up to an hour.

    Attributes:
        base: the longest wait after the first failure, in seconds.
        cap: the longest wait after any failure, in seconds.
        healthy: how many seconds a connection must last to reset the count of failures.
        random: a function that returns a number from 0 to 1.
    """

    base: float = 1.0
    cap: float = 60.0
    healthy: float = 10.0
    random: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        for name in ("base", "cap", "healthy"):
            value = getattr(self, name)
            if not (isfinite(value) and value >= 0):
                raise ValueError(f"{name}={value!r}, expected 0 seconds or more")

    def delay(self, failures: int, retry_after: float = 0.0) -> float:
        """Return the seconds to wait after so many failures in a row, at least one."""
        longest = min(self.cap, self.base * 2.0 ** min(failures - 1, 63))
        return min(retry_after, LONGEST) + self.random() * longest


_RECONNECT_OPTIONS = (*DialerOptions.__annotations__, "backoff", "dialer", "retry")


def chosen_dialer(kind: type[D], dialer: D | None, options: DialerOptions) -> D:
    """Return the dialer of ``reconnect``: the one it was given, or one with these options."""
    check_names("reconnect()", _RECONNECT_OPTIONS, options)
    check_face("reconnect()", "dialer", dialer, kind)
    if dialer is None:
        return kind(**options)
    if options:
        raise TypeError(f"give dialer= or its options, not both: {', '.join(options)}")
    return dialer


class Attempts:
    """Counts the failures in a row and says what follows; each end is one line at INFO."""

    def __init__(self, name: str, backoff: Backoff | None, retry: Retry) -> None:
        if backoff is not None and not hasattr(backoff, "delay"):
            raise TypeError(f"reconnect() got backoff={backoff!r}, expected a Backoff")
        check_function("reconnect()", "retry=", retry)
        refuse_async("reconnect()", "retry=", retry, BOTH)
        self._name = name
        self._backoff = backoff or Backoff()
        self._retry = retry
        self._failures = 0

    def failed(self, error: BaseException) -> float:
        """Return how long to wait after a failure; raise the error if retrying is pointless."""
        if not (isinstance(error, Exception) and self._may_retry(error)):
            tell(logger, logging.INFO, "%s: %s; another try would not help", self._name, error)
            raise error
        asked = retry_after(error.response) if isinstance(error, ErrBadHandshake) else 0.0
        return self._next_delay(error, asked)

    def ended(self, ending: BaseException | None, lasted: float) -> float:
        """Return how long to wait after a connection; raise its end if retrying is pointless.

        ``ending`` is None if the application asks for another connection while this one is
        open. A server that closes every connection at once, even with 1000, is failing: the
        wait grows until a connection has lasted.
        """
        if lasted >= self._backoff.healthy:
            self._failures = 0
        if ending is None:
            return self._next_delay("the application asked for another")
        return self.failed(ending)

    def left(self, ending: BaseException | None) -> None:
        """Log that the application left the loop; ``ending`` is how its connection ended."""
        tell(logger, logging.INFO, "%s: %s; the application left the loop", self._name, ending)

    def _may_retry(self, error: Exception) -> bool:
        answer = self._retry(error)
        check_returned("retry=", self._retry, answer, BOTH)  # a coroutine would be true, for ever
        return answer

    def _next_delay(self, why: object, asked: float = 0.0) -> float:
        self._failures += 1
        delay = self._backoff.delay(self._failures, asked)
        tell(logger, logging.INFO, "%s: %s; next try in %.1f s", self._name, why, delay)
        return delay


def is_transient(error: Exception) -> bool:
    """Tell whether another try may succeed after ``error``: the default of ``reconnect``.

    It may when there was no connection (refused, unreachable, unknown name, timeout), when
    the answer was cut off, when it was 408, 425, 429 or a 5xx that may pass, when a connection
    was lost, after our own Close, and after any Close of the peer but these: 1002, 1003, 1007
    to 1010, 3000 and 3003 (the same client would be closed again). It may not after a bad URL,
    a certificate that cannot be trusted, any other answer such as 401 or 404, and a peer that
    broke the protocol.
    """
    if isinstance(error, ErrBadHandshake):
        status = error.status
        return status in _NOT_NOW or (500 <= status <= 599 and status not in _NEVER)
    if isinstance(error, CloseError):
        ours = error.sent is not None and not error.by_peer
        return not isinstance(error, ProtocolError) and (ours or error.code not in _FINAL)
    # A certificate that fails its check is an OSError, and a ValueError like a bad URL.
    return isinstance(error, OSError | HandshakeError) and not isinstance(error, ValueError)


def retry_after(response: Response) -> float:
    """Return the seconds that a response asks for by ``Retry-After``, 0 for none.

    RFC 9110 §10.2.3: it is a number or a date. The date counts from the response's own
    ``Date``, because our clock may be wrong.
    """
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:12])
    until, since = _time(value), _time(response.headers.get("Date", ""))
    return 0.0 if until is None or since is None else max(0.0, until - since)


def _time(date: str) -> float | None:
    from email.utils import mktime_tz, parsedate_tz  # takes 20 ms: only where a date was sent

    parts = parsedate_tz(date)
    try:
        return mktime_tz(parts) if parts else None
    except (ValueError, OverflowError):  # the 99th of October
        return None
