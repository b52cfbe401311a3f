"""RFC 6455 §4: the opening handshake, as functions over heads.

Both ends are here, so that what one writes can be read beside what the other
checks. No bytes and no policy: ``upgrading`` decides who may connect, ``dialing`` what
to ask for.
"""

from __future__ import annotations

import os
import re
from binascii import b2a_base64
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha1
from string import ascii_lowercase, ascii_uppercase

from multidict import CIMultiDict, CIMultiDictProxy, MultiMapping

from koko.errors import ErrBadHandshake, HandshakeError
from koko.http import REASONS, Headers, Request, Response
from koko.opening.head import TOKEN, check_line, check_name, field_name

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # §1.3
VERSION = "13"  # §4.1, of the protocol
SWITCH = (("Upgrade", "websocket"), ("Connection", "upgrade"))  # §4.1: the tokens both ends send

# Headers that only the handshake writes, and what the programmer should do instead.
# Its heads have no body, so the headers that would announce one are here, too.
_OURS = {
    "upgrade": "the handshake writes it",
    "connection": "the handshake writes it",
    "content-length": "a handshake has no body",
    "transfer-encoding": "a handshake has no body",
    "sec-websocket-key": "the handshake writes it",
    "sec-websocket-version": "the handshake writes it",
    "sec-websocket-accept": "the handshake writes it",
    "sec-websocket-protocol": "use subprotocols=",
    "sec-websocket-extensions": "use compression=",
}

# What a refusal must carry besides its sentence: RFC 9110 §15.5.6 and §15.5.22,
# §7.8 (who sends Upgrade must list it in Connection), RFC 6455 §4.4.
_REFUSAL_HEADERS = {
    405: {"Allow": "GET"},
    426: {
        "Upgrade": "websocket",
        "Connection": "Upgrade, close",
        "Sec-WebSocket-Version": VERSION,
    },
    503: {"Retry-After": "2"},  # seconds; RFC 9110 §15.6.4
}

_SWITCHING = ((field_name("Upgrade"), "websocket"), (field_name("Connection"), "Upgrade"))

_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)
_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")  # base64 of 16 bytes

# What may be a secret: errors do not show it, nor anything as long as one.
_SECRET = re.compile("auth|cookie|key|pass|secret|session|token", re.IGNORECASE)
_LONG = 24

# The operator's, where a proxy in front has taken the switch out of a request.
_PASS_ON = (
    "it has a Sec-WebSocket-Key, so it was one: have the proxy pass the upgrade on (nginx: "
    "proxy_http_version 1.1, proxy_set_header Upgrade $http_upgrade, proxy_set_header Connection "
    "upgrade)"
)

_QUERY = re.compile(r"\?[^\s\"'<>)]+")

_ASKED = "(RFC 6455 §4.2.1)"
_ANSWERED = "(RFC 6455 §4.1)"


def tokens(values: Iterable[str]) -> list[str]:
    """Return the tokens of a comma list that is spread over header lines, in lower case."""
    text = ",".join(values)
    # Only ASCII folds: the Kelvin sign is no k, though Python's lower() says so.
    return _items(text.lower() if text.isascii() else text.translate(_LOWER))


def subprotocols(request: Request) -> list[str]:
    """Return the subprotocols that the client offers, in its order of preference."""
    return _items(",".join(request.headers.getall("Sec-WebSocket-Protocol", ())))


def is_websocket_upgrade(request: Request) -> bool:
    """Tell whether the client asks for a WebSocket at all; nothing else is checked."""
    return _missing_switch(request.headers) is None


def make_key() -> str:
    """Return a fresh ``Sec-WebSocket-Key``: 16 random bytes (§4.1)."""
    return b2a_base64(os.urandom(16), newline=False).decode()


def accept_key(key: str) -> str:
    """Return the ``Sec-WebSocket-Accept`` that answers ``key`` (§4.2.2)."""
    digest = sha1(key.encode("latin-1") + GUID, usedforsecurity=False).digest()
    return b2a_base64(digest, newline=False).decode()


def check_subprotocols(names: Sequence[str]) -> None:
    """Raise unless ``names`` is a list of tokens, all different (§4.1)."""
    if isinstance(names, str):
        raise TypeError(f"subprotocols={names!r}, expected a list of names, as in [{names!r}]")
    for name in names:
        if not isinstance(name, str) or not TOKEN.fullmatch(name):
            raise ValueError(f"subprotocol {name!r} is not a token (RFC 6455 §4.1)")
    if len(set(names)) < len(names):
        raise ValueError(f"subprotocols={list(names)!r} names one twice (RFC 6455 §4.1)")


def check_headers(headers: Headers | None) -> CIMultiDict[str]:
    """Return a copy of what a programmer wants to add to a handshake.

    Raises:
        TypeError: it is neither a mapping nor pairs of str.
        ValueError: it has a name that only the handshake may write.
    """
    extra = CIMultiDict(_pairs(headers or ()))
    for name in extra:
        if name.lower() in _OURS:
            raise ValueError(f"header {name!r} cannot be given: {_OURS[name.lower()]}")
    return extra


def check_fields(headers: MultiMapping[str]) -> None:
    """Raise ``ValueError`` for a name or a value that could split a head."""
    for name, value in headers.items():
        check_name(name)
        check_line(f"{name}: {value}")


def _pairs(headers: Headers) -> list[tuple[str, str]]:
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    for pair in pairs:
        if not _is_pair(pair):
            raise TypeError(
                f"headers: {_without_value(pair)} is not a name and a value, both str; "
                "write {'name': 'value'} or [('name', 'value')]"
            )
    return pairs


def _without_value(pair: object) -> str:
    """Return what can be shown of something in the place of a header: its value may be a secret."""
    if isinstance(pair, str):
        if len(pair) < _LONG and not _SECRET.search(pair):
            return repr(pair)
        name, colon, _ = pair.partition(":")
        return f"{name + ': ...'!r}" if colon else "a str"
    if isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], str):
        return f"({pair[0]!r}, a {type(pair[1]).__name__})"
    return f"a {type(pair).__name__}"


def _is_pair(pair: object) -> bool:
    return (
        isinstance(pair, tuple | list)
        and len(pair) == 2
        and all(isinstance(part, str) for part in pair)
    )


def build_request(
    host: str,
    target: str,
    key: str,
    *,
    subprotocols: Sequence[str] = (),
    extensions: str | None = None,
    headers: Headers | None = None,
) -> Request:
    """Return the client's opening handshake (§4.1); a ``Host`` in ``headers`` replaces ``host``.

    Raises:
        ValueError: ``headers`` has a name that only the handshake may write.
    """
    extra = check_headers(headers)
    fields = CIMultiDict({"Host": extra.popall("Host", [host])[0]})
    fields["Upgrade"] = "websocket"
    fields["Connection"] = "Upgrade"
    fields["Sec-WebSocket-Key"] = key
    fields["Sec-WebSocket-Version"] = VERSION
    if subprotocols:
        fields["Sec-WebSocket-Protocol"] = ", ".join(subprotocols)
    if extensions:
        fields["Sec-WebSocket-Extensions"] = extensions
    fields.extend(extra)
    return Request("GET", target, CIMultiDictProxy(fields))


def check_request(request: Request) -> None:
    """Refuse what is not a valid opening handshake of a client (§4.2.1).

    Raises:
        HandshakeError: with the status and the sentence for ``refusal``.
    """
    if (version := request.version) != "1.1":
        error = HandshakeError(400, f"request is HTTP/{version}, expected HTTP/1.1 {_ASKED}")
        raise _unswitched(request, error)
    if request.method != "GET":
        raise HandshakeError(405, f"method is {request.method!r}, expected 'GET' {_ASKED}")
    if missing := _missing_switch(request.headers):
        raise _unswitched(request, HandshakeError(426, f"{missing} {_ASKED}"))
    if request.headers.getall("Sec-WebSocket-Version", ()) != [VERSION]:
        said = _said(request.headers, "Sec-WebSocket-Version")
        raise HandshakeError(426, f"{said}, expected {VERSION!r} (RFC 6455 §4.4)")
    keys = request.headers.getall("Sec-WebSocket-Key", ())
    if len(keys) != 1 or not _KEY.fullmatch(keys[0]):
        said = _said(request.headers, "Sec-WebSocket-Key")
        raise HandshakeError(400, f"{said}, expected 16 bytes in base64 {_ASKED}")
    if request.headers.get("Content-Length", "0").strip("0") or (
        "Transfer-Encoding" in request.headers
    ):
        raise HandshakeError(413, "request has a body, which would be taken for frames")


def accept_response(
    request_key: str,
    subprotocol: str | None = None,
    extensions: str | None = None,
    headers: Headers | None = None,
) -> Response:
    """Return the server's 101 (§4.2.2).

    Raises:
        ValueError: ``headers`` has a name that only the handshake may write.
    """
    fields: list[tuple[str, str]] = [
        *_SWITCHING,
        (field_name("Sec-WebSocket-Accept"), accept_key(request_key)),
    ]
    if subprotocol:
        fields.append(("Sec-WebSocket-Protocol", subprotocol))
    if extensions:
        fields.append(("Sec-WebSocket-Extensions", extensions))
    if headers:
        fields.extend(check_headers(headers).items())
    return Response(101, b"", fields)


def is_refusal(error: BaseException) -> bool:
    """Tell whether a server may answer with this error.

    Not if it is the end of a dial, as of an application that asked another server: that one's
    answer is not for our client, and may even be a 101.
    """
    is_ours = isinstance(error, HandshakeError) and not isinstance(error, ErrBadHandshake)
    return is_ours and 200 <= error.status <= 599  # type: ignore[attr-defined]


def refusal(error: HandshakeError) -> Response:
    """Return the answer to a handshake that is refused: its sentence, in plain text."""
    body = error.reason.encode()
    headers = {
        "Content-Type": "text/plain; charset=utf-8",
        "X-Content-Type-Options": "nosniff",  # the sentence may quote what the client sent
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    return Response(error.status, body, headers | _REFUSAL_HEADERS.get(error.status, {}))


def check_response(response: Response, key: str, offered: Sequence[str] = ()) -> str | None:
    """Check the server's answer to ``key`` (§4.1) and return the subprotocol it chose.

    Raises:
        ErrBadHandshake: the server refused, or accepted something we did not ask for.
    """
    if response.status != 101:
        raise ErrBadHandshake(_refused(response), response)
    if missing := _missing_switch(response.headers):
        raise ErrBadHandshake(f"{missing} {_ANSWERED}", response)
    if response.headers.getall("Sec-WebSocket-Accept", ()) != [accept_key(key)]:
        said = _said(response.headers, "Sec-WebSocket-Accept")
        reason = f"{said}, expected {accept_key(key)!r} {_ANSWERED}"
        raise ErrBadHandshake(reason, response)
    chosen = response.headers.getall("Sec-WebSocket-Protocol", ())
    if list(chosen) == [""]:  # some servers say so that they chose none
        return None
    if len(chosen) > 1 or (chosen and chosen[0] not in offered):
        said = _said(response.headers, "Sec-WebSocket-Protocol")
        # Some clients offer a token as well, which is not for the log.
        expected = f"one of those {len(offered)} that were" if offered else "none, as none was"
        reason = f"{said}, expected {expected} offered {_ANSWERED}"
        raise ErrBadHandshake(reason, response)
    return chosen[0] if chosen else None


def _unswitched(request: Request, error: HandshakeError) -> HandshakeError:
    """Return the error with advice, if it was a request for a WebSocket when a client sent it."""
    if "Sec-WebSocket-Key" in request.headers:  # no page is asked for with it
        error.advice = _PASS_ON
    return error


def _items(text: str) -> list[str]:
    # RFC 9110 §5.6.1.2: a list may have empty elements, which are ignored.
    return [item for piece in text.split(",") if (item := piece.strip(" \t"))]


def _missing_switch(headers: MultiMapping[str]) -> str | None:
    for name, token in SWITCH:
        values = headers.getall(name, ())
        # The usual spellings need no parsing.
        if values != [token] and values != [token.title()] and token not in tokens(values):
            return f"{_said(headers, name)}, expected {token!r}"
    return None


def _said(headers: MultiMapping[str], name: str) -> str:
    values = headers.getall(name, ())
    if not values:
        return f"header {name!r} is missing"
    return f"header {name!r} is {' and '.join(repr(value[:80]) for value in values[:3])}"


def _refused(response: Response) -> str:
    reason = response.reason or REASONS.get(response.status, "")
    sentence = f"server answered {reason!r}, expected 101 {_ANSWERED}"
    lines = response.body.decode(errors="replace").splitlines()
    if not lines:
        return sentence
    shown = _QUERY.sub("?...", lines[0])  # some servers repeat the URL
    return f"{sentence}: {shown[:200]!r}"
