"""The payloads of control frames, ours to send: checked, built and read (§5.5).

Functions over bytes. The codec checks what a control frame of the peer's may hold; the
responder does what follows from it.
"""

from __future__ import annotations

from koko.core.wire import CLOSE_CODES, MAX_CLOSE_REASON, MAX_CONTROL_PAYLOAD
from koko.errors import Close
from koko.message import check_close, format_close_message
from koko.misuse import check_seconds


def check_payload(payload: bytes) -> bytes:
    """Return ``payload`` as bytes if a control frame can carry it."""
    try:
        payload = bytes(memoryview(payload))
    except TypeError:
        kind = type(payload).__name__
        raise TypeError(f"a control frame carries bytes, not {kind} (RFC 6455 §5.5)") from None
    if len(payload) > MAX_CONTROL_PAYLOAD:
        raise ValueError(
            f"a control frame carries at most {MAX_CONTROL_PAYLOAD} bytes, not {len(payload)} "
            "(RFC 6455 §5.5)"
        )
    return payload


def parse_close(payload: bytes) -> Close:
    """Return what a Close with this payload says."""
    if not payload:
        return Close(1005, "")  # §7.1.5: no code was there to be received
    if len(payload) == 1:
        raise ValueError("a Close is empty or begins with two bytes of code (RFC 6455 §5.5.1)")
    return Close(int.from_bytes(payload[:2], "big"), payload[2:].decode())


def close_payload(close: Close) -> bytes:
    """Return the payload of a Close that says this; 1005 stands for an empty one."""
    if close == (1005, ""):
        return b""
    check_close(*close)
    if close.code not in CLOSE_CODES:
        raise ValueError(f"close code {close.code} may not be sent (RFC 6455 §7.4)")
    return format_close_message(*close)


def check_closing(code: int, reason: str, timeout: float | None) -> None:
    """Raise for what no ``close`` can do, before it does anything."""
    close_payload(Close(code, reason))
    check_seconds("timeout", timeout)


def shorten(reason: str) -> str:
    """Cut ``reason`` to what fits into a Close, never through a character."""
    return reason.encode()[:MAX_CLOSE_REASON].decode(errors="ignore")
