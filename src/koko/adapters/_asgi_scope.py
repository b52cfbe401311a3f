"""A WebSocket's opening handshake in the words of ASGI: the scope, and headers as pairs of bytes.

Functions over heads, for any server that calls an ASGI application.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote

from multidict import CIMultiDict, CIMultiDictProxy, MultiMapping

from koko.http import Request, relative
from koko.opening.handshake import subprotocols

Scope = dict[str, Any]
Event = dict[str, Any]
Pairs = Iterable[tuple[bytes, bytes]]


def read_again(
    head: bytes, version: str | None = None
) -> tuple[Request, list[tuple[bytes, bytes]]]:
    """Return the request of a head that another parser has read and written again.

    That may have written another version of HTTP; ``version`` is the one that came.

    Raises:
        ValueError: it is not one.
    """
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    method, target, protocol = first.decode("latin-1").split(" ")
    pairs = []
    for line in lines:
        name, _, value = line.partition(b":")
        pairs.append((name.lower(), value.strip(b" \t")))
    headers = CIMultiDictProxy(CIMultiDict(text_of(pairs)))
    return Request(method, target, headers, version or protocol.removeprefix("HTTP/")), pairs


def scope_of(request: Request, pairs: Pairs, root_path: str, **more: Any) -> Scope:
    """Return the scope of a handshake; ``more`` is what its head does not say."""
    raw_path, _, query = relative(request.target).partition("?")
    raw_path = raw_path or "/"
    return {
        "type": "websocket",
        "http_version": request.version,
        "root_path": root_path,
        "path": root_path + unquote(raw_path),
        "raw_path": (root_path + raw_path).encode("latin-1"),
        "query_string": query.encode("latin-1"),
        "headers": pairs,
        "subprotocols": subprotocols(request),
        **more,
    }


def request_of(scope: Scope) -> Request:
    """Return the head of a request, of a handshake as well, from its scope."""
    raw_path, query = scope.get("raw_path"), scope.get("query_string") or b""
    path = quote(scope["path"]) if raw_path is None else raw_path.decode("latin-1")
    target = f"{path}?{query.decode('latin-1')}" if query else path
    headers = CIMultiDictProxy(CIMultiDict(text_of(scope["headers"])))
    return Request(scope.get("method", "GET"), target, headers, scope.get("http_version", "1.1"))


def text_of(headers: Pairs) -> list[tuple[str, str]]:
    """Return headers as the rest of Koko has them."""
    try:
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
    except (AttributeError, TypeError, ValueError):  # not shown: a value may be a secret
        raise TypeError("headers of ASGI are pairs of bytes, [(b'name', b'value')]") from None


def octets_of(headers: MultiMapping[str]) -> list[tuple[bytes, bytes]]:
    """Return headers as an event of ASGI has them."""
    fields = headers.items()
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fields]


def can_deny(scope: Scope) -> bool:
    """Tell whether the server sends a response of our own to a client that is refused."""
    return "websocket.http.response" in (scope.get("extensions") or ())
