"""The PROXY protocol, versions 1 and 2: the header in which a proxy tells its client's address.

The header is the beginning of the stream, even before TLS. The parser tells how many of the
bytes that it is shown belong to the header, so that the caller takes none of the rest.

Specified by haproxy (https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt); the sections
below are of that text. A checksum (PP2_TYPE_CRC32C) is not checked, since TCP has its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple

LIMIT = 4096  # bytes of a header: addresses take 216, what some proxies add about TLS much more

_ADVICE = (
    "have the proxy send one (haproxy: send-proxy-v2, nginx: proxy_protocol on, AWS: Proxy "
    "protocol v2), or serve without proxy_protocol="
)


class ProxyHeaderError(ConnectionError):
    """A connection cannot be used, for want of a PROXY header; ``advice`` is the operator's."""

    def __init__(self, sentence: str, advice: str = _ADVICE) -> None:
        super().__init__(sentence)
        self.advice = advice


class ProxyHeader(NamedTuple):
    """What a proxy says of a connection.

    ``source`` is the client's address as ``socket.getpeername`` would give it, None where the
    proxy does not know it. ``local``: the connection is the proxy's own, for a health check.
    ``secure``: the client uses TLS to the proxy.
    """

    source: tuple[Any, ...] | None = None
    local: bool = False
    secure: bool = False


class ProxyHeaderParser:
    """Reads one header; ``header`` is there once all of it has come."""

    def __init__(self) -> None:
        self.header: ProxyHeader | None = None
        self._octets = b""

    def feed(self, octets: bytes) -> int:
        """Look at what comes next on the stream; return how much of it belongs to the header.

        What does not is the stream's. Once ``header`` is there nothing more may be fed.

        Raises:
            ProxyHeaderError: this is no header, or one that may not be sent.
        """
        before, whole = len(self._octets), self._octets + octets
        end = _end_of(whole)
        if end is None:
            self._octets = whole
            return len(octets)
        self._octets = whole[:end]
        self.header = _text(self._octets) if whole[0] == _V1[0] else _binary(self._octets)
        return end - before


_V1, _V2 = b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n"
_LONGEST_V1 = 107  # §2.1, with its end of line
_HEAD_V2 = 16


def _end_of(octets: bytes) -> int | None:
    """Return where a header ends, None while that is not known or not there yet."""
    if not any(octets.startswith(begin[: len(octets)]) for begin in (_V1, _V2)):
        shown = _without_query(octets[:16])
        raise ProxyHeaderError(f"there is no PROXY header, the stream begins with {shown!r}")
    if octets[:1] == _V1[:1]:
        end = octets.find(b"\r\n", 0, _LONGEST_V1) + 2
        if end < 2 and len(octets) >= _LONGEST_V1:
            raise _malformed(f"line of more than {_LONGEST_V1} bytes")
        return end if end >= 2 else None
    if len(octets) < _HEAD_V2:
        return None
    end = _HEAD_V2 + int.from_bytes(octets[14:16])
    if end > LIMIT:
        raise _malformed(f"header of {end} bytes, at most {LIMIT} are read")
    return end if len(octets) >= end else None


def _without_query(octets: bytes) -> bytes:
    """Return what may be shown: behind a line that is not ended a request may have come."""
    return octets.partition(b"?")[0]


def _malformed(what: str) -> ProxyHeaderError:
    return ProxyHeaderError(f"the PROXY header is malformed: {what}", "")


# Version 1 (§2.1): a line of text

_NUMBER = r"(0|[1-9][0-9]{0,4})"
_LINE = re.compile(rf"PROXY (TCP4|TCP6) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) {_NUMBER} {_NUMBER}\r\n")


def _text(octets: bytes) -> ProxyHeader:
    if re.match(rb"PROXY UNKNOWN[ \r]", octets):
        return ProxyHeader()  # the rest of the line must be ignored
    line = _LINE.fullmatch(octets.decode("latin-1"))
    try:
        if line is None:
            raise ValueError
        kind, source, destination, *ports = line.groups()
        read: Any = IPv4Address if kind == "TCP4" else IPv6Address
        ip, _ = map(read, (source, destination))
        port, _ = map(_port, ports)
    except ValueError:
        raise _malformed(repr(_without_query(octets))) from None
    return ProxyHeader(_address(ip, port))


def _port(digits: str) -> int:
    if int(digits) > 0xFFFF:
        raise ValueError
    return int(digits)


def _address(ip: IPv4Address | IPv6Address, port: int) -> tuple[Any, ...]:
    return (str(ip), port) if ip.version == 4 else (str(ip), port, 0, 0)


# Version 2 (§2.2): binary

_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6, _UNIX, _UNKNOWN = 0x11, 0x21, 0x31, 0x00
_SIZES = {_TCP4: 12, _TCP6: 36, _UNIX: 216, _UNKNOWN: 0}  # of both addresses
_SSL = 0x20  # PP2_TYPE_SSL; its first byte are flags
_OVER_TLS = 0x01


def _binary(octets: bytes) -> ProxyHeader:
    command, kind, told = octets[12], octets[13], octets[_HEAD_V2:]
    if command == _LOCAL:
        return ProxyHeader(local=True)  # whatever follows must be ignored
    if command != _PROXY:
        raise _malformed(f"version and command are 0x{command:02x}")
    size = _SIZES.get(kind)
    if size is None:
        raise _malformed(f"family and protocol are 0x{kind:02x}")
    if len(told) < size:
        raise _malformed(f"addresses of {len(told)} bytes, expected {size}")
    flags = [value[0] for type_, value in _additions(told[size:]) if type_ == _SSL and value]
    return ProxyHeader(_source(kind, told), secure=any(each & _OVER_TLS for each in flags))


def _source(kind: int, told: bytes) -> tuple[Any, ...] | None:
    # The path of a Unix socket on the proxy's machine is of no use here.
    if kind == _TCP4:
        return _address(IPv4Address(told[:4]), int.from_bytes(told[8:10]))
    if kind == _TCP6:
        return _address(IPv6Address(told[:16]), int.from_bytes(told[32:34]))
    return None


def _additions(octets: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and value of each addition (§2.2.7, TLV)."""
    while octets:
        end = 3 + int.from_bytes(octets[1:3])
        if len(octets) < end:
            raise _malformed("an addition is cut off")
        yield octets[0], octets[3:end]
        octets = octets[end:]
