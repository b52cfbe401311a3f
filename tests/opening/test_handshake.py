"""RFC 6455 §4, from both ends: what is asked, what is answered, what is refused."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from koko.errors import ErrBadHandshake, HandshakeError
from koko.http import Request, Response
from koko.opening.handshake import (
    accept_key,
    accept_response,
    build_request,
    check_headers,
    check_request,
    check_response,
    check_subprotocols,
    is_websocket_upgrade,
    make_key,
    refusal,
    subprotocols,
    tokens,
)
from koko.opening.head import write_request, write_response

pytestmark = pytest.mark.once

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # §1.3
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def asked(method: str = "GET", version: str = "1.1", **fields: str | list[str] | None) -> Request:
    """Return a good request, changed: None takes a header out, a list repeats it."""
    good: dict[str, str | list[str] | None] = {
        "Host": "example.com",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
    }
    return Request(method, "/", _headers(good, fields), version)


def answered(status: int = 101, body: str = "", **fields: str | list[str] | None) -> Response:
    good: dict[str, str | list[str] | None] = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Accept": ACCEPT,
    }
    return Response(status, body, _headers(good, fields))


def _headers(good, fields):
    headers = CIMultiDict()
    for name, value in (good | {name.replace("_", "-"): fields[name] for name in fields}).items():
        for one in value if isinstance(value, list) else [value]:
            if one is not None:
                headers.add(name, one)
    return headers


def refused(request: Request) -> HandshakeError:
    with pytest.raises(HandshakeError) as caught:
        check_request(request)
    return caught.value


def rejected(response: Response, offered: tuple[str, ...] = ()) -> ErrBadHandshake:
    with pytest.raises(ErrBadHandshake) as caught:
        check_response(response, KEY, offered)
    assert caught.value.response is response
    return caught.value


# Keys, tokens, subprotocols


def test_the_key_of_the_rfc_is_answered_as_in_the_rfc():
    assert accept_key(KEY) == ACCEPT


def test_a_key_is_16_fresh_bytes_in_base64():
    keys = {make_key() for _ in range(100)}
    assert len(keys) == 100
    for key in keys:
        check_request(asked(Sec_WebSocket_Key=key))


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([], []),
        (["a"], ["a"]),
        (["Keep-Alive, \tUpgrade "], ["keep-alive", "upgrade"]),
        (["a", "b,c"], ["a", "b", "c"]),
        ([", a,,b,"], ["a", "b"]),
        (["x websocket"], ["x websocket"]),
        (["WebSoc\N{KELVIN SIGN}et"], ["websoc\N{KELVIN SIGN}et"]),
    ],
)
def test_tokens_of_all_lines_in_lower_case_ascii(values, found):
    assert tokens(values) == found


def test_subprotocols_of_all_lines_in_the_order_offered():
    request = asked(Sec_WebSocket_Protocol=["b, A", " ,c"])
    assert subprotocols(request) == ["b", "A", "c"]
    assert subprotocols(asked()) == []


@pytest.mark.parametrize(
    ("connection", "upgrade", "wanted"),
    [
        ("Upgrade", "websocket", True),
        ("keep-alive, upgrade", "h2c, WebSocket", True),
        (["keep-alive", "UPGRADE"], "websocket", True),
        ("keep-alive", "websocket", False),
        ("Upgrade", "h2c", False),
        ("Upgrade", None, False),
        (None, "websocket", False),
    ],
)
def test_a_websocket_is_asked_for_with_both_tokens(connection, upgrade, wanted):
    request = asked("POST", Connection=connection, Upgrade=upgrade)
    assert is_websocket_upgrade(request) is wanted


@pytest.mark.parametrize("name", ["", "a b", "a,b", "é", b"a"])
def test_a_subprotocol_is_a_token(name):
    with pytest.raises(ValueError, match="is not a token"):
        check_subprotocols(["fine", name])


def test_subprotocols_are_a_list_of_different_names():
    check_subprotocols(["a", "A"])
    with pytest.raises(TypeError, match=r"a list of names, as in \['chat'\]"):
        check_subprotocols("chat")
    with pytest.raises(ValueError, match="names one twice"):
        check_subprotocols(["a", "a"])


# The client asks


def test_a_request_is_written_as_in_the_rfc():
    request = build_request(
        "server.example.com",
        "/chat",
        KEY,
        subprotocols=["chat", "superchat"],
        extensions="permessage-deflate",
        headers={"Origin": "http://example.com"},
    )
    assert write_request(request) == (
        b"GET /chat HTTP/1.1\r\n"
        b"Host: server.example.com\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Protocol: chat, superchat\r\n"
        b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
        b"Origin: http://example.com\r\n"
        b"\r\n"
    )


def test_nothing_is_offered_unless_wanted():
    headers = build_request("a", "/", KEY).headers
    assert "Sec-WebSocket-Protocol" not in headers
    assert "Sec-WebSocket-Extensions" not in headers


def test_a_host_among_the_headers_replaces_the_host():
    request = build_request("a", "/", KEY, headers=[("HOST", "b"), ("X", "1"), ("X", "2")])
    assert request.headers.getall("Host") == ["b"]
    assert request.headers.getall("X") == ["1", "2"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("upgrade", "the handshake writes it"),
        ("Connection", "the handshake writes it"),
        ("Sec-WebSocket-Key", "the handshake writes it"),
        ("SEC-WEBSOCKET-VERSION", "the handshake writes it"),
        ("Sec-WebSocket-Accept", "the handshake writes it"),
        ("Sec-WebSocket-Protocol", "use subprotocols="),
        ("Sec-WebSocket-Extensions", "use compression="),
        ("Content-Length", "a handshake has no body"),
        ("Transfer-Encoding", "a handshake has no body"),
    ],
)
def test_a_header_of_the_handshake_cannot_be_given(name, hint):
    for write in (
        lambda: build_request("a", "/", KEY, headers={name: "x"}),
        lambda: accept_response(KEY, headers={name: "x"}),
    ):
        with pytest.raises(ValueError, match=f"header '{name}' cannot be given: {hint}"):
            write()


# The server checks


@pytest.mark.parametrize(
    "request_",
    [
        asked(),
        asked(Connection="keep-alive, Upgrade"),
        asked(Connection=["keep-alive", "upgrade"]),
        asked(Upgrade="WebSocket"),
        asked(Upgrade="h2c, websocket"),
        asked(Content_Length="0"),
    ],
)
def test_a_good_request_passes(request_):
    check_request(request_)


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        (asked(version="1.0"), 400, "request is HTTP/1.0, expected HTTP/1.1 (RFC 6455 §4.2.1)"),
        (asked("POST"), 405, "method is 'POST', expected 'GET' (RFC 6455 §4.2.1)"),
        (
            asked(Upgrade="h2c"),
            426,
            "header 'Upgrade' is 'h2c', expected 'websocket' (RFC 6455 §4.2.1)",
        ),
        (
            asked(Upgrade=None),
            426,
            "header 'Upgrade' is missing, expected 'websocket' (RFC 6455 §4.2.1)",
        ),
        (
            asked(Connection=["close", "keep-alive"]),
            426,
            "header 'Connection' is 'close' and 'keep-alive', expected 'upgrade' (RFC 6455 §4.2.1)",
        ),
        (
            asked(Sec_WebSocket_Version="8"),
            426,
            "header 'Sec-WebSocket-Version' is '8', expected '13' (RFC 6455 §4.4)",
        ),
        (
            asked(Sec_WebSocket_Version=None),
            426,
            "header 'Sec-WebSocket-Version' is missing, expected '13' (RFC 6455 §4.4)",
        ),
        (
            asked(Sec_WebSocket_Version=["13", "13"]),
            426,
            "header 'Sec-WebSocket-Version' is '13' and '13', expected '13' (RFC 6455 §4.4)",
        ),
        (
            asked(Sec_WebSocket_Key=None),
            400,
            "header 'Sec-WebSocket-Key' is missing, expected 16 bytes in base64 (RFC 6455 §4.2.1)",
        ),
        (asked(Content_Length="5"), 413, "request has a body, which would be taken for frames"),
        (
            asked(Transfer_Encoding="chunked"),
            413,
            "request has a body, which would be taken for frames",
        ),
    ],
)
def test_a_request_is_refused_with_what_came_and_what_was_expected(request_, status, reason):
    error = refused(request_)
    assert (error.status, error.reason) == (status, reason)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "dGhlIHNhbXBsZSBub25jZQ",  # no padding
        "dGhlIHNhbXBsZSBub25j",  # 15 bytes
        "dGhlIHNhbXBsZSBub25jZSE=",  # 17 bytes
        "dGhlIHNhbXBsZSBub25j*Q==",
        "dGhlIHNhbXBsZSBub25jZQ==\n",
        [KEY, KEY],
    ],
)
def test_a_key_that_is_not_16_bytes_once_is_refused(key):
    error = refused(asked(Sec_WebSocket_Key=key))
    assert error.status == 400
    assert "expected 16 bytes in base64" in error.reason


def test_a_long_value_is_not_repeated_whole():
    assert len(refused(asked(Upgrade=["x" * 10_000] * 100)).reason) < 400


# The server answers


def test_a_101_is_written_as_in_the_rfc():
    assert write_response(accept_response(KEY, "chat")) == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
        b"Sec-WebSocket-Protocol: chat\r\n"
        b"\r\n"
    )


def test_a_101_carries_extensions_and_headers_of_the_application():
    headers = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
    response = accept_response(KEY, None, "permessage-deflate", headers)
    assert response.headers["Sec-WebSocket-Extensions"] == "permessage-deflate"
    assert "Sec-WebSocket-Protocol" not in response.headers
    assert response.headers.getall("Set-Cookie") == ["a=1", "b=2"]


def test_a_refusal_is_its_sentence_in_plain_text():
    assert write_response(refusal(HandshakeError(403, "origin 'é' is not welcome"))) == (
        b"HTTP/1.1 403 Forbidden\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"X-Content-Type-Options: nosniff\r\n"
        b"Content-Length: 26\r\n"
        b"Connection: close\r\n"
        b"\r\n"
        b"origin '\xc3\xa9' is not welcome"
    )


def test_a_refused_method_is_told_the_one_allowed():
    assert refusal(refused(asked("POST"))).headers["Allow"] == "GET"


@pytest.mark.parametrize("lost", [{"version": "1.0"}, {"Upgrade": None}, {"Connection": "close"}])
def test_what_a_proxy_has_not_passed_on_is_advice_where_a_websocket_was_asked_for(lost):
    assert "have the proxy pass the upgrade on" in refused(asked(**lost)).advice
    assert refused(asked(Sec_WebSocket_Key=None, **lost)).advice == ""


def test_a_426_names_the_protocol_and_its_version():
    response = refusal(refused(asked(Sec_WebSocket_Version="8")))
    assert response.headers["Sec-WebSocket-Version"] == "13"
    assert response.headers["Upgrade"] == "websocket"
    assert response.headers["Connection"] == "Upgrade, close"


# The client checks


@pytest.mark.parametrize(
    "response",
    [answered(), answered(Connection="close, UPGRADE"), answered(Upgrade=["x", "WebSocket"])],
)
def test_a_good_answer_passes(response):
    assert check_response(response, KEY) is None


def test_the_subprotocol_is_one_of_the_offered():
    response = answered(Sec_WebSocket_Protocol="b")
    assert check_response(response, KEY, ["a", "b"]) == "b"


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (answered(200), "server answered 'OK', expected 101 (RFC 6455 §4.1)"),
        (
            answered(403, "not you\nnor me"),
            "server answered 'Forbidden', expected 101 (RFC 6455 §4.1): 'not you'",
        ),
        (
            answered(Upgrade=None),
            "header 'Upgrade' is missing, expected 'websocket' (RFC 6455 §4.1)",
        ),
        (
            answered(Connection="close"),
            "header 'Connection' is 'close', expected 'upgrade' (RFC 6455 §4.1)",
        ),
        (
            answered(Sec_WebSocket_Accept=None),
            f"header 'Sec-WebSocket-Accept' is missing, expected '{ACCEPT}' (RFC 6455 §4.1)",
        ),
        (
            answered(Sec_WebSocket_Accept=ACCEPT.lower()),
            f"header 'Sec-WebSocket-Accept' is '{ACCEPT.lower()}', expected '{ACCEPT}'"
            " (RFC 6455 §4.1)",
        ),
        (
            answered(Sec_WebSocket_Accept=[ACCEPT, ACCEPT]),
            f"header 'Sec-WebSocket-Accept' is '{ACCEPT}' and '{ACCEPT}', expected '{ACCEPT}'"
            " (RFC 6455 §4.1)",
        ),
    ],
)
def test_an_answer_that_is_no_acceptance_is_rejected(response, reason):
    assert rejected(response).reason == reason


@pytest.mark.parametrize("offered", [(), ("a", "b")])
def test_an_empty_subprotocol_is_none(offered):
    assert check_response(answered(Sec_WebSocket_Protocol=""), KEY, offered) is None


@pytest.mark.parametrize("chosen", ["A", "c", "a, b", ["a", "b"], ["a", "a"], ["", "a"]])
def test_a_subprotocol_that_was_not_offered_once_is_rejected(chosen):
    error = rejected(answered(Sec_WebSocket_Protocol=chosen), ("a", "b"))
    assert "expected one of those 2 that were offered" in error.reason  # one may be a token


def test_a_query_that_a_refusal_repeats_is_not_shown():
    error = rejected(answered(404, "Cannot GET /chat?token=s3cret. Really? No."))
    assert error.reason.endswith(": 'Cannot GET /chat?... Really? No.'")


def test_a_rejection_shows_the_status_and_a_piece_of_the_body():
    error = rejected(answered(503, "x" * 1000))
    assert str(error).startswith("503: server answered 'Service Unavailable'")
    assert error.reason.endswith(f": '{'x' * 200}'")


@pytest.mark.parametrize(
    ("headers", "shown"),
    [
        (["a: b"], "'a: b' is not a name and a value"),
        (["a: s3cret-and-what-is-as-long"], "'a: ...' is not a name and a value"),
        (["Authorization: s3cret"], "'Authorization: ...' is not a name and a value"),
        ("ab", "'a' is not a name and a value"),
        ([("a", b"s3cret")], r"\('a', a bytes\) is not a name and a value"),
        ({"a": 5}, r"\('a', a int\) is not a name and a value"),
        ([b"s3cret"], "a bytes is not a name and a value"),
    ],
)
def test_headers_that_are_no_pairs_are_told_and_no_secret_is_shown(headers, shown):
    with pytest.raises(TypeError, match=shown) as told:
        check_headers(headers)
    assert "s3cret" not in str(told.value)
