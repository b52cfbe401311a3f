"""A tunnel through a proxy: what its URL says, and CONNECT (RFC 9110 §9.3.6).

Requests and answers as data; nothing is sent here. SOCKS is in ``socks``.
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes, urlsplit

from multidict import CIMultiDict, CIMultiDictProxy

from koko.errors import ErrBadHandshake
from koko.http import Request, Response
from koko.opening.head import ResponseParser

_PORTS = {"http": 80, "https": 443}
_SOCKS_PORT = 1080
_SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, as its URL describes it.

    Attributes:
        scheme: ``http``, ``https`` (TLS to the proxy itself) or a ``socks`` one.
        host, port: where it listens.
        user, password: empty when the URL has none.
        name: the URL without user and password, for messages.
    """

    scheme: str
    host: str
    port: int
    user: bytes = field(repr=False)
    password: bytes = field(repr=False)
    name: str

    @classmethod
    def of(cls, url: str) -> Proxy:
        """Read a proxy's URL; without a scheme it means ``http``, as in curl.

        Raises:
            ValueError: its scheme is unknown, or its host or port cannot be read.
        """
        url = url if "://" in url else f"http://{url}"
        scheme = url.partition("://")[0].lower()
        if scheme not in _SCHEMES:
            expected = ", ".join(_SCHEMES)
            raise ValueError(f"proxy has the scheme {scheme!r}, expected one of {expected}")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:  # its text may quote part of a password
            raise ValueError("proxy has a host or a port that cannot be read") from None
        if not parts.hostname or port == 0:
            raise ValueError("proxy has no host, or port 0; write http://host:port")
        return cls(
            scheme,
            parts.hostname,
            port or _PORTS.get(scheme, _SOCKS_PORT),
            unquote_to_bytes(parts.username or ""),
            unquote_to_bytes(parts.password or ""),
            f"{scheme}://{parts.netloc.rpartition('@')[2]}",
        )

    @property
    def is_socks(self) -> bool:
        return self.scheme.startswith("socks")

    @property
    def is_secure(self) -> bool:
        return self.scheme == "https"

    @property
    def resolves(self) -> bool:
        """Whether a SOCKS proxy gets the name and looks it up itself, as in curl."""
        return self.scheme in ("socks4a", "socks5h")

    def connect_request(self, host: str, port: int) -> Request:
        """Return the request for a tunnel to ``host`` and ``port``."""
        # RFC 9110 §9.3.6: CONNECT always names the port, even the default one.
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        headers = CIMultiDict({"Host": authority})
        if self.user:
            pair = self.user + b":" + self.password
            headers["Proxy-Authorization"] = f"Basic {b64encode(pair).decode()}"
        return Request("CONNECT", authority, CIMultiDictProxy(headers))

    def check(self, response: Response, rest: bytes) -> None:
        """Raise unless the tunnel is open; ``rest`` is what came after the answer.

        Raises:
            ErrBadHandshake: the proxy refused, or sent what only the target could send.
        """
        if not 200 <= response.status < 300:
            reason = f"the proxy {self.name} answered {response.reason!r}, expected a 2xx"
        elif rest:
            reason = f"the proxy {self.name} sent {rest[:40]!r} before the target was asked"
        else:
            return
        raise ErrBadHandshake(reason, response)


class TunnelParser(ResponseParser):
    """Reads the answer to a CONNECT: after a 2xx the tunnel begins, without a body."""

    _bodiless = re.compile(rb"HTTP/1\.[01] [12]\d\d[ \r]")  # RFC 9110 §9.3.6

    def _take_body(self, data: bytes) -> Response | None:
        assert self._response is not None
        if 200 <= self._response.status < 300:
            self.rest = data
            return self._response
        return super()._take_body(data)
