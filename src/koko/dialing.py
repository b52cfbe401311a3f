"""The options of a client, as a ``Dialer``: what it asks for and which answers it accepts.

It knows no socket and no order of steps; ``dial_plan`` puts the steps in order.

The logger ``koko.dialing`` logs each step of a dial at DEBUG, and never a header, a user or a
password.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any, Self, TypedDict
from urllib.parse import urljoin

from multidict import CIMultiDict

from koko import __version__
from koko.core import deflate
from koko.core.deflate import Agreed, Compression
from koko.core.names import check_names
from koko.core.options import ConnectionOptions
from koko.errors import ErrBadHandshake
from koko.http import Headers, Request, Response
from koko.logs import tell
from koko.misuse import BOTH, check_context, check_returned, is_async, name_of
from koko.opening import cookies
from koko.opening.handshake import (
    build_request,
    check_fields,
    check_headers,
    check_response,
    check_subprotocols,
    make_key,
)
from koko.opening.target import Target, parse
from koko.opening.tunnel import Proxy

if TYPE_CHECKING:
    from http.cookiejar import CookieJar
    from ssl import SSLContext

ProxyFor = Callable[[str], str | None]
NetDial = Callable[[str, int, float | None], Any]

log = logging.getLogger("koko.dialing")


@dataclass(frozen=True, slots=True)
class Opened:
    """The server accepted: what was agreed."""

    subprotocol: str | None
    agreed: Agreed | None


class DialerOptions(TypedDict, total=False):
    """The options of ``Dialer``, for ``**options: Unpack[DialerOptions]``."""

    read_limit: int | None
    head_limit: int
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
    proxy: str | bool | ProxyFor | None
    proxy_ssl: SSLContext | None
    net_dial: NetDial | None
    unix: str | os.PathLike[str] | None
    jar: CookieJar | None
    max_redirects: int


def check_dialer_options(call: str, options: Collection[str]) -> None:
    """Raise for an unknown option; the error suggests the one that was meant."""
    check_names(call, (*DialerOptions.__annotations__, "sock"), options)


@dataclass(kw_only=True)
class Dialer(ConnectionOptions):
    """The options of a client, and its decision on each answer.

    May be shared by any number of threads and tasks.

    Attributes:
        subprotocols: what we offer, most wanted first; also after a redirect.
        headers: sent with every handshake. ``Host`` here replaces that of the URL. After a
            redirect to another origin only ``Accept-Language``, ``Origin`` and
            ``User-Agent`` are sent, since any other header may be a secret.
        origin: the header ``Origin``, for servers that expect a browser.
        user_agent: the header ``User-Agent``; None for none.
        ssl: the context for ``wss``, with a client's certificate if the server wants one.
            None: the system's certificates, checked; they are loaded once in a process.
        server_hostname: the name that the certificate must have. None: that of the URL,
            as it is after a redirect to another origin.
        proxy: a proxy's URL, None for no proxy, or True for the proxy of the environment
            (``HTTP_PROXY`` for ``ws``, ``HTTPS_PROXY`` for ``wss``, ``ALL_PROXY``,
            ``NO_PROXY``) or of the system, which is never used for ``localhost`` and loopback
            addresses. Or a function that gets the URL dialed, without user and password, and
            returns a proxy's URL or None; what it raises ends the dial.
        proxy_ssl: the context for TLS to an ``https`` proxy. None: that of ``ssl``.
        net_dial: a function that opens the connection instead of Koko. It gets the host and
            port (the proxy's if there is one, else the server's) and the seconds that are left
            (None: no limit), and returns a connected ``socket.socket``, in ``koko.aio`` also an
            awaitable of one. Koko still does TLS. In ``koko.sync`` the function must keep to
            the timeout by itself.
        unix: the path of a Unix socket to connect to. The URL then gives only host and path
            for the request, and no proxy is used.
        jar: cookies are sent from it and stored in it, also when the server refuses.
        max_redirects: how many redirects to follow, 0 for none. A redirect from ``wss`` to
            ``ws`` is never followed.
    """

    subprotocols: Sequence[str] = ()
    headers: Headers = field(default=(), repr=False)
    origin: str | None = None
    user_agent: str | None = f"koko/{__version__}"
    ssl: SSLContext | None = field(default=None, repr=False)
    server_hostname: str | None = None
    proxy: str | bool | ProxyFor | None = field(default=True, repr=False)
    proxy_ssl: SSLContext | None = field(default=None, repr=False)
    net_dial: NetDial | None = None
    unix: str | os.PathLike[str] | None = None
    jar: CookieJar | None = field(default=None, repr=False)
    max_redirects: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_subprotocols(self.subprotocols)
        self.headers = check_headers(self.headers)
        check_fields(self.headers)
        for name in ("origin", "user_agent", "server_hostname"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise TypeError(f"{name}={value!r}, expected a str, or None")
        for name in ("ssl", "proxy_ssl"):
            why = "a server's: make it with Purpose.SERVER_AUTH"
            check_context(name, getattr(self, name), "PROTOCOL_TLS_SERVER", why)
        if self.jar is not None and not hasattr(self.jar, "add_cookie_header"):
            kind = type(self.jar).__name__  # cookies are not shown
            raise TypeError(f"jar= is a {kind}, expected an http.cookiejar.CookieJar")
        if type(self.max_redirects) is not int or self.max_redirects < 0:
            raise ValueError(f"max_redirects={self.max_redirects!r}, expected a number from 0")
        self._check_ways()

    def _check_ways(self) -> None:
        proxy: object = self.proxy
        if isinstance(proxy, str):
            if proxy:
                Proxy.of(proxy)
        elif not (proxy is None or isinstance(proxy, bool) or callable(proxy)):
            expected = "a URL, a function, True for the environment's, or None"
            shown = proxy if isinstance(proxy, int) else f"a {type(proxy).__name__}"  # no password
            raise TypeError(f"proxy={shown}, expected {expected}")
        if callable(proxy) and is_async(proxy):
            raise TypeError(f"proxy={name_of(proxy)} must be a plain function on both faces")
        if self.net_dial is not None and not callable(self.net_dial):
            raise TypeError(f"net_dial={self.net_dial!r} must be a function of host, port, timeout")
        if self.unix is None:
            return
        if not isinstance(self.unix, str | bytes | os.PathLike):
            raise TypeError(f"unix={self.unix!r}, expected str, bytes or os.PathLike, a path")
        if self.net_dial is not None or (self.proxy and self.proxy is not True):
            raise ValueError(f"unix={self.unix!r} cannot be combined with net_dial or a proxy")

    @staticmethod
    def target(url: str) -> Target:
        """Return where ``url`` leads.

        Raises:
            ValueError: it is no ``ws`` or ``wss`` URL (§3).
        """
        return parse(url)

    def over(self, sock: Any) -> Self:
        """Return a copy of this dialer for one dial, over a socket that is connected.

        A redirect counts as a refusal: there is no second socket to follow it with.
        """
        check_socket(sock, "dial() got sock=", "give")
        return replace(self, net_dial=lambda *_: sock, unix=None, proxy=None, max_redirects=0)

    def proxy_for(self, target: Target) -> Proxy | None:
        """Return the proxy to go through, None to connect directly.

        Raises:
            ValueError: the URL of the proxy cannot be used.
        """
        url: str | None
        if self.unix is not None or not self.proxy:
            url = None
        elif callable(self.proxy):
            url = _checked(self.proxy, self.proxy(target.url))
        else:
            url = _environment_proxy(target) if self.proxy is True else str(self.proxy)
        proxy = Proxy.of(url) if url else None
        tell(
            log, logging.DEBUG, "%s: through %s", target.shown, proxy.name if proxy else "no proxy"
        )
        return proxy

    def hostname(self, target: Target) -> str:
        """Return the name that the certificate of a target must have."""
        return (target.trusted and self.server_hostname) or target.name

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
            fields = CIMultiDict((name, fields[name]) for name in _FOR_ALL if name in fields)
        # The jar itself decides which cookies a redirect may get.
        if self.jar is not None and "Cookie" not in fields:
            found = cookies.stored(self.jar, target)
            fields.update({"Cookie": found} if found else ())
        return fields

    def conclude(self, target: Target, key: str, response: Response) -> Opened | Target:
        """Return what the answer to a handshake means: what was agreed, or the next target.

        Cookies are stored first, whatever the answer is.

        Raises:
            ErrBadHandshake: the server refused, or broke the rules.
        """
        tell(
            log, logging.DEBUG, "%s: answered %d %s", target.shown, response.status, response.reason
        )
        self.store_cookies(target, response)
        return self.redirect(target, response) or self.check(key, response)

    def store_cookies(self, target: Target, response: Response) -> None:
        """Keep the cookies of an answer in the jar, if there is one."""
        if self.jar is not None:
            cookies.store(self.jar, target, response)

    def redirect(self, target: Target, response: Response) -> Target | None:
        """Return the target that an answer redirects to, None if it does not redirect.

        Raises:
            ErrBadHandshake: it is one redirect too many, leads from ``wss`` to ``ws``, or
                to something that is not a URL.
        """
        location = response.headers.get("Location")
        if response.status not in _REDIRECTS or not location or self.max_redirects == 0:
            return None
        shown = _USER.sub("//", location.partition("?")[0].partition("#")[0])  # no secrets
        if target.redirects >= self.max_redirects:
            reason = f"redirected to {shown!r}, one more than max_redirects={self.max_redirects}"
            raise ErrBadHandshake(reason, response)
        try:
            there = parse(_HTTP.sub("ws", urljoin(target.url, location).partition("#")[0]))
        except ValueError as error:
            raise ErrBadHandshake(f"redirected to {shown!r}: {error}", response) from None
        if target.secure and not there.secure:
            reason = f"redirected to {shown!r}, from TLS to plain text, which is never followed"
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


def _checked(function: ProxyFor, url: object) -> str | None:
    """Return what the application's function for ``proxy=`` returned, or raise."""
    check_returned("proxy=", function, url, BOTH)
    if url is not None and not isinstance(url, str):
        said = f"proxy= {name_of(function)}() returned a {type(url).__name__}"
        raise TypeError(f"{said}, expected a URL or None")
    return url


_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_FOR_ALL = ("Accept-Language", "Origin", "User-Agent")  # sent to another origin, too

_USER = re.compile(r"(?<![^:])//[^/@]*@")  # user and password
_HTTP = re.compile(r"^http(?=s?:)", re.IGNORECASE)


def check_socket(sock: Any, said: str = "net_dial returned ", do: str = "return") -> None:
    """Raise unless ``sock`` is a plain socket, as a ``net_dial`` may return it.

    Raises:
        TypeError: it is not a socket, or it does TLS itself.
    """
    if not hasattr(sock, "getpeername"):
        raise TypeError(f"{said}{sock!r}, expected a connected socket.socket")
    if hasattr(sock, "unwrap"):  # an SSLSocket cannot be read and written at once
        raise TypeError(f"{said}an SSLSocket; {do} the plain socket, ssl= does TLS")


def check_connected(sock: Any) -> None:
    """Raise unless a socket is connected.

    Raises:
        OSError: it never was, or is no more.
    """
    try:
        sock.getpeername()
    except OSError as error:
        raise OSError(error.errno, "the socket that was given is not connected") from None


def _environment_proxy(target: Target) -> str | None:
    from urllib.request import getproxies, proxy_bypass  # takes 60 ms: only if needed

    if _is_loopback(target.host):  # as in Go: a proxy elsewhere would connect to itself
        return None
    host = f"[{target.host}]" if ":" in target.host else target.host
    if proxy_bypass(f"{host}:{target.port}"):
        return None
    proxies = getproxies()
    if _is_in(proxies.get("no", ""), target.host):
        return None
    return proxies.get("https" if target.secure else "http") or proxies.get("all")


def _is_loopback(host: str) -> bool:
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761 §6.3
        return True
    with suppress(ValueError):
        address = ip_address(host.partition("%")[0])
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback
    return False


def _is_in(networks: str, host: str) -> bool:
    # NO_PROXY=10.0.0.0/8 works in Go, curl and Kubernetes; urllib does not know networks.
    with suppress(ValueError):
        address = ip_address(host)
        named = [each.strip() for each in networks.split(",") if "/" in each]
        return any(address in ip_network(each, strict=False) for each in named)
    return False
