"""What every connection can be told, client or server, once and validated once.

``Dialer`` and ``Upgrader`` add their own options to these; the faces add none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from koko.core.deflate import Compression

BOUNDED = ("close_timeout", "write_buffer_size")  # every close ends, every fragment is finite


@dataclass(kw_only=True)
class ConnectionOptions:
    """The options that a ``Dialer`` and an ``Upgrader`` share.

    Attributes:
        read_limit: bytes of one message, on the wire and inflated; a larger one
            is refused with 1009. None: no limit.
        handshake_timeout: seconds for the whole opening handshake. None: no limit.
        close_timeout: seconds to wait for the peer's Close, then the socket is dropped.
        ping_interval: seconds of silence after which the peer is pinged. None: never.
        ping_timeout: seconds a ping may stay without any answer; then the peer is
            held to be dead. None: for ever.
        compression: True for permessage-deflate (RFC 7692) without context takeover,
            a ``Compression`` for anything else, False for none.
        write_buffer_size: bytes of a fragment that a streaming writer sends.
    """

    read_limit: int | None = 1 << 20
    handshake_timeout: float | None = 10.0
    close_timeout: float = 10.0
    ping_interval: float | None = 20.0
    ping_timeout: float | None = 20.0
    compression: bool | Compression = False
    write_buffer_size: int = 4096

    def __post_init__(self) -> None:
        for name in ("read_limit", "write_buffer_size"):
            _check(name, getattr(self, name), int, "a whole number of bytes")
        for name in ("handshake_timeout", "close_timeout", "ping_interval", "ping_timeout"):
            _check(name, getattr(self, name), int | float, "a number of seconds")
        if not isinstance(self.compression, (bool, Compression)):
            raise TypeError(f"compression is a bool or a Compression, not {self.compression!r}")

    @property
    def deflate(self) -> Compression | None:
        """The compression that may be negotiated, None for no limit."""
        if isinstance(self.compression, Compression):
            return self.compression
        return Compression() if self.compression else None


def _check(name: str, value: Any, kind: Any, what: str) -> None:
    or_none = "" if name in BOUNDED else ", or None for no limit"
    if value is None and or_none:
        return
    rule = f"{name}={value!r}: {what} above 0{or_none}"
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(rule)
    if value <= 0 or not math.isfinite(value):
        raise ValueError(rule)
