"""The options of every connection, client or server: documented and validated once.

``Dialer`` and ``Upgrader`` add their own to these; the faces add none. The error for an
unknown name says what the option is called here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from koko.core.deflate import Compression

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


# What other libraries call it, what it is called here, and what that does.
_ELSEWHERE = {
    **dict.fromkeys(
        ("timeout", "open_timeout", "connect_timeout"),
        ("handshake_timeout", "bounds the opening handshake, in seconds"),
    ),
    **dict.fromkeys(
        ("max_size", "max_msg_size", "max_message_size", "max_payload_length", "maxPayload"),
        ("read_limit", "bounds a message, in bytes"),
    ),
    **dict.fromkeys(
        ("max_line_size", "max_header_size", "max_headers"),
        ("head_limit", "bounds a head, in bytes"),
    ),
    **dict.fromkeys(
        ("additional_headers", "extra_headers", "header", "http_headers"),
        ("headers", "adds headers to the handshake"),
    ),
    **dict.fromkeys(
        ("process_request", "on_request"),
        ("http", "answers requests, and check_origin= refuses handshakes"),
    ),
    **dict.fromkeys(("heartbeat", "heartbeat_interval"), ("ping_interval", "sends pings")),
    **dict.fromkeys(
        ("compress", "enable_compression", "perMessageDeflate", "extensions"),
        ("compression", "is True for permessage-deflate, or a Compression"),
    ),
    **dict.fromkeys(("protocols", "subprotocol"), ("subprotocols", "is a list of names")),
    **dict.fromkeys(("ssl_context", "sslopt", "tls"), ("ssl", "is an ssl.SSLContext")),
    **dict.fromkeys(
        ("http_proxy", "http_proxy_host", "proxy_url"), ("proxy", "is the URL of a proxy")
    ),
    **dict.fromkeys(("user_agent_header",), ("user_agent", "is the header User-Agent")),
    **dict.fromkeys(("server_header",), ("http", "answers requests with headers of your own")),
    **dict.fromkeys(("cookies", "cookie", "cookie_jar"), ("jar", "is an http.cookiejar.CookieJar")),
    **dict.fromkeys(("origin", "allowed_origins"), ("origins", "says which pages may connect")),
    **dict.fromkeys(
        ("local_addr", "family", "create_connection", "sockopt"),
        ("net_dial", "opens the connection in our place"),
    ),
    **dict.fromkeys(("path", "unix_path", "uds"), ("unix", "is the path of a Unix socket")),
}


def check_names(call: str, known: Collection[str], given: Iterable[str]) -> None:
    """Raise TypeError for an option that ``call`` does not have; say what it is called here."""
    for name in given:
        if name not in known:
            raise TypeError(f"{call} has no option {name!r}{_hint(name, known)}")


def _hint(name: str, known: Collection[str]) -> str:
    here, what = _ELSEWHERE.get(name, ("", ""))
    if here in known:
        return f"; {here}= {what}"
    from difflib import get_close_matches  # 26 ms, only for a mistake

    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}=?" if near else ""
