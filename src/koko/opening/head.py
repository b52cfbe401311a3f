"""An HTTP/1.1 request or response head: read by httptools within limits, written by us.

Every byte read here may be hostile. So Koko itself finds the end of the head, and httptools
never sees what follows; a head that is too large or not HTTP is refused as soon as that is
known. Every head written here is checked against response splitting. ``handshake`` knows
what the fields mean.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserUpgrade,
    HttpRequestParser,
    HttpResponseParser,
)
from multidict import CIMultiDict, CIMultiDictProxy, MultiMapping, istr

from koko.errors import HandshakeError
from koko.http import Request, Response

MAX_BYTES = 16384
MAX_FIELDS = 128  # or one for each 128 bytes, where more bytes are allowed
MAX_REFUSAL_BODY = 1024  # what is read of the body of an answer that is not 101

BODILESS = frozenset({*range(100, 200), 204, 304})  # RFC 9110 §6.4.1

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2
field_name = lru_cache(maxsize=128)(istr)  # headers that have the same name share one string
_FOLD = re.compile(rb"\r\n[ \t]+")
_FRAMING = re.compile(rb"\n(?:content-length|transfer-encoding):[^\r\n]*\r(?=\n)", re.IGNORECASE)
_BARE_LF = re.compile(rb"(?<!\r)\n")
_START_LINE = re.compile(rb"[^\r\n]++\r\n")
_SHOWN_OF_START_LINE = re.compile(rb"[^?:]{,60}")  # neither a query nor a password
_SHOWN_OF_FIELD = re.compile(rb"[^?:\s]{,60}[ \t]?")  # its name
_TARGET = re.compile(r"[!-~]+")
_UNSAFE = re.compile(r"[^\t -~\x80-\xff]")  # RFC 9110 §5.5: no CR, LF, NUL, no other control


class _Lines:
    """Takes httptools' callbacks. The parser cannot: it would be in a reference cycle with it."""

    __slots__ = ("body", "complete", "ended", "start")

    def __init__(self) -> None:
        self.start: list[bytes] = []  # the target, or the reason phrase, in pieces
        self.complete = self.ended = False
        self.body = bytearray()

    def on_url(self, piece: bytes) -> None:
        self.start.append(piece)

    on_status = on_url

    def on_headers_complete(self) -> None:
        self.complete = True

    def on_body(self, piece: bytes) -> None:
        if not self.ended:  # what follows the response is ignored
            self.body += piece[: MAX_REFUSAL_BODY - len(self.body)]

    def on_message_complete(self) -> None:
        self.ended = True

    def text(self) -> str:
        return b"".join(self.start).decode("latin-1")


class _HeadParser:
    """Cuts one head out of the bytes that arrive and shows it to httptools."""

    _httptools: type[HttpRequestParser] | type[HttpResponseParser]
    _parser: HttpRequestParser | HttpResponseParser
    # How other protocols begin, the status to answer with, and the sentence.
    _other_protocols: tuple[tuple[bytes, int, str], ...]

    def __init__(self, max_bytes: int = MAX_BYTES, max_fields: int = MAX_FIELDS) -> None:
        self.rest = b""
        self._max_bytes = max_bytes
        self._max_fields = max(max_fields, max_bytes // 128)
        self._room = max_bytes
        self._skipping = b"\r\n"
        self._begin()

    def _begin(self) -> None:
        self._head = bytearray()
        self._shown = 0
        self._first_line = True
        self._lines = _Lines()
        self._parser = self._httptools(self._lines)

    def _advance(self, data: bytes) -> bool:
        """Take what belongs to the head; tell whether the head is whole."""
        if self._skipping:
            data = self._skip_empty_line(data)
        head, have = self._head, len(self._head)
        head += data[: self._room + 1]
        end = head.find(b"\r\n\r\n", max(have - 3, 0))
        whole = end >= 0
        if whole:
            del head[end + 4 :]
            self.rest = data[len(head) - have :]
        self._room -= len(head) - have
        self._show(have, whole)
        if self._room < 0:
            raise self._error(431, f"head is larger than the limit of {self._max_bytes} bytes")
        return whole

    def _skip_empty_line(self, data: bytes) -> bytes:
        # RFC 9112 §2.2: one CRLF before the start line is ignored. Only one, and no bare LF.
        while data and self._skipping:
            if data[0] == self._skipping[0]:
                data, self._skipping = data[1:], self._skipping[1:]
                self._room -= 1
            elif self._skipping == b"\n":
                raise self._error(400, "expected a start line at '\\r' (RFC 9112 §2.2)")
            else:
                self._skipping = b""
        return data

    def _show(self, have: int, whole: bool) -> None:
        # The first line goes to httptools as it arrives, so that what is not HTTP is
        # refused at its first byte. The fields go by whole lines: httptools joins the
        # pieces of a field by copying, which one byte at a time would be quadratic.
        newline = self._head.rfind(b"\n", have) + 1
        if newline:
            self._first_line = False
        until = len(self._head) if whole or self._first_line else self._last_whole(newline)
        if until > self._shown:
            self._parse(bytes(self._head[self._shown : until]))
            self._shown = until
        if newline and self._head.count(b"\n") > self._max_fields + 1 + whole:
            raise self._error(431, f"head has more than {self._max_fields} fields")
        # httptools skips any number of empty lines, even bare LFs. It also accepts a bare LF
        # where a target should be, which would hide a field.
        if whole and not (self._lines.complete and _START_LINE.match(self._head)):
            raise self._explain("expected a start line")

    def _last_whole(self, newline: int) -> int:
        return newline  # the lines before it

    def _parse(self, piece: bytes) -> None:
        try:
            self._parser.feed_data(piece)
        except HttpParserUpgrade:  # the end of every good handshake
            pass
        except HttpParserCallbackError as error:
            # An interrupt: our callbacks never fail. ``make interrupts`` comes here.
            raise error.__context__ or error from None  # pragma: no cover
        except HttpParserError as error:
            if not self._lines.complete:  # else: a 101 without its tokens, which is a whole head
                raise self._explain(str(error)) from None

    def _fields(self) -> list[tuple[str, str]]:
        # httptools has checked that each line is one field, not folded, and ends in CRLF. A
        # callback for each field would cost as much as all else that it does.
        pairs = [line.partition(":") for line in self._head.decode("latin-1").split("\r\n")[1:-2]]
        return [(field_name(name), value.strip(" \t")) for name, _, value in pairs]

    def _explain(self, complaint: str) -> HandshakeError:
        for pattern, status, sentence in self._other_protocols:
            if found := re.match(pattern, self._head):
                value = found[found.lastindex or 0].decode("latin-1")
                return self._error(status, sentence.format(value))
        return self._error(400, f"{complaint.lower()} at {self._culprit()!r} (RFC 9112 §2.2, §5)")

    def _culprit(self) -> str:
        """Return the line httptools refused, without queries and values, which may be secret."""
        parser = self._httptools(object())
        shown = _SHOWN_OF_START_LINE
        for line in bytes(self._head).split(b"\n"):
            try:
                parser.feed_data(line + b"\n")
            except (HttpParserError, HttpParserUpgrade):
                break
            shown = _SHOWN_OF_FIELD
        return shown.match(line)[0].decode("latin-1")  # type: ignore[index]  # matches "", too

    def _error(self, status: int, sentence: str) -> HandshakeError:
        return HandshakeError(status, sentence)


class RequestParser(_HeadParser):
    """Reads the head of one request; what came after it is in ``rest``."""

    _httptools = HttpRequestParser
    _parser: HttpRequestParser
    _other_protocols = (
        (rb"\x16", 400, "peer speaks TLS (wss://), this port plain HTTP (ws://)"),
        (rb"PROX|\s*\0\r\nQUIT", 400, "peer sends a PROXY header, and proxy_protocol= is not set"),
        (rb".* (HTTP/(?!1\.[01])\d\S{0,3})", 505, "peer speaks {!r}, expected 'HTTP/1.1'"),
    )

    def feed(self, data: bytes) -> Request | None:
        """Take what arrived and return the request, None while its head is not whole.

        Raises:
            HandshakeError: the peer sent something that is not a request for a WebSocket
                server; ``status`` is the answer to give. Nothing may be fed after that.
        """
        if not self._advance(data):
            return None
        version = self._version()
        headers = CIMultiDictProxy(CIMultiDict(self._fields()))
        self._check(headers, version)
        return Request(self._parser.get_method().decode(), self._lines.text(), headers, version)

    def _version(self) -> str:
        # httptools also reads RTSP and ICE and reports their versions as HTTP's.
        end = self._head.find(b"\r\n")
        name = self._head[max(end - 9, 0) : end].decode("latin-1")
        if name not in (" HTTP/1.1", " HTTP/1.0"):
            # A line without a version may end with a query, which may be secret.
            ends = f"ends with {name!r}" if re.match(" [A-Z]+/", name) else "names no version"
            raise self._error(505, f"request line {ends}, expected ' HTTP/1.1'")
        return name[6:]

    def _check(self, headers: MultiMapping[str], version: str) -> None:
        # RFC 9112 §3.2: exactly one Host; only HTTP/1.0 may do without.
        hosts = len(headers.getall("Host", ()))
        if hosts != 1 and (hosts or version == "1.1"):
            raise self._error(400, f"header 'Host' came {hosts} times, not once (RFC 9112 §3.2)")
        if length := headers.get("Content-Length", "").lstrip("0"):
            raise self._error(413, f"request has a body of {length} bytes; none is read here")
        if "Transfer-Encoding" in headers:
            raise self._error(413, "request has a body of unknown length; none is read here")


class ResponseParser(_HeadParser):
    """Reads one response and, when it is a refusal, the beginning of its body.

    Interim answers (100, 103) are skipped; they count towards ``max_bytes``. What
    came after the head of a 101 is in ``rest``. Errors have status 0: a client does not answer.

    A client accepts more than a server: folded fields are unfolded (RFC 9112 §5.2), and the
    length that an answer without a body announces is ignored (RFC 9112 §6.3).
    """

    _httptools = HttpResponseParser
    _parser: HttpResponseParser
    _bodiless = re.compile(rb"HTTP/1\.[01] 1\d\d[ \r]")
    _other_protocols = (
        (rb"[\x15\x16]", 0, "server speaks TLS on this port; use wss://"),
        (rb"\0|HTTP/2", 0, "server speaks HTTP/2; offer only 'http/1.1' in ALPN (RFC 6455 §4.1)"),
    )

    def __init__(self, max_bytes: int = MAX_BYTES, max_fields: int = MAX_FIELDS) -> None:
        super().__init__(max_bytes, max_fields)
        self._response: Response | None = None  # without its body

    def feed(self, data: bytes) -> Response | None:
        """Take what arrived and return the response, None while more is needed.

        A 101 is whole with its head; any other answer when its body has ended or 1 KiB is here.

        Raises:
            HandshakeError: the server sent what is not an HTTP/1.1 response.
        """
        while self._response is None:
            if not self._advance(data):
                return None
            data, self.rest = self.rest, b""
            self._take_head()
        if self._response.status == 101:
            self.rest = data
            return self._response
        return self._take_body(data)

    @property
    def begun(self) -> bool:
        """Whether any of the answer has come."""
        return self._room < self._max_bytes

    def feed_eof(self) -> Response:
        """Return the response at the end of the stream, which may be the end of a body.

        Raises:
            HandshakeError: the head was incomplete.
        """
        if self._response is None:
            came = self._max_bytes - self._room
            raise self._error(0, f"server closed the connection after {came} bytes of its answer")
        return replace(self._response, body=bytes(self._lines.body))

    def _show(self, have: int, whole: bool) -> None:
        if whole:
            self._tidy()
            have = 0  # the head has changed, so the parser must see it from the beginning
        super()._show(have, whole)

    def _last_whole(self, newline: int) -> int:
        if newline and _BARE_LF.search(self._head):
            return newline  # a bare LF: the head may never end, so refuse it now
        return self._head.find(b"\n") + 1  # a folded field goes on after the end of its line

    def _tidy(self) -> None:
        head = self._head
        if b"\n " in head or b"\n\t" in head:
            start, newline, fields = head.partition(b"\r\n")  # the first line cannot be folded
            head[:] = start + newline + _FOLD.sub(b" ", fields)
        if _FRAMING.search(head) and self._bodiless.match(head):
            head[:] = _FRAMING.sub(b"", head)

    def _take_head(self) -> None:
        status = self._parser.get_status_code()
        name = self._head[:8].decode("latin-1")
        if not name.startswith("HTTP/1."):  # httptools also reads RTSP and ICE
            raise self._error(0, f"server speaks {name!r}, expected 'HTTP/1.1'")
        if status >= 200 or status == 101:
            self._response = Response(status, b"", self._fields(), self._lines.text())
        else:
            self._begin()

    def _take_body(self, data: bytes) -> Response | None:
        seen = self._lines
        if not seen.ended:
            try:
                self._parser.feed_data(data)
            except HttpParserCallbackError as error:
                raise error.__context__ or error from None  # pragma: no cover
            except HttpParserError:  # show as much of a refusal as could be read
                seen.ended = True
        return self.feed_eof() if seen.ended or len(seen.body) == MAX_REFUSAL_BODY else None

    def _error(self, status: int, sentence: str) -> HandshakeError:
        return HandshakeError(0, f"bad answer from the server: {sentence}")


def write_request(request: Request) -> bytes:
    """Return the bytes of a request.

    Raises:
        ValueError: a name, a value or the target could split the head.
    """
    if not TOKEN.fullmatch(request.method):
        raise ValueError(f"method {request.method!r} is not a token (RFC 9110 §9.1)")
    if not _TARGET.fullmatch(request.target):
        raise ValueError(f"target {request.shown!r} is not visible ASCII (RFC 9112 §3.2)")
    return _write(f"{request.method} {request.target} HTTP/{request.version}", request.headers)


def write_response(response: Response) -> bytes:
    """Return the bytes of a response.

    Unless it is a 101, it gets ``Content-Length``, ``Content-Type`` and ``Connection: close``
    where these are not given.

    Raises:
        ValueError: a name, a value or the reason could split the head.
    """
    headers = response.headers
    if response.body and response.status in BODILESS:
        raise ValueError(f"a response with status {response.status} has no body (RFC 9110 §6.4.1)")
    if response.status != 101:
        headers = _complete(response)
    return _write(f"HTTP/1.1 {response.status} {response.reason}", headers) + response.body


def _complete(response: Response) -> CIMultiDict[str]:
    headers = CIMultiDict(response.headers)
    headers.setdefault("Connection", "close")
    if response.body:
        headers.setdefault("Content-Type", "application/octet-stream")
    if response.status not in BODILESS:
        headers.setdefault("Content-Length", str(len(response.body)))
    return headers


def _write(first: str, headers: MultiMapping[str]) -> bytes:
    lines = [first]
    for name, value in headers.items():
        check_name(name)
        lines.append(f"{name}: {value}")
    # One check of the whole is enough for almost every head. The exact rule costs a search
    # for each line, so it is applied only where something unusual is found.
    everything = "".join(lines)
    if not (everything.isascii() and everything.isprintable()):
        for line in lines:
            check_line(line)
    lines.append("\r\n")
    return "\r\n".join(lines).encode("latin-1")


@lru_cache(maxsize=256)
def check_name(name: str) -> None:
    """Raise ``ValueError`` unless ``name`` may be the name of a header."""
    if not TOKEN.fullmatch(name):
        raise ValueError(f"header name {name!r} is not a token (RFC 9110 §5.1)")


def check_line(line: str) -> None:
    """Raise ``ValueError`` for a line that could split a head."""
    if found := _UNSAFE.search(line):
        shown = line.partition(":")[0]  # the value may be a secret
        raise ValueError(f"{shown!r} has {found[0]!r}, which no header may have (RFC 9110 §5.5)")
