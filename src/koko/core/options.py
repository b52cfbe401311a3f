"""The options of every connection, client or server: documented and validated once.

``Dialer`` and ``Upgrader`` add their own to these; the faces add none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

from koko.core.deflate import Compression
from koko.core.names import check_names

# What None means for an option. The others have no None: every close ends, every fragment is
# finite, and no head is read without a limit.
NONE_MEANS = {
    "read_limit": "for no limit",
    "handshake_timeout": "for no limit",
    "ping_interval": "for no pings",
    "ping_timeout": "to keep silent peers",
}


@dataclass(kw_only=True)
class ConnectionOptions:
    """The options that a ``Dialer`` and an ``Upgrader`` share.

    Attributes:
        read_limit: bytes of one message, on the wire and inflated; a larger one
            is refused with 1009. None: no limit.
        head_limit: bytes of the peer's head in the opening handshake; a larger one is
            refused, by a server with 431.
        handshake_timeout: seconds for the whole opening handshake. None: no limit.
        close_timeout: seconds to wait for the peer's Close, then the socket is dropped.
        ping_interval: seconds between pings to a silent peer; one may leave up to a fifth
            of that early, so that those of many connections are spread. None: no pings.
        ping_timeout: seconds a ping may stay without any answer. A peer counts as dead when
            ``ping_interval`` and ``ping_timeout`` have both passed since its last byte.
            None: a silent peer is never given up.
        compression: True for permessage-deflate (RFC 7692) without context takeover,
            a ``Compression`` for anything else, False for none.
        write_buffer_size: bytes of a fragment that a streaming writer sends.
    """

    read_limit: int | None = 1 << 20
    head_limit: int = 1 << 14
    handshake_timeout: float | None = 10.0
    close_timeout: float = 10.0
    ping_interval: float | None = 20.0
    ping_timeout: float | None = 20.0
    compression: bool | Compression = False
    write_buffer_size: int = 4096

    def __new__(cls, *_: object, **options: object) -> Self:
        """Raise TypeError for an option that there is none of; say what it is called here."""
        check_names(f"{cls.__name__}()", cls.__dataclass_fields__, options)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name in ("read_limit", "head_limit", "write_buffer_size"):
            _check(name, getattr(self, name), int, "a whole number of bytes")
        for name in ("handshake_timeout", "close_timeout", "ping_interval", "ping_timeout"):
            _check(name, getattr(self, name), int | float, "a number of seconds")
        if not isinstance(self.compression, (bool, Compression)):
            raise TypeError(f"compression is a bool or a Compression, not {self.compression!r}")

    @property
    def deflate(self) -> Compression | None:
        """The compression that may be negotiated, None for none."""
        if isinstance(self.compression, Compression):
            return self.compression
        return Compression() if self.compression else None


def _check(name: str, value: Any, kind: Any, what: str) -> None:
    or_none = f", or None {NONE_MEANS[name]}" if name in NONE_MEANS else ""
    if value is None and or_none:
        return
    rule = f"{name}={value!r}: {what} above 0{or_none}"
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(rule)
    if value <= 0 or not math.isfinite(value):
        raise ValueError(rule)
