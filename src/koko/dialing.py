"""What a client asks for and what it accepts: the policy of dialing, as a ``Dialer``.

URLs, headers, cookies, proxies and redirects in; requests and verdicts out. Nothing
here knows a socket: the faces connect to the ``Target`` and carry the heads.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypedDict
from urllib.parse import quote, unquote_to_bytes, urljoin, urlsplit

from multidict import CIMultiDict

from koko import __version__
from koko.core import deflate
from koko.core.deflate import Agreed, Compression
from koko.core.handshake import (
    build_request,
    check_headers,
    check_response,
    check_subprotocols,
    make_key,
)
from koko.core.head import Headers, Request, Response
from koko.core.options import ConnectionOptions
from koko.errors import ErrBadHandshake

if TYPE_CHECKING:
    from http.cookiejar import CookieJar
    from ssl import SSLContext


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads: whom to connect to, what to ask for.

    Attributes:
        secure: TLS first (``wss``).
        host: the name or address to connect to, without brackets.
        port: explicit or the default of the scheme.
        resource: path and query, as the request line says them.
        authorization: the header that the user and password of the URL become.
        redirects: how many times we were sent on to come here.
        trusted: a redirect has never led away from the origin that was dialed. The
            credentials and the ``Host`` that the user gave are only for that one.
    """

    secure: bool
    host: str
    port: int
    resource: str
    authorization: str | None = field(default=None, repr=False)
    redirects: int = 0
    trusted: bool = True

    @property
    def url(self) -> str:
        """The URL without user and password."""
        return f"{'wss' if self.secure else 'ws'}://{self.host_header}{self.resource}"

    @property
    def host_header(self) -> str:
        """The value of ``Host``: the default port is left out."""
        host = f"[{self.host.partition('%')[0]}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.secure] else f"{host}:{self.port}"

    @property
    def origin(self) -> tuple[bool, str, int]:
        """What must stay the same for credentials to be sent on."""
        return self.secure, self.host, self.port


@dataclass(frozen=True, slots=True)
class Opened:
    """The server let us in: what was agreed."""

    subprotocol: str | None
    agreed: Agreed | None


class DialerOptions(TypedDict, total=False):
    """The options of ``Dialer``, for ``**options: Unpack[DialerOptions]``."""

    read_limit: int | None
    handshake_timeout: float | None
    close_timeout: float
    ping_interval: float | None
    ping_timeout: float | None
    compression: bool | Compression
    write_buffer_size: int
    subprotocols: Sequence[str]
    headers: Headers
    origin: str | None
    user_agent: str | None
    ssl: SSLContext | None
    server_hostname: str | None
    proxy: str | bool | None
    jar: CookieJar | None
    max_redirects: int


@dataclass(kw_only=True)
class Dialer(ConnectionOptions):
    """The options of a client, and its verdict on each answer.

    May be shared by any number of threads and tasks.

    Attributes:
        subprotocols: what we offer, the most wanted first.
        headers: sent with every handshake. ``Host`` here replaces that of the URL.
        origin: the header ``Origin``, for servers that expect a page.
        user_agent: the header ``User-Agent``; None for none.
        ssl: the context for ``wss``. None: the system's certificates, checked.
        server_hostname: the name that the certificate must have. None: that of the URL.
        proxy: True for the one in the environment (``HTTP_PROXY``, ``HTTPS_PROXY``,
            ``ALL_PROXY``, ``NO_PROXY``) or the system, a URL for that one, None for none.
        jar: cookies are sent from it and stored in it, also when we are refused.
        max_redirects: how many are followed; 0 for none. Never one from ``wss`` to
            ``ws``, and credentials never go to another origin.
    """

    subprotocols: Sequence[str] = ()
    headers: Headers = ()
    origin: str | None = None
    user_agent: str | None = f"koko/{__version__}"
    ssl: SSLContext | None = field(default=None, repr=False)
    server_hostname: str | None = None
    proxy: str | bool | None = True
    jar: CookieJar | None = None
    max_redirects: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_subprotocols(self.subprotocols)
        self.headers = check_headers(self.headers)
        if self.ssl is not None and not hasattr(self.ssl, "wrap_socket"):
            raise TypeError(f"ssl={self.ssl!r}: an ssl.SSLContext, or None for the default one")
        if self.jar is not None and not hasattr(self.jar, "add_cookie_header"):
            raise TypeError(f"jar={self.jar!r}: an http.cookiejar.CookieJar")
        if isinstance(self.proxy, str):
            _check_proxy(self.proxy)
        elif self.proxy not in (True, False, None):
            raise TypeError(f"proxy={self.proxy!r}: a URL, True for the environment's, or None")
        if type(self.max_redirects) is not int or self.max_redirects < 0:
            raise ValueError(f"max_redirects={self.max_redirects!r}: a number, 0 to follow none")

    @staticmethod
    def target(url: str) -> Target:
        """Return where ``url`` leads.

        Raises:
            ValueError: it is no ``ws`` or ``wss`` URL (§3).
        """
        return _parse(url)

    def proxy_for(self, target: Target) -> str | None:
        """Return the URL of the proxy to go through, None to connect directly."""
        if self.proxy is True:
            return _environment_proxy(target)
        return _check_proxy(self.proxy) if self.proxy else None

    def request(self, target: Target, headers: Headers | None = None) -> tuple[Request, str]:
        """Return an opening handshake and its key; ``headers`` replace those of the dialer."""
        key = make_key()
        request = build_request(
            target.host_header,
            target.resource,
            key,
            subprotocols=self.subprotocols,
            extensions=deflate.offer(self.deflate) if self.deflate else None,
            headers=self._headers(target, headers),
        )
        return request, key

    def _headers(self, target: Target, headers: Headers | None) -> CIMultiDict[str]:
        own = {
            "User-Agent": self.user_agent,
            "Origin": self.origin,
            "Authorization": target.authorization,
        }
        fields = CIMultiDict({name: value for name, value in own.items() if value is not None})
        fields.update(self.headers)
        fields.update(headers or ())
        if not target.trusted:
            for name in _FOR_ONE_ORIGIN:
                fields.popall(name, None)
        # A jar knows by itself which cookies a redirect may see.
        if (
            self.jar is not None
            and "Cookie" not in fields
            and (found := _cookies(self.jar, target))
        ):
            fields["Cookie"] = found
        return fields

    def conclude(self, target: Target, key: str, response: Response) -> Opened | Target:
        """Return what the answer to a handshake means: we are in, or have to go elsewhere.

        Cookies are stored first, be the answer what it may.

        Raises:
            ErrBadHandshake: the server refused, or broke the rules.
        """
        self.store_cookies(target, response)
        return self.redirect(target, response) or self.check(key, response)

    def store_cookies(self, target: Target, response: Response) -> None:
        """Keep the cookies of an answer in the jar, if there is one."""
        if self.jar is not None and "Set-Cookie" in response.headers:
            exchange: Any = (_CookieResponse(response), _CookieRequest(target))
            self.jar.extract_cookies(*exchange)

    def redirect(self, target: Target, response: Response) -> Target | None:
        """Return where an answer sends us, None if it does not.

        Raises:
            ErrBadHandshake: it sends us once too often, from ``wss`` to ``ws``, or to what
                is no URL.
        """
        location = response.headers.get("Location")
        if response.status not in _REDIRECTS or not location or self.max_redirects == 0:
            return None
        if target.redirects >= self.max_redirects:
            reason = f"redirected to {location!r}, one more than max_redirects={self.max_redirects}"
            raise ErrBadHandshake(reason, response)
        try:
            there = _parse(_HTTP.sub("ws", urljoin(target.url, location).partition("#")[0]))
        except ValueError as error:
            raise ErrBadHandshake(f"redirected to {location!r}: {error}", response) from None
        if target.secure and not there.secure:
            reason = f"redirected to {location!r}, from TLS to plain text, which is never followed"
            raise ErrBadHandshake(reason, response)
        same = there.origin == target.origin
        return replace(
            there,
            authorization=target.authorization if same else None,
            redirects=target.redirects + 1,
            trusted=target.trusted and same,
        )

    def check(self, key: str, response: Response) -> Opened:
        """Return what was agreed with the server that answered ``key``.

        Raises:
            ErrBadHandshake: it refused, or accepted what we did not offer.
        """
        subprotocol = check_response(response, key, self.subprotocols)
        chosen = response.headers.getall("Sec-WebSocket-Extensions", ())
        try:
            return Opened(subprotocol, deflate.accept(self.deflate, chosen))
        except ValueError as error:
            raise ErrBadHandshake(str(error), response) from None


_PORTS = {True: 443, False: 80}  # §3, by "is it secure"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_FOR_ONE_ORIGIN = ("Authorization", "Cookie", "Host", "Proxy-Authorization")

_HTTP = re.compile(r"^http(?=s?:)", re.IGNORECASE)
_NOT_IN_URL = re.compile(r"[\x00-\x20\x7f]")
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
_ADDRESS = re.compile(r"[0-9a-f:.]+(%[a-z0-9._~-]+)?")


def _parse(url: str) -> Target:
    # urlsplit would drop line ends and blanks in silence. No message here shows the whole
    # URL: it may hold a password.
    if found := _NOT_IN_URL.search(url):
        raise ValueError(f"URL has {found[0]!r}; write it as {quote(found[0])}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # it would quote what may be half a password
        raise ValueError("URL has a host or a port that cannot be read (RFC 3986 §3.2)") from None
    if parts.scheme not in ("ws", "wss"):
        meant = {"http": "ws", "https": "wss"}.get(parts.scheme, "ws")
        raise ValueError(f"URL has the scheme {parts.scheme!r}, write {meant!r} (RFC 6455 §3)")
    if "#" in url:
        raise ValueError(f"URL has the fragment {parts.fragment!r}; it may have none (RFC 6455 §3)")
    if not parts.hostname or port == 0:
        raise ValueError("URL has no host, or port 0; write ws://host[:port]/path (RFC 6455 §3)")
    secure = parts.scheme == "wss"
    resource = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(
        secure,
        _host(parts.hostname),
        port or _PORTS[secure],
        quote(resource, safe="!$%&'()*+,/:;=?@[]~"),
        _basic(parts.username, parts.password),
    )


def _host(name: str) -> str:
    if ":" in name:
        address = name.replace("%25", "%")  # RFC 6874: the zone of a link-local address
        if _ADDRESS.fullmatch(address):
            return address
    else:
        try:
            ascii_name = name if name.isascii() else name.encode("idna").decode()
        except UnicodeError as error:
            raise ValueError(
                f"URL has the host {name!r}, no internationalised name: {error}"
            ) from None
        if _NAME.fullmatch(ascii_name):
            return ascii_name
    raise ValueError(f"URL has the host {name!r}, which is neither a name nor an address")


def _basic(user: str | None, password: str | None) -> str | None:
    if user is None:
        return None
    pair = unquote_to_bytes(user) + b":" + unquote_to_bytes(password or "")  # RFC 7617
    return f"Basic {b64encode(pair).decode()}"


# Proxies

_PROXIES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")


def _check_proxy(url: str) -> str:
    scheme = url.partition("://")[0] if "://" in url else "http"  # as curl reads it
    if scheme.lower() not in _PROXIES:
        raise ValueError(f"proxy has the scheme {scheme!r}, expected one of {', '.join(_PROXIES)}")
    return url if "://" in url else f"http://{url}"


def _environment_proxy(target: Target) -> str | None:
    from urllib.request import getproxies, proxy_bypass  # 60 ms, only for whom needs it

    host = f"[{target.host}]" if ":" in target.host else target.host
    if proxy_bypass(f"{host}:{target.port}"):
        return None
    proxies = getproxies()
    found = proxies.get("https" if target.secure else "http") or proxies.get("all")
    return _check_proxy(found) if found else None


# Cookies: what http.cookiejar wants of urllib's requests and responses, and no more


class _CookieRequest:
    unverifiable = False

    def __init__(self, target: Target) -> None:
        self.type = "https" if target.secure else "http"
        self.host = target.host_header
        self.origin_req_host = target.host
        self._resource = target.resource
        self.cookies = ""

    def get_full_url(self) -> str:
        return f"{self.type}://{self.host}{self._resource}"

    def has_header(self, name: str) -> bool:
        return False

    def add_unredirected_header(self, name: str, value: str) -> None:
        if name == "Cookie":
            self.cookies = value


class _CookieResponse:
    def __init__(self, response: Response) -> None:
        self._headers = response.headers

    def info(self) -> _CookieResponse:
        return self

    def get_all(self, name: str, default: list[str]) -> list[str]:
        return self._headers.getall(name, default)


def _cookies(jar: CookieJar, target: Target) -> str:
    request: Any = _CookieRequest(target)
    jar.add_cookie_header(request)
    return str(request.cookies)
