"""Every exception Koko raises, and whose fault each one is.

Three kinds of end: a handshake that never became a connection, a connection
that is over, and a violation that ended it. Misuse by the programmer is a plain
``RuntimeError``, ``TypeError`` or ``ValueError``; a wait that ran out is a plain
``TimeoutError`` and leaves the connection unharmed.
"""

from __future__ import annotations

from typing import Any, NamedTuple, overload

from koko.http import Response


class Close(NamedTuple):
    """What a Close frame says: a code and a reason (§5.5.1)."""

    code: int
    reason: str


class WebSocketError(Exception):
    """The root of everything that can go wrong between two peers."""


class HandshakeError(WebSocketError):
    """The opening handshake failed; there is no connection.

    Raised by ``Upgrader.upgrade`` when a client is refused: ``status`` is the HTTP status to
    answer with, ``reason`` the sentence that says why, and ``response`` the whole answer,
    which has not been sent yet. ``advice`` tells the operator, not the client, what to do if
    the refusal was not intended; it may be empty.

    A function that refuses a request raises it as ``HandshakeError(401, "no token")``.
    """

    response: Response | None = None
    advice: str = ""

    @overload
    def __init__(self, status: int, reason: str) -> None: ...
    @overload
    def __init__(self, reason: str, /, *, status: int) -> None: ...
    def __init__(self, *said: Any, **named: Any) -> None:
        if len(said) == 1 and isinstance(said[0], str) and "reason" not in named:
            named["reason"], said = said[0], ()  # ("no token", status=401), as other libraries
        try:
            status, reason = _status_and_reason(*said, **named)
        except TypeError:
            shown = ", ".join([*map(repr, said), *(f"{name}={named[name]!r}" for name in named)])
            raise TypeError(
                f"HandshakeError({shown}): an HTTP status and a sentence, "
                "as in HandshakeError(401, 'no token')"
            ) from None
        super().__init__(status, reason)
        self.status = status
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.status}: {self.reason}" if self.status else self.reason


def _status_and_reason(status: int, reason: str) -> tuple[int, str]:
    if not isinstance(status, int) or isinstance(status, bool) or not isinstance(reason, str):
        raise TypeError
    return status, reason


class ErrBadHandshake(HandshakeError):
    """The server's answer to our opening handshake was not an acceptance.

    ``response`` is that answer: status, headers and the beginning of its body.
    """

    response: Response

    def __init__(self, reason: str, response: Response) -> None:
        super().__init__(response.status, reason)
        self.args = (reason, response)  # an exception is copied and pickled by its args
        self.response = response


class CloseError(WebSocketError):
    """The connection is over.

    ``code`` and ``reason`` say how it ended: the peer's Close when there was
    one, else 1006 and what happened. ``sent`` and ``received`` are the Close
    frames that were really exchanged, None where there was none; ``by_peer`` is
    True when the peer's came first. Code 1005 stands for a Close without a code.
    """

    def __init__(
        self,
        code: int,
        reason: str = "",
        *,
        sent: Close | None = None,
        received: Close | None = None,
        by_peer: bool = False,
    ) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
        self.sent = sent
        self.received = received
        self.by_peer = by_peer

    @property
    def ordinary(self) -> bool:
        """True for an end that needs no attention: our Close, or one of 1000, 1001, no code."""
        return self.code in (1000, 1001, 1005) or (self.sent is not None and not self.by_peer)

    def __str__(self) -> str:
        if self.received is None and self.sent is not None and self.code != 1006:
            return (
                f"we closed with {_say(self.sent)}; {self.reason}"  # another server heard the rest
            )
        if self.received is None:
            ours = f"we had sent {_say(self.sent)}; " if self.sent else ""
            return f"connection lost; {ours}{self.reason}"
        if self.sent is None:
            return f"peer closed with {_say(self.received)}; we could not answer"
        if self.by_peer:
            return f"peer closed with {_say(self.received)}; we answered {self.sent.code}"
        return f"we closed with {_say(self.sent)}; peer answered {self.received.code}"


def forget_frames(ending: BaseException | None) -> None:
    """Drop the traceback of an end that was raised: its frames hold the ``Conn``, which holds it.

    What else a handler raised is the application's, and keeps its traceback.
    """
    if isinstance(ending, CloseError):
        ending.__traceback__ = None


def only_closes(error: BaseException) -> bool:
    """Tell whether an error says only that connections are over.

    It is a ``CloseError``, or a group of nothing else, as a task group raises it.
    """
    if isinstance(error, ExceptionGroup):
        return error.split(CloseError)[1] is None
    return isinstance(error, CloseError)


class ErrCloseSent(CloseError):
    """A write was tried after our Close had been sent; nothing was written."""

    def __str__(self) -> str:
        known = super().__str__()
        if self.sent is not None and self.received is None:
            known = f"we sent {_say(self.sent)}"
        return f"nothing can be sent after a Close; {known}"


class ProtocolError(CloseError):
    """The peer broke the protocol; we closed with ``code`` and say what it did.

    ``section`` is the rule, as in ``RFC 6455 §5.1``.
    """

    def __init__(self, code: int, reason: str, section: str = "") -> None:
        super().__init__(code, reason)
        self.section = f"RFC 6455 {section}" if section.startswith("§") else section

    @property
    def ordinary(self) -> bool:
        return False

    def __str__(self) -> str:
        return f"{self.reason} ({self.section})" if self.section else self.reason


class ErrReadLimit(ProtocolError):
    """The peer sent a message larger than ``read_limit``; we closed with 1009."""

    def __init__(self, reason: str) -> None:
        super().__init__(1009, reason)
        self.args = (reason,)


NAMES = {
    1000: "normal",
    1001: "going away",
    1002: "protocol error",
    1003: "unsupported data",
    1005: "no status",
    1006: "abnormal closure",
    1007: "invalid payload data",
    1008: "policy violation",
    1009: "message too big",
    1010: "mandatory extension missing",
    1011: "internal server error",
    1012: "service restart",
    1013: "try again later",
    1014: "bad gateway",
    1015: "TLS handshake error",
}


def _say(close: Close) -> str:
    name = f" ({NAMES[close.code]})" if close.code in NAMES else ""
    return f"{close.code}{name}" + (f" {close.reason!r}" if close.reason else "")
