"""Where a request came from, as far as the proxies in front of a server can be trusted.

Reads ``X-Forwarded-For``, ``-Proto`` and ``-Host``, and ``Forwarded`` (RFC 7239). Any client can
write such a header. So nothing is read unless the peer of the connection is a trusted proxy, and
of a list only the entries of trusted proxies: each adds its own peer at the right end. Malformed
headers are ignored; no request makes this module raise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any, NamedTuple

from multidict import MultiMapping

UNIX = "unix"


class Source(NamedTuple):
    """Where a request came from.

    ``address`` is the client's as ``socket.getpeername`` would give it, its port 0 where nobody
    said it, and None where no proxy told: it is the connection's own then. ``secure`` says that
    the client is known to have come over TLS. ``host`` is what a proxy says the client asked
    for, None where only the ``Host`` header does.
    """

    address: tuple[Any, ...] | None
    secure: bool
    host: str | None


# Of a connection whose peer is no proxy, by whether it is TLS.
DIRECT = {secure: Source(None, secure, None) for secure in (False, True)}


class Trusted(NamedTuple):
    """Which peers are proxies that are believed."""

    networks: tuple[IPv4Network | IPv6Network, ...]
    unix: bool  # whoever comes over a Unix socket

    def holds(self, peer: Any) -> bool:
        """Tell whether a peer is one; it is an address as ``socket.getpeername`` gives it."""
        if isinstance(peer, str | bytes):  # the end of a Unix socket: a path, usually an empty one
            return self.unix
        ip = _ip(peer[0]) if peer else None
        return ip is not None and any(ip in network for network in self.networks)


@lru_cache
def trusted(proxies: tuple[str, ...]) -> Trusted:
    """Return what ``trusted_proxies=`` stands for.

    Raises:
        TypeError: one of them is no string.
        ValueError: one of them is neither an address, nor a network, nor "unix".
    """
    networks = []
    for proxy in proxies:
        if not isinstance(proxy, str):
            raise TypeError(f"trusted_proxies: {proxy!r} is no str, as in '10.0.0.0/8'")
        if proxy == UNIX:
            continue
        try:
            networks.append(ip_network(proxy))
        except ValueError as error:
            raise ValueError(
                f"trusted_proxies: {proxy!r} is neither an address, nor a network, nor 'unix' "
                f"({error})"
            ) from None
    return Trusted(tuple(networks), UNIX in proxies)


def source_of(
    headers: MultiMapping[str], peer: Any, secure: bool, proxies: Trusted | None
) -> Source:
    """Return where a request came from.

    Args:
        headers: the request's.
        peer: the address at the other end of the connection, None where it is not known.
        secure: whether the connection is TLS.
        proxies: those that are believed; None for none.
    """
    if proxies is None or not proxies.holds(peer):
        return DIRECT[secure]
    # Most proxies write one kind and pass the other on as it came, so a client could write
    # that one. Where the two say different things, neither is believed.
    one, other = _in_x_forwarded(headers, proxies), _in_forwarded(headers, proxies)
    address = _same_address(one.address, other.address)
    scheme = _same(one.scheme, other.scheme)
    host = _same(one.host, other.host)
    return Source(address, secure if scheme is None else scheme in _SECURE, host)


def tells_host(headers: MultiMapping[str]) -> bool:
    """Tell whether a request says of itself which host its client asked for."""
    return any(name in headers for name in ("X-Forwarded-Host", "Forwarded"))


# What one kind of header tells


class _Told(NamedTuple):
    address: tuple[Any, ...] | None
    scheme: str | None
    host: str | None


_NAME = r"[A-Za-z0-9._-]{1,255}"
_BRACKETS = r"\[[0-9A-Fa-f:.]{2,45}\]"  # an IPv6 address
_HOST = re.compile(rf"(?:{_NAME}|{_BRACKETS})(?::[0-9]{{1,5}})?")
_SECURE, _PLAIN = ("https", "wss"), ("http", "ws")


def _in_x_forwarded(headers: MultiMapping[str], proxies: Trusted) -> _Told:
    fields = (_listed(headers, f"X-Forwarded-{name}") for name in ("For", "Proto", "Host"))
    hops, schemes, hosts = fields
    address, depth = _walk(hops, proxies)
    # Some proxies add to these lists and some replace them.
    return _Told(address, _scheme(schemes[-depth:]), _host(hosts[-depth:]))


def _listed(headers: MultiMapping[str], name: str) -> list[str]:
    values = [value for value in headers.getall(name, ()) if value.strip(" \t")]
    return [each.strip(" \t") for each in ",".join(values).split(",")] if values else []


def _in_forwarded(headers: MultiMapping[str], proxies: Trusted) -> _Told:
    elements = _elements(", ".join(headers.getall("Forwarded", ())))
    address, depth = _walk([each.get("for", "") for each in elements], proxies)
    told = elements[-depth:]
    schemes = [each["proto"] for each in told if "proto" in each]
    hosts = [each["host"] for each in told if "host" in each]
    return _Told(address, _scheme(schemes), _host(hosts))


def _walk(hops: Sequence[str], proxies: Trusted) -> tuple[tuple[Any, ...] | None, int]:
    """Read from the right past the trusted; return the client's address, and how many were read.

    An entry that is hidden, unknown or malformed ends the walk, since nobody knows who wrote the
    entries on its left. Then the last address before it is returned.
    """
    address, depth = None, 0
    for hop in reversed(hops):
        depth += 1
        if (found := _node(hop)) is None:
            break
        address = found
        if not proxies.holds(found):
            break
    return address, max(depth, 1)


def _scheme(told: Sequence[str]) -> str | None:
    scheme = told[0].lower() if told else None
    return scheme if scheme in (*_SECURE, *_PLAIN) else None


def _host(told: Sequence[str]) -> str | None:
    return told[0] if told and _HOST.fullmatch(told[0]) else None


# Forwarded (RFC 7239 §4)

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\U0010ffff]|\\[\t\x20-\x7e\x80-\U0010ffff])*"
_PAIR = re.compile(
    rf'[ \t]*(?:(?P<name>{_TOKEN})=(?:(?P<token>{_TOKEN})|"(?P<quoted>{_QUOTED})")[ \t]*)?'
    r"(?P<end>[;,]|\Z)"
)


def _elements(field: str) -> list[dict[str, str]]:
    """Return what each proxy has said, the nearest last; nothing where the field is malformed."""
    elements: list[dict[str, str]] = [{}]
    for pair in _pairs(field):
        if pair is None:
            return []
        name, value = (pair["name"] or "").lower(), pair["token"]
        if name in elements[-1]:
            return []  # §4: each parameter once
        if name:
            elements[-1][name] = re.sub(r"\\(.)", r"\1", pair["quoted"]) if value is None else value
        if pair["end"] == ",":
            elements.append({})
    return [each for each in elements if each]


def _pairs(field: str) -> Iterator[re.Match[str] | None]:
    at = 0
    while at < len(field) and (pair := _PAIR.match(field, at)):
        yield pair
        at = pair.end()
    if at < len(field):
        yield None


# Addresses

# RFC 7239 §6; X-Forwarded-For has IPv6 addresses without brackets as well.
_NODE = re.compile(
    r"(?P<host>[0-9.]{7,15}|\[[0-9A-Fa-f:.]{2,45}\])(?::(?:(?P<port>[0-9]{1,5})|_[\w.-]+))?",
    re.ASCII,
)
_BARE = re.compile(r"[0-9A-Fa-f:.]{2,45}")


def _node(text: str) -> tuple[Any, ...] | None:
    """Return an address of a list, None for what is none: ``unknown``, ``_hidden``, garbage."""
    found = _NODE.fullmatch(text)
    host = found["host"].strip("[]") if found else text
    if not _BARE.fullmatch(host) or (ip := _ip(host)) is None:
        return None
    port = int(found["port"] or 0) if found else 0
    if port > 0xFFFF:
        return None
    return (str(ip), port) if ip.version == 4 else (str(ip), port, 0, 0)


def _ip(host: Any) -> IPv4Address | IPv6Address | None:
    """Return an address; what IPv6 writes of an IPv4 address (``::ffff:``) is that one."""
    try:
        ip = ip_address(host) if isinstance(host, str) else None
    except ValueError:
        return None
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return mapped or ip


# What two kinds of header tell


def _same(one: str | None, other: str | None) -> str | None:
    told = {each.lower() for each in (one, other) if each is not None}
    return told.pop() if len(told) == 1 else None


def _same_address(
    one: tuple[Any, ...] | None, other: tuple[Any, ...] | None
) -> tuple[Any, ...] | None:
    if one is None or other is None:
        return one or other
    if one[0] != other[0]:
        return None
    return one if one[1] else other  # with its port, if one of them says it
