"""Where a ``ws`` or ``wss`` URL leads (RFC 6455 §3)."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass, field
from urllib.parse import quote, unquote_to_bytes, urlsplit

_PORTS = {True: 443, False: 80}  # §3, by "is it secure"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads: the host to connect to, the resource to ask for.

    Attributes:
        secure: TLS first (``wss``).
        host: the name or address to connect to, without brackets.
        port: explicit or the default of the scheme.
        resource: path and query, as in the request line.
        authorization: the header that the user and password of the URL become.
        redirects: how many redirects led here.
        trusted: no redirect has led to another origin. Once one has, headers and credentials
            that the user gave for the dialed origin are no longer sent.
    """

    secure: bool
    host: str
    port: int
    resource: str = field(repr=False)
    authorization: str | None = field(default=None, repr=False)
    redirects: int = 0
    trusted: bool = True

    @property
    def url(self) -> str:
        """The URL without user and password."""
        return f"{self._root}{self.resource}"

    @property
    def shown(self) -> str:
        """The URL for logs and errors: also without the query, which may hold a token."""
        return self._root + self.resource.partition("?")[0]

    @property
    def _root(self) -> str:
        return f"{'wss' if self.secure else 'ws'}://{self.host_header}"

    @property
    def name(self) -> str:
        """The host without the zone of a link-local address, which only this machine knows."""
        return self.host.partition("%")[0]

    @property
    def host_header(self) -> str:
        """The value of ``Host``: the default port is left out."""
        host = f"[{self.name}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.secure] else f"{host}:{self.port}"

    @property
    def origin(self) -> tuple[bool, str, int]:
        """What must stay the same for credentials to be sent on."""
        return self.secure, self.host, self.port


_NOT_IN_URL = re.compile(r"[\x00-\x20\x7f]")
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
_ADDRESS = re.compile(r"[0-9a-f:.]+(%[a-z0-9._~-]+)?")


def parse(url: str) -> Target:
    """Return where ``url`` leads.

    Raises:
        ValueError: it is no ``ws`` or ``wss`` URL (§3).
    """
    if not isinstance(url, str):
        raise TypeError(f"URL is a {type(url).__name__}, expected a str")
    # urlsplit would silently drop line ends and blanks. No message here shows the whole
    # URL: it may hold a password.
    if found := _NOT_IN_URL.search(url):
        raise ValueError(f"URL has {found[0]!r}; write it as {quote(found[0])}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its text may quote part of a password
        raise ValueError("URL has a host or a port that cannot be read (RFC 3986 §3.2)") from None
    if parts.scheme not in ("ws", "wss"):
        meant = {"http": "ws", "https": "wss"}.get(parts.scheme, "ws")
        raise ValueError(f"URL has the scheme {parts.scheme!r}, write {meant!r} (RFC 6455 §3)")
    if "#" in url:
        raise ValueError("URL has a fragment, behind '#'; it may have none (RFC 6455 §3)")
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
                f"URL has the host {name!r}, which is not a valid international name: {error}"
            ) from None
        if _NAME.fullmatch(ascii_name):
            return ascii_name
    raise ValueError(f"URL has the host {name!r}, which is neither a name nor an address")


def _basic(user: str | None, password: str | None) -> str | None:
    if user is None:
        return None
    pair = unquote_to_bytes(user) + b":" + unquote_to_bytes(password or "")  # RFC 7617
    return f"Basic {b64encode(pair).decode()}"
