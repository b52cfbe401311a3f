"""The messages of an application: kinds, close codes, prepared messages.

Only ``koko.core`` knows how a message looks on the wire.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from koko.errors import Close, CloseError

Data = str | bytes | bytearray | memoryview


class Kind(IntEnum):
    """The kind of a message; the numbers are the opcodes of §5.2."""

    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class CloseCode(IntEnum):
    """The close codes that have a name (§7.4.1 and the IANA registry)."""

    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS_RECEIVED = 1005
    ABNORMAL_CLOSURE = 1006
    INVALID_FRAME_PAYLOAD_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_SERVER_ERR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE = 1015


class PreparedMessage:
    """A message that is encoded once and sent to many connections.

    The payload is copied now: changing a ``bytearray`` afterwards changes nothing.
    Any number of connections, threads and event loops may send the same one.
    """

    __slots__ = ("_forms", "kind", "payload")

    def __init__(self, kind: int, data: Data) -> None:
        check_kind(kind, data)
        self.kind = Kind(kind)
        self.payload = data.encode() if isinstance(data, str) else bytes(data)
        self._forms: dict[Any, bytes] = {}


def kind_of(message: object) -> Kind:
    """Return TEXT for str, BINARY for bytes and other buffers; raise TypeError for the rest."""
    if isinstance(message, str):
        return Kind.TEXT
    try:
        memoryview(message)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"a message is str or bytes, not {type(message).__name__}; "
            "write_json() sends other values"
        ) from None
    return Kind.BINARY


def check_kind(kind: int, message: object) -> None:
    """Raise unless ``message`` can be sent as a message of this kind."""
    if kind not in (Kind.TEXT, Kind.BINARY):
        raise ValueError(f"kind {kind!r} is not TEXT or BINARY (see write_control)")
    if kind_of(message) is Kind.TEXT and kind != Kind.TEXT:
        raise TypeError("a binary message is bytes, not str")


def check_prepared(prepared: object) -> None:
    """Raise unless it is a ``PreparedMessage``."""
    if not isinstance(prepared, PreparedMessage):
        kind = type(prepared).__name__
        raise TypeError(f"write_prepared() takes a PreparedMessage, not {kind}")


def format_close_message(code: int, reason: str = "") -> bytes:
    """Return the payload of a Close frame (§5.5.1).

    1005 stands for "no status" and gives an empty payload, whatever the reason.

    Raises:
        TypeError: the code is not an int, or the reason not a str.
        ValueError: the code is not a close code, or the reason has more than 123 bytes of UTF-8.
    """
    check_close(code, reason)
    if code == CloseCode.NO_STATUS_RECEIVED:
        return b""
    if not 1000 <= code <= 4999:
        raise ValueError(f"close code {code} is not in 1000 to 4999 (RFC 6455 §7.4.2)")
    payload = code.to_bytes(2, "big") + reason.encode()
    if len(payload) > 125:
        raise ValueError(
            f"a close reason has at most 123 bytes, this one {len(payload) - 2} (RFC 6455 §5.5)"
        )
    return payload


def check_close(code: int, reason: str) -> None:
    """Raise unless the code is an int and the reason a str; their values are not checked."""
    if not isinstance(code, int) or isinstance(code, bool):
        raise TypeError(f"a close code is an int such as 1000, not {code!r} (RFC 6455 §7.4)")
    if not isinstance(reason, str):
        raise TypeError(f"a close reason is str, not {type(reason).__name__}: {reason!r}")


def is_close_error(error: BaseException | None, *codes: int) -> bool:
    """Tell whether ``error``, or what caused it, is a CloseError with one of these codes."""
    found = _close_error(error)
    return found is not None and found.code in codes


def is_unexpected_close_error(error: BaseException | None, *expected: int) -> bool:
    """Tell whether ``error``, or what caused it, is a CloseError with none of these codes."""
    found = _close_error(error)
    return found is not None and found.code not in expected


def _close_error(error: BaseException | None) -> CloseError | None:
    while error is not None and not isinstance(error, CloseError):
        error = error.__cause__
    return error


__all__ = [
    "Close",
    "CloseCode",
    "Data",
    "Kind",
    "PreparedMessage",
    "check_close",
    "check_kind",
    "format_close_message",
    "is_close_error",
    "is_unexpected_close_error",
    "kind_of",
]
