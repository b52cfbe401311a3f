"""Which requests a server accepts: the policy of an opening handshake, as an ``Upgrader``.

A request comes in, ``Accepted`` or ``Refused`` comes out, each with the response to
send. Nothing here knows a socket or a framework; a refusal says in one sentence what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, TypedDict

from multidict import CIMultiDict

from koko.core import deflate
from koko.core.deflate import Agreed, Compression
from koko.core.names import check_names
from koko.core.options import ConnectionOptions
from koko.errors import HandshakeError
from koko.http import Headers, Request, Response
from koko.misuse import BOTH, check_returned, is_async, name_of
from koko.opening import forwarded
from koko.opening.forwarded import DIRECT, Source
from koko.opening.handshake import (
    accept_response,
    check_headers,
    check_request,
    check_subprotocols,
    is_refusal,
    refusal,
    subprotocols,
)
from koko.opening.proxy_protocol import ProxyHeader, ProxyHeaderError


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request that is accepted: the 101 to send and what was agreed."""

    response: Response
    subprotocol: str | None
    agreed: Agreed | None


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that is refused: the response to send and why."""

    response: Response
    error: HandshakeError


@dataclass(frozen=True, slots=True, repr=False)
class UpgradableRequest(Request):
    """A request to our own server, as ``http=`` gets it: it may still be upgraded.

    ``handshake`` is the ``OpeningHandshake`` of the face that made it.
    """

    handshake: Any = field(kw_only=True, repr=False, compare=False)


class UpgraderOptions(TypedDict, total=False):
    """The options of ``Upgrader``, for ``**options: Unpack[UpgraderOptions]``."""

    read_limit: int | None
    head_limit: int
    handshake_timeout: float | None
    close_timeout: float
    ping_interval: float | None
    ping_timeout: float | None
    compression: bool | Compression
    write_buffer_size: int
    origins: Sequence[str | re.Pattern[str]] | None
    check_origin: Callable[[Request], bool] | None
    subprotocols: Sequence[str] | None
    select_subprotocol: Callable[[Request, list[str]], str | None] | None
    error: Callable[[Request, HandshakeError], Response] | None
    trusted_proxies: Sequence[str] | None


SERVER_OPTIONS = (
    *("host", "port", "http", "max_connections", "proxy_protocol"),
    *("reuse_port", "sock", "ssl", "upgrader", "logger"),
)


def check_server_options(call: str, upgrader: object, options: Collection[str]) -> None:
    """Raise for unknown options, and for options beside an ``upgrader`` that has them already."""
    check_names(call, (*UpgraderOptions.__annotations__, *SERVER_OPTIONS), options)
    if upgrader is not None and options:
        raise TypeError(f"give upgrader= or its options, not both: {', '.join(options)}")


@dataclass(kw_only=True)
class Upgrader(ConnectionOptions):
    """The options of a server, and its decision on each request.

    May be shared by any number of threads and tasks.

    Attributes:
        origins: the pages that may connect, as ``scheme://host[:port]`` with ``*`` for
            any part of a host or for any port, or as a compiled pattern for the whole
            origin. Origins of apps are written as sent: ``"capacitor://localhost"``,
            ``"file://"``, ``"null"``. ``"*"`` lets every page in. None: the page's host and
            port must be those of the ``Host`` header. A request without ``Origin`` is always
            let in: every browser sends one, and any other client could send what it likes.
        check_origin: decides instead of ``origins``.
        subprotocols: the ones we speak; the first of them in the client's order is chosen.
            None: the one that ``headers`` of ``decide`` name, if any.
        select_subprotocol: chooses instead of ``subprotocols`` from the client's offers,
            None for none; may raise ``HandshakeError`` to refuse.
        error: a function that makes the response to a refused client, instead of plain text.
        trusted_proxies: the proxies in front, as addresses, networks (``"10.0.0.0/8"``) and
            ``"unix"`` for every client of a Unix socket. What they say in
            ``X-Forwarded-For``, ``-Proto`` and ``-Host`` or in ``Forwarded`` (RFC 7239) is
            believed: the address becomes ``remote_address`` and stands in the log; an origin
            is compared with the host and the scheme. None: no proxy is believed.
    """

    origins: Sequence[str | re.Pattern[str]] | None = None
    check_origin: Callable[[Request], bool] | None = None
    subprotocols: Sequence[str] | None = None
    select_subprotocol: Callable[[Request, list[str]], str | None] | None = None
    error: Callable[[Request, HandshakeError], Response] | None = None
    trusted_proxies: Sequence[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("check_origin", "select_subprotocol", "error"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise TypeError(f"{name} is a function, not {value!r}")
            if value is not None and is_async(value):
                raise TypeError(
                    f"{name}={name_of(value)} must be a plain function on both faces; to wait, "
                    "use http= of Server(None, ...), which may await and then call upgrade()"
                )
        for name in ("origins", "subprotocols", "trusted_proxies"):
            if not isinstance(value := getattr(self, name), Iterable | None):
                raise TypeError(f"{name}={value!r}, expected a list")
        if self.origins is not None:
            _check_origins(self.origins)
            if self.check_origin:
                raise ValueError("origins= and check_origin= both decide; give one of them")
        if self.subprotocols is not None:
            check_subprotocols(self.subprotocols)
            if self.select_subprotocol:
                raise ValueError("subprotocols= and select_subprotocol= both choose; give one")
        if self.trusted_proxies is not None:
            _check_proxies(self.trusted_proxies)

    def decide(
        self,
        request: Request,
        headers: Headers | None = None,
        *,
        secure: bool = False,
        host: str | None = None,
    ) -> Accepted | Refused:
        """Accept or refuse an opening handshake.

        Args:
            request: its head.
            headers: what to add to the 101, such as ``Set-Cookie``.
            secure: the client is known to use TLS. Then a page that was loaded without TLS
                is of another origin, since its port differs.
            host: the host that the client asked for, if a trusted proxy tells it; None: the
                one in the header ``Host``.

        Raises:
            ValueError: ``headers`` has a name that only the handshake may write, or
                ``select_subprotocol`` chose what was not offered.
        """
        extra = CIMultiDict(headers) if headers else None
        try:
            check_request(request)
            subprotocol = self._let_in(request, extra, secure, host)
            extensions, agreed = self._agree(request)
        except HandshakeError as refused:
            return self._refuse(request, refused)
        key = request.headers["Sec-WebSocket-Key"]
        return Accepted(accept_response(key, subprotocol, extensions, extra), subprotocol, agreed)

    def decide_checked(
        self,
        request: Request,
        headers: Headers | None = None,
        *,
        secure: bool = False,
        host: str | None = None,
    ) -> Accepted | Refused:
        """Do as ``decide`` for a handshake that another server answers.

        It has checked the head, which over HTTP/2 is another one, and agrees on extensions. The
        response holds what is to be added to its own.
        """
        extra = CIMultiDict(headers) if headers else None
        try:
            subprotocol = self._let_in(request, extra, secure, host)
        except HandshakeError as refused:
            return self._refuse(request, refused)
        fields = check_headers(extra)
        if subprotocol:
            fields["Sec-WebSocket-Protocol"] = subprotocol
        return Accepted(Response(101, b"", fields), subprotocol, None)

    def _let_in(
        self, request: Request, extra: CIMultiDict[str] | None, secure: bool, host: str | None
    ) -> str | None:
        """Return the subprotocol of a page that may connect."""
        self._check_origin(request, secure, host)
        return self._choose_subprotocol(request, extra)

    def _refuse(self, request: Request, error: HandshakeError) -> Refused:
        if not is_refusal(error):
            raise error
        response = refusal(error) if self.error is None else self.error(request, error)
        check_returned("error=", self.error, response, BOTH)
        if not isinstance(response, Response):
            raise TypeError(f"error= returned {response!r}, expected a Response")
        if response.status == 101:
            raise ValueError("error= returned a 101, which would tell the client it is let in")
        error.response = response
        return Refused(response, error)

    def _check_origin(self, request: Request, secure: bool, host: str | None) -> None:
        given = request.headers.getall("Origin", ())
        if len(given) > 1:  # two could be read differently by a proxy and by us
            raise HandshakeError(403, f"header 'Origin' came {len(given)} times (RFC 6454 §7.3)")
        origin = given[0] if given else None
        if self.check_origin is not None:
            welcome, rule = self.check_origin(request), "was refused by check_origin="
            check_returned("check_origin=", self.check_origin, welcome, BOTH)  # it would be true
        elif origin is None:
            return
        elif self.origins is not None:
            welcome = any(_matches(origin, pattern) for pattern in self.origins)
            rule = f"is not in origins={list(self.origins)!r}"
        else:
            host = host or request.headers.get("Host", "")
            welcome, rule = _is_same(origin, host, secure), f"is not the host {host!r}"
        if not welcome:
            error = HandshakeError(403, f"origin {origin!r} {rule}")
            error.advice = self._advice(origin, request)
            raise error

    def _advice(self, origin: str | None, request: Request) -> str:
        if self.check_origin is not None:
            return ""
        said = f"to let this page in, add {origin!r} to origins="
        if self.origins is None:
            said += (
                "; behind a proxy, have it pass the public host on "
                "(nginx: proxy_set_header Host $http_host)"
            )
            if self.trusted_proxies is None and forwarded.tells_host(request.headers):
                said += ", or name it in trusted_proxies=, as it passes another header"
        return said

    def _choose_subprotocol(self, request: Request, extra: CIMultiDict[str] | None) -> str | None:
        if self.select_subprotocol is not None:
            offered = subprotocols(request)
            chosen = self.select_subprotocol(request, offered)
            check_returned("select_subprotocol=", self.select_subprotocol, chosen, BOTH)
            if chosen is not None and chosen not in offered:  # some clients offer their token
                raise ValueError(f"select_subprotocol= chose {chosen!r}, which was not offered")
            return chosen
        if self.subprotocols is not None:
            spoken = self.subprotocols
            return next((name for name in subprotocols(request) if name in spoken), None)
        if extra is None:
            return None
        # §4.2.2: what the client did not offer must not be answered, whatever ``headers`` say.
        chosen = extra.popall("Sec-WebSocket-Protocol", [None])[0]
        return chosen if chosen is not None and chosen in subprotocols(request) else None

    def _agree(self, request: Request) -> tuple[str | None, Agreed | None]:
        offers = request.headers.getall("Sec-WebSocket-Extensions", ())
        if not offers or self.deflate is None:
            return None, None
        try:
            return deflate.answer(self.deflate, offers) or (None, None)
        except ValueError as malformed:
            raise HandshakeError(400, str(malformed)) from None


# Proxies in front


def _check_proxies(proxies: Sequence[str]) -> None:
    if isinstance(proxies, str):
        raise TypeError(f"trusted_proxies={proxies!r}: a list, as in [{proxies!r}]")
    forwarded.trusted(tuple(proxies))


def source_of(
    upgrader: Upgrader,
    request: Request,
    peer: Any,
    secure: bool,
    proxied: ProxyHeader | None = None,
) -> Source:
    """Return where a request came from: from ``peer``, or as its trusted proxies tell.

    ``peer`` is the address at the other end of the connection, and ``secure`` says that it is TLS.
    What ``proxied`` passes on is its client's stream: then the headers are that one's.
    """
    if proxied is not None and not proxied.local:
        peer, secure = proxied.source, secure or proxied.secure
    proxies = upgrader.trusted_proxies
    if proxies is None:
        source = DIRECT[secure]
    else:
        trusted = forwarded.trusted(tuple(proxies))
        source = forwarded.source_of(request.headers, peer, secure, trusted)
    if proxied is not None and source.address is None:
        return source._replace(address=proxied.source)
    return source


def check_proxy(upgrader: Upgrader, peer: Any) -> None:
    """Raise unless a PROXY header is taken from this peer: from anybody where nobody is named."""
    proxies = upgrader.trusted_proxies
    if proxies is not None and not forwarded.trusted(tuple(proxies)).holds(peer):
        raise ProxyHeaderError("a PROXY header is taken from trusted_proxies= only", advice="")


# Origins (RFC 6454): scheme, host and port; the port of a scheme may be left out

_PORTS = {"http": "80", "https": "443"}
_SCHEME = r"(?P<scheme>[a-z][a-z0-9+.-]*)://"
_BRACKETS = r"\[[0-9a-f:.]+\]"  # an IPv6 address
_ORIGIN = re.compile(rf"{_SCHEME}(?P<host>[a-z0-9._-]{{0,255}}|{_BRACKETS})(:(?P<port>[0-9]+))?")
_PATTERN = re.compile(rf"{_SCHEME}(?P<host>[a-z0-9._*-]*|{_BRACKETS})(:(?P<port>[0-9]+|\*))?")
_HOST = re.compile(rf"(?P<host>[a-z0-9._-]+|{_BRACKETS})(:(?P<port>[0-9]*))?")


def _check_origins(origins: Sequence[str | re.Pattern[str]]) -> None:
    if isinstance(origins, str) and origins != "*":
        raise TypeError(f"origins={origins!r}, expected a list, as in [{origins!r}]")
    for pattern in origins:
        if isinstance(pattern, str):
            _compiled(pattern)
        elif not isinstance(pattern, re.Pattern):
            raise TypeError(f"origins: {pattern!r} is neither a str nor a compiled pattern")


def _matches(origin: str, pattern: str | re.Pattern[str]) -> bool:
    if isinstance(pattern, re.Pattern):
        return pattern.fullmatch(origin) is not None
    if pattern in ("*", origin):
        return True
    rule, page = _compiled(pattern), _ORIGIN.fullmatch(origin.lower())
    if rule is None or page is None or page["scheme"] != rule.scheme:
        return False
    port = page["port"] or _PORTS.get(rule.scheme)
    return rule.port in ("*", port) and rule.host.fullmatch(page["host"]) is not None


class _Rule(NamedTuple):
    scheme: str
    host: re.Pattern[str]
    port: str | None


@lru_cache
def _compiled(pattern: str) -> _Rule | None:
    """Return the rule that a string in ``origins`` stands for, None for ``*`` and ``null``."""
    if pattern in ("*", "null"):
        return None
    parts = _PATTERN.fullmatch(pattern.lower())
    if parts is None or (parts["scheme"] in _PORTS and not parts["host"]):
        raise ValueError(
            f"origins: {pattern!r} is not '*', 'null' or scheme://host[:port], as in "
            "'https://app.example'; an origin has no path"
        )
    host = re.compile(".*".join(map(re.escape, parts["host"].split("*"))))
    return _Rule(parts["scheme"], host, parts["port"] or _PORTS.get(parts["scheme"]))


def _is_same(origin: str, host: str, secure: bool) -> bool:
    page, here = _ORIGIN.fullmatch(origin.lower()), _HOST.fullmatch(host.lower())
    if page is None or here is None or page["scheme"] not in _PORTS:
        return False
    # A proxy in front may do TLS: then a Host without a port means the default port of the
    # page's scheme, unless we know that the client uses TLS with us.
    default = _PORTS[page["scheme"]]
    port = here["port"] or (_PORTS["https"] if secure else default)
    return page["host"] == here["host"] and (page["port"] or default) == port
