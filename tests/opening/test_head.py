"""An HTTP head is read within limits, and written so that nobody can split it."""

from __future__ import annotations

import pickle
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from koko.errors import HandshakeError
from koko.http import Request, Response
from koko.opening.head import RequestParser, ResponseParser, write_request, write_response

pytestmark = pytest.mark.once

REQUEST = (
    b"GET /chat?room=1 HTTP/1.1\r\n"
    b"Host: example.com\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: keep-alive, Upgrade\r\n"
    b"X-Empty:\r\n"
    b"X-Twice: one\r\n"
    b"x-twice: two \t\r\n"
    b"\r\n"
)
ACCEPTED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


def refused(data: bytes, size: int = 1 << 20, **limits: int) -> HandshakeError:
    parser = RequestParser(**limits)
    try:
        for at in range(0, len(data), size):
            parser.feed(data[at : at + size])
    except HandshakeError as error:
        return error
    pytest.fail(f"{data!r} was not refused")


def get(fields: bytes = b"", line: bytes = b"GET / HTTP/1.1") -> bytes:
    return line + b"\r\nHost: a\r\n" + fields + b"\r\n"


# Requests


def test_a_request_is_read_whole():
    request = RequestParser().feed(REQUEST)
    assert (request.method, request.target, request.version) == ("GET", "/chat?room=1", "1.1")
    assert request.headers["upgrade"] == "websocket"
    assert request.headers["X-Empty"] == ""
    assert request.headers.getall("X-TWICE") == ["one", "two"]


def test_a_request_is_the_same_in_pieces_of_any_size():
    whole = RequestParser().feed(REQUEST)
    for size in range(1, len(REQUEST)):
        parser = RequestParser()
        pieces = [REQUEST[at : at + size] for at in range(0, len(REQUEST), size)]
        assert [parser.feed(piece) for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
        assert parser.feed(pieces[-1]) == whole


@pytest.mark.parametrize("cut", [0, 1, len(REQUEST) - 1, len(REQUEST), len(REQUEST) + 3])
def test_bytes_behind_the_head_are_kept_in_order(cut):
    parser = RequestParser()
    stream = REQUEST + b"\x81\x85early\r\n\r\nGET"
    if (request := parser.feed(stream[:cut])) is None:
        request = parser.feed(stream[cut:])
        assert parser.rest == b"\x81\x85early\r\n\r\nGET"
    else:
        assert parser.rest == stream[len(REQUEST) : cut]
    assert request.target == "/chat?room=1"


def test_bytes_that_are_not_ascii_are_read_as_latin_1():
    assert RequestParser().feed(get(b"X: \xe9\r\n")).headers["X"] == "é"


def test_http_1_0_may_leave_out_the_host():
    assert RequestParser().feed(b"GET / HTTP/1.0\r\n\r\n").version == "1.0"


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", ""),
        ("/a%20b/%C3%A9?x=%20&y=?", "/a b/é", "x=%20&y=?"),
        ("/http://b/c", "/http://b/c", ""),
        ("http://example.com/a?b", "/a", "b"),
        ("http://example.com?b", "/", "b"),
        ("*", "*", ""),
    ],
)
def test_path_is_decoded_and_query_is_not(target, path, query):
    request = Request("GET", target, {})
    assert (request.path, request.query) == (path, query)


@pytest.mark.parametrize(
    ("head", "status", "sentence"),
    [
        (get(b"A: b\nB: c\r\n"), 400, "missing expected cr after header value at 'A'"),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400, "expected crlf after version at 'GET / HTTP/1.1'"),
        (get(b"A: b\r\n folded\r\n"), 400, "unexpected whitespace after header value"),
        (get(b"A: b\rc\r\n"), 400, "missing expected lf after header value"),
        (get(b"A: \0\r\n"), 400, "invalid header value char at 'A'"),
        (get(b"A\0: b\r\n"), 400, "invalid header token at 'A\\x00'"),
        (get(b"Cookie : secret\r\n"), 400, "invalid header token at 'Cookie '"),
        (get(b": b\r\n"), 400, "invalid header token at ''"),
        (get(b"no colon\r\n"), 400, "invalid header token at 'no '"),
        (get(b"Host: b\r\n"), 400, "header 'Host' came 2 times"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "header 'Host' came 0 times"),
        (b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", 400, "header 'Host' came 2 times"),
        (b"\r\n\r\n" + REQUEST, 400, "expected a start line at"),
        (b"\r" + REQUEST, 400, "expected a start line at '\\r'"),
        (b"\r\r\n" + REQUEST, 400, "expected a start line at"),
        (b"\r\n\n" + REQUEST, 400, "expected a start line at"),
        (b"\r\n\r\n\r\n", 400, "expected a start line at"),
        (b"\n" + REQUEST, 400, "expected a start line at"),
        (b"CONNECT \na:1 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "expected a start line at"),
        (b"PROXY TCP4 203.0.113.9 10.0.0.1 5 443\r\n", 400, "peer sends a PROXY header, and proxy"),
        (b"get / HTTP/1.1\r\n", 400, "invalid method encountered at 'g"),
        (b"GET /\xe9 HTTP/1.1\r\n", 400, "invalid char in url path"),
        (b"GET / HTTP/1.1 \r\n", 400, "expected crlf after version"),
        (get(b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), 400, "can't be present"),
        (get(b"Content-Length: 0\r\nContent-Length: 0\r\n"), 400, "duplicate content-length"),
        (get(b"Content-Length: 05\r\n"), 413, "a body of 5 bytes"),
        (get(b"Content-Length: 5\r\nConnection: upgrade\r\nUpgrade: x\r\n"), 413, "5 bytes"),
        (get(b"Transfer-Encoding: chunked\r\n"), 413, "a body of unknown length"),
        (get(b"Transfer-Encoding: 0\r\n"), 413, "a body of unknown length"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "peer speaks 'HTTP/2.0', expected 'HTTP/1.1'"),
        (get(line=b"GET / HTTP/3.0"), 505, "peer speaks 'HTTP/3.0'"),
        (get(line=b"GET / HTTP/1.2"), 505, "peer speaks 'HTTP/1.2'"),
        (get(line=b"GET / HTTP/2.0"), 505, "request line ends with ' HTTP/2.0'"),
        (get(line=b"OPTIONS * RTSP/1.0"), 505, "request line ends with ' RTSP/1.0'"),
        (b"GET /\r\n\r\n", 505, "request line names no version"),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400, "peer speaks TLS (wss://)"),
    ],
)
def test_what_is_not_a_request_we_read_is_refused(head, status, sentence):
    for size in (len(head), 1):
        error = refused(head, size)
        assert error.status == status
        assert sentence in error.reason


def test_a_proxy_header_of_version_2_is_named_where_none_is_expected():
    octets = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"
    assert refused(octets, len(octets)).reason.startswith("peer sends a PROXY header")
    other = b"\r\n\r\n\0\r\nEXIT\n"
    assert refused(other, len(other)).reason.startswith("invalid method encountered at '\\x00'")


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_one_empty_line_before_a_head_is_skipped(size):
    for parser, head in ((RequestParser(), REQUEST), (ResponseParser(), ACCEPTED)):
        stream, read = b"\r\n" + head + b"more", None
        while read is None:
            piece, stream = stream[:size], stream[size:]
            read = parser.feed(piece)
        assert list(read.headers.items()) == list(type(parser)().feed(head).headers.items())
        assert parser.rest + stream == b"more"


def test_an_empty_line_counts_towards_the_limit():
    limit = len(REQUEST)
    assert RequestParser(limit + 2).feed(b"\r\n" + REQUEST)
    with pytest.raises(HandshakeError, match="431"):
        RequestParser(limit + 1).feed(b"\r\n" + REQUEST)


def test_a_tls_hello_is_refused_at_its_first_byte():
    assert "TLS" in refused(b"\x16").reason


@pytest.mark.parametrize(
    "head",
    [
        get(b"Cookie: secret\0\r\n"),
        get(b"Cookie secret\r\n"),
        get(b"Cookie: a\r\n secret\r\n"),
        get(line=b"GET /?token=secret"),
        get(line=b"GET /?t=secret"),
        get(line=b"GET /?secret"),
        get(line=b"GET /?token=\xff&secret HTTP/1.1"),
        get(line=b"GET /?secret and more HTTP/1.1"),
        get(line=b"GET /?secret HTTP/1.1 x"),
        get(line=b"GET /?secret HTTP/2.0"),
        get(line=b"g{t /?secret HTTP/1.1"),
        get(line=b"GET ws://user:secret@host/ HTTP/1.1 x"),
    ],
)
def test_neither_values_nor_queries_are_quoted_in_an_error(head):
    for size in (len(head), 1):
        assert "secret" not in refused(head, size).reason


def test_a_content_length_of_zero_is_no_body():
    assert RequestParser().feed(get(b"Content-Length: 0\r\n")).method == "GET"


# Limits


def test_a_head_of_exactly_the_limit_is_read():
    assert RequestParser(max_bytes=len(REQUEST)).feed(REQUEST + b"early")


def test_a_head_one_byte_over_the_limit_is_refused():
    error = refused(REQUEST, max_bytes=len(REQUEST) - 1)
    assert (error.status, error.reason) == (
        431,
        f"head is larger than the limit of {len(REQUEST) - 1} bytes",
    )


def test_a_head_without_end_is_refused_at_the_limit():
    parser = RequestParser()
    parser.feed(b"GET / HTTP/1.1\r\nCookie: ")
    parser.feed(b"x" * (16384 - len("GET / HTTP/1.1\r\nCookie: ")))
    with pytest.raises(HandshakeError, match="431"):
        parser.feed(b"x")


def test_no_more_than_the_limit_is_kept_of_a_huge_piece():
    parser = RequestParser()
    with pytest.raises(HandshakeError, match="431"):
        parser.feed(b"GET / HTTP/1.1\r\nCookie: " + b"x" * 1_000_000)
    assert len(parser._head) == 16385


def test_128_fields_are_read_and_129_refused():
    fields = b"".join(b"A%d: b\r\n" % number for number in range(127))
    assert len(RequestParser().feed(get(fields)).headers) == 128
    error = refused(get(fields + b"One: more\r\n"))
    assert (error.status, error.reason) == (431, "head has more than 128 fields")
    assert refused(get(fields + b"One: more\r\n" + b"And: another\r\n")).status == 431


def test_a_larger_head_may_have_more_fields():
    fields = b"".join(b"A%d: b\r\n" % number for number in range(255))
    assert len(RequestParser(max_bytes=1 << 15).feed(get(fields)).headers) == 256
    assert refused(get(fields + b"B: b\r\n"), max_bytes=1 << 15).status == 431


def test_a_field_reaches_httptools_in_one_piece():
    # It joins pieces by copying: byte by byte, a large field would cost quadratic time.
    class Recorder(list):
        feed_data = list.append

    parser = RequestParser()
    parser._parser = shown = Recorder()
    for byte in b"GET / HTTP/1.1\r\nCookie: xxxxxxxx\r\nHost: a\r\nX":
        parser.feed(bytes((byte,)))
    assert b"".join(shown[:-2]) == b"GET / HTTP/1.1\r\n"
    assert shown[-2:] == [b"Cookie: xxxxxxxx\r\n", b"Host: a\r\n"]


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_a_request_or_a_handshake_error(noise, in_a_field):
    parser = RequestParser(max_bytes=150, max_fields=3)
    with suppress(HandshakeError):
        parser.feed(b"GET / HTTP/1.1\r\nA: " + noise if in_a_field else noise)


# Responses


def test_a_101_ends_with_its_head():
    parser = ResponseParser()
    response = parser.feed(ACCEPTED + b"\x81\x02hi")
    assert (response.status, response.reason) == (101, "Switching Protocols")
    assert response.headers["Upgrade"] == "websocket"
    assert parser.rest == b"\x81\x02hi"


def test_a_101_without_its_tokens_is_still_read():
    parser = ResponseParser()
    assert parser.feed(b"HTTP/1.1 101 Hm\r\n\r\nrest").status == 101
    assert parser.rest == b"rest"


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 9\r\n\r\nforbidden",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nfor\r\n6\r\nbidden\r\n0\r\n\r\n",
        b"Content-Length: 9\r\n\r\nforbiddenHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad",
    ],
)
def test_a_refusal_comes_with_its_body(framing):
    stream = b"HTTP/1.1 403 No\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + framing
    assert ResponseParser().feed(stream).body == b"forbidden"
    parser = ResponseParser()
    answers = [parser.feed(bytes((byte,))) for byte in stream]
    first = next(answer for answer in answers if answer)
    assert (first.status, first.reason, first.body) == (403, "No", b"forbidden")


def test_a_body_may_end_with_the_connection():
    parser = ResponseParser()
    assert parser.feed(b"HTTP/1.1 403 No\r\n\r\nforb") is None
    assert parser.feed(b"idden") is None
    assert parser.feed_eof().body == b"forbidden"


def test_no_more_than_1_kib_of_a_body_is_read():
    parser = ResponseParser()
    assert parser.feed(b"HTTP/1.1 403 No\r\n\r\n" + b"x" * 1000) is None
    assert parser.feed(b"y" * 1000).body == b"x" * 1000 + b"y" * 24


def test_a_body_that_cannot_be_read_ends_there():
    head = b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert ResponseParser().feed(head + b"3\r\nfor\r\nnonsense").body == b"for"


@pytest.mark.parametrize(
    "framing", [b"HTTP/1.1 204 Gone\r\n", b"HTTP/1.1 302 F\r\nContent-Length: 0\r\n"]
)
def test_an_answer_without_a_body_does_not_wait_for_one(framing):
    assert ResponseParser().feed(framing + b"\r\n").body == b""


def test_interim_answers_are_skipped():
    stream = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: </x>\r\n\r\n" + ACCEPTED
    response = ResponseParser().feed(stream)
    assert response.status == 101
    assert "Link" not in response.headers


def test_interim_answers_count_towards_the_limit():
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    parser = ResponseParser(max_bytes=10 * len(interim))
    assert parser.feed(interim * 10) is None
    with pytest.raises(HandshakeError, match="larger than the limit of 250 bytes"):
        parser.feed(interim)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_folded_fields_of_an_answer_are_unfolded(size):
    # RFC 9112 §5.2: of a response a client must; of a request a server refuses it.
    head = ACCEPTED[:-2] + b"X-Folded: one\r\n two \r\n\t three\r\nX-Next:\r\n four\r\n\r\n"
    parser, stream, response = ResponseParser(), head + b"\x81\x02\r\n", None
    while response is None:
        piece, stream = stream[:size], stream[size:]
        response = parser.feed(piece)
    assert response.headers["X-Folded"] == "one two  three"
    assert response.headers["X-Next"] == "four"
    assert parser.rest + stream == b"\x81\x02\r\n"


def test_a_fold_before_the_first_field_is_no_field():
    with pytest.raises(HandshakeError, match="unexpected|invalid|expected"):
        ResponseParser().feed(b"HTTP/1.1 101 Yes\r\n Upgrade: websocket\r\n\r\n")


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 0",
        "Content-Length: 5\r\nContent-Length: 5",
        "content-length: 0\r\nTransfer-Encoding: chunked",
        "Content-Length: none",
        "Transfer-Encoding: chunked",
    ],
)
def test_what_an_answer_without_a_body_says_of_its_length_counts_for_nothing(framing):
    interim = f"HTTP/1.1 103 Early\r\n{framing}\r\n\r\n".encode()
    answer = ACCEPTED[:-2] + f"{framing}\r\nX-Last: yes\r\n\r\n".encode()
    for size in (1, 1000):
        parser, stream, response = ResponseParser(), interim + answer + b"frames", None
        while response is None:
            piece, stream = stream[:size], stream[size:]
            response = parser.feed(piece)
        assert (response.status, response.headers["X-Last"]) == (101, "yes")
        assert parser.rest + stream == b"frames"


@pytest.mark.parametrize(
    ("stream", "sentence"),
    [
        (b"\x15\x03\x01\x00\x02\x02\x46", "server speaks TLS on this port; use wss://"),
        (b"\x00\x00\x12\x04\x00", "server speaks HTTP/2; offer only 'http/1.1' in ALPN"),
        (b"HTTP/2 200\r\n\r\n", "server speaks HTTP/2"),
        (b"RTSP/1.0 200 OK\r\n\r\n", "server speaks 'RTSP/1.0', expected 'HTTP/1.1'"),
        (b"SSH-2.0-OpenSSH\r\n", "bad answer from the server: expected http/"),
        (b"HTTP/1.1 200 OK\nA: b\n\n", "missing expected cr after response line"),
        (b"HTTP/1.1 101 Yes\r\nA: b\nB: c\r\n\r\n", "missing expected cr after header value"),
        (b"HTTP/1.1 101 Yes\r\nA: b\nB: c\n", "missing expected cr after header value"),
        (b"HTTP/1.1 101 Yes\r\nA: b\n", "missing expected cr after header value"),
        (b"HTTP/1.1 101 Yes\r\nContent-Length: 0\nB: c\r\n\r\n", "missing expected cr after"),
        (b"HTTP/1.1 101 Yes\r\nA: b\rB: c\r\n\r\n", "missing expected lf after header value"),
        (b"HTTP/1.1 200 OK\r\nA: b\r\nB\r\n\r\n", "invalid header token at 'B'"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "invalid character in content-length"),
    ],
)
def test_what_is_not_a_response_is_named(stream, sentence):
    for size in (len(stream), 1):
        parser = ResponseParser()
        with pytest.raises(HandshakeError) as caught:
            for at in range(0, len(stream), size):
                parser.feed(stream[at : at + size])
        assert caught.value.status == 0
        assert sentence in str(caught.value)


def test_a_server_that_hangs_up_within_its_head_is_named():
    parser = ResponseParser()
    parser.feed(b"HTTP/1.1 10")
    with pytest.raises(HandshakeError, match="closed the connection after 11 bytes of its answer"):
        parser.feed_eof()


# Writing


def test_a_request_is_written_as_it_is_read():
    request = RequestParser().feed(REQUEST)
    assert RequestParser().feed(write_request(request)) == request


def test_a_101_is_written_without_additions():
    response = Response(101, headers={"Upgrade": "websocket"})
    assert write_response(response) == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
    )


def test_a_text_response_is_plain_utf_8_and_ends_the_connection():
    assert write_response(Response(200, "é")) == (
        b"HTTP/1.1 200 OK\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Connection: close\r\n"
        b"Content-Length: 2\r\n"
        b"\r\n"
        b"\xc3\xa9"
    )


def test_bytes_are_octets_unless_the_headers_say_otherwise():
    assert b"Content-Type: application/octet-stream\r\n" in write_response(Response(200, b"x"))
    page = Response(200, b"x", {"content-type": "text/html"})
    assert write_response(page).lower().count(b"content-type") == 1
    assert Response(200, "x", {"content-type": "text/html"}).headers["Content-Type"] == "text/html"


def test_an_empty_response_has_a_length_and_no_type():
    assert write_response(Response(404)) == (
        b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    )


def test_a_response_that_may_have_no_body_announces_none():
    assert write_response(Response(204)) == b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
    with pytest.raises(ValueError, match="status 204 has no body"):
        write_response(Response(204, "x"))


def test_a_header_may_be_repeated():
    response = Response(101, headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
    assert b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n" in write_response(response)


def test_an_unknown_status_has_no_reason_unless_given():
    assert Response(599).reason == ""
    assert Response(599, reason="Odd").reason == "Odd"


@pytest.mark.parametrize("status", [0, 99, 1000])
def test_a_status_has_three_digits(status):
    with pytest.raises(ValueError, match=f"status {status} is not an HTTP status"):
        Response(status)


def test_a_response_cannot_be_changed():
    response = Response(200, "x")
    with pytest.raises(AttributeError):
        response.status = 500
    with pytest.raises(TypeError):
        response.headers["X"] = "y"


def test_tabs_and_latin_1_may_be_written():
    assert b"A: \t\xe9\r\n" in write_response(Response(101, headers={"A": "\té"}))


@pytest.mark.parametrize("character", ["\r", "\n", "\0", "\x7f", "\x0b", "\u2028", "€"])
def test_no_value_can_split_a_head(character):
    with pytest.raises(ValueError, match="no header may have"):
        write_response(Response(101, headers={"A": f"b{character}Set-Cookie: c"}))
    with pytest.raises(ValueError, match="no header may have"):
        write_response(Response(200, reason=f"OK{character}"))


@pytest.mark.parametrize("name", ["", "A B", "A:", "A\r\nB", "É", "A\0"])
def test_no_name_can_split_a_head(name):
    with pytest.raises(ValueError, match="is not a token"):
        write_response(Response(101, headers={name: "b"}))


@pytest.mark.parametrize("target", ["", "/a b", "/\r\nHost: b", "/é", "/\0"])
def test_no_target_can_split_a_head(target):
    with pytest.raises(ValueError, match="is not visible ASCII"):
        write_request(Request("GET", target, {}))


def test_no_method_can_split_a_head():
    with pytest.raises(ValueError, match="method 'GET /' is not a token"):
        write_request(Request("GET /", "/", {}))


def test_a_response_can_be_sent_to_another_process():
    response = Response(403, b"no", [("X-Why", "because"), ("X-Why", "of that")], "Not Here")
    there = pickle.loads(pickle.dumps(response))
    assert (there.status, there.body, there.reason) == (403, b"no", "Not Here")
    assert there.headers.getall("x-why") == ["because", "of that"]


# What is shown of a head, in tracebacks for one


def test_a_request_is_shown_without_its_query_and_without_what_may_be_a_secret():
    headers = CIMultiDict({"Host": "a.example", "Authorization": "s3cret", "X-Mine": "s3cret"})
    request = Request("GET", "/room?token=s3cret", headers)
    assert request.shown == "/room"
    assert repr(request) == "<Request GET /room Host: a.example, Authorization: ..., X-Mine: ...>"


def test_a_response_is_shown_without_its_body_and_without_what_may_be_a_secret():
    response = Response(401, b"s3cret", {"Server": "x", "Set-Cookie": "s3cret"})
    assert repr(response) == "<Response 401 Unauthorized Server: x, Set-Cookie: ...>"
