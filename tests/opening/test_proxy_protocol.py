"""The header that a proxy sends first: every byte of it may be hostile."""

from __future__ import annotations

import re
from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koko.opening.proxy_protocol import LIMIT, ProxyHeader, ProxyHeaderError, ProxyHeaderParser

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
FOUR = bytes([203, 0, 113, 9, 10, 0, 0, 1]) + (51312).to_bytes(2) + (443).to_bytes(2)
SIX = (
    IPv6Address("2001:db8::1").packed
    + IPv6Address("2001:db8::2").packed
    + (51312).to_bytes(2)
    + (443).to_bytes(2)
)


def v2(command: int, kind: int, told: bytes = b"", size: int | None = None) -> bytes:
    size = len(told) if size is None else size
    return SIGNATURE + bytes([command, kind]) + size.to_bytes(2) + told


def tlv(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + len(value).to_bytes(2) + value


CLIENT, CLIENT_6 = ("203.0.113.9", 51312), ("2001:db8::1", 51312, 0, 0)
HIGHEST = "255.255.255.255"
OVER_TLS = tlv(0x20, b"\x01" + bytes(4) + tlv(0x21, b"TLSv1.3"))

GOOD = [
    (b"PROXY TCP4 203.0.113.9 10.0.0.1 51312 443\r\n", ProxyHeader(CLIENT)),
    (f"PROXY TCP4 {HIGHEST} {HIGHEST} 65535 65535\r\n".encode(), ProxyHeader((HIGHEST, 65535))),
    (b"PROXY TCP6 2001:db8::1 2001:db8::2 51312 443\r\n", ProxyHeader(CLIENT_6)),
    (b"PROXY UNKNOWN\r\n", ProxyHeader()),
    (b"PROXY UNKNOWN ff:: any thing at all\r\n", ProxyHeader()),
    (v2(0x21, 0x11, FOUR), ProxyHeader(CLIENT)),
    (v2(0x21, 0x21, SIX), ProxyHeader(CLIENT_6)),
    (v2(0x21, 0x31, b"/run/client".ljust(108, b"\0") * 2), ProxyHeader()),
    (v2(0x21, 0x00), ProxyHeader()),
    (v2(0x21, 0x00, tlv(5, b"x")), ProxyHeader()),
    (v2(0x20, 0x00), ProxyHeader(local=True)),
    (v2(0x20, 0x11, FOUR), ProxyHeader(local=True)),
    (v2(0x20, 0x99, b"anything"), ProxyHeader(local=True)),
    (v2(0x21, 0x11, FOUR + tlv(3, bytes(4)) + tlv(4, b"")), ProxyHeader(CLIENT)),
    (v2(0x21, 0x11, FOUR + OVER_TLS), ProxyHeader(CLIENT, secure=True)),
    (v2(0x21, 0x11, FOUR + tlv(0x20, b"\x00" + bytes(4))), ProxyHeader(CLIENT)),
    (v2(0x21, 0x11, FOUR + tlv(0x20, b"")), ProxyHeader(CLIENT)),
]
each_good = pytest.mark.parametrize(("octets", "header"), GOOD, ids=range(len(GOOD)))


def read(octets: bytes) -> tuple[ProxyHeader | None, int]:
    parser = ProxyHeaderParser()
    used = parser.feed(octets)
    return parser.header, used


@each_good
@pytest.mark.parametrize("behind", [b"", b"G", b"\r\n", b"\x16\x03\x01" + bytes(5000)])
def test_a_header_is_read_and_nothing_behind_it(octets, header, behind):
    assert read(octets + behind) == (header, len(octets))


@each_good
def test_a_header_may_be_cut_anywhere(octets, header):
    for cut in range(1, len(octets)):
        parser = ProxyHeaderParser()
        assert parser.feed(octets[:cut]) == cut
        assert parser.header is None
        assert parser.feed(octets[cut:] + b"GET ") == len(octets) - cut
        assert parser.header == header


@each_good
def test_a_header_may_come_byte_by_byte(octets, header):
    parser = ProxyHeaderParser()
    for octet in octets:
        assert parser.header is None
        assert parser.feed(bytes([octet])) == 1
    assert parser.header == header


@pytest.mark.parametrize(
    "octets",
    [
        *(b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"\0", b"PROXYTCP4", b"proxy TCP4", b"P\r\n"),
        *(b"PROXy", b"\r\n\r\n\0\r\nQUIt", b"\r\nPROXY", b" PROXY TCP4", b"\n"),
    ],
)
def test_a_stream_that_begins_otherwise_is_refused_with_advice(octets):
    with pytest.raises(ProxyHeaderError, match="^there is no PROXY header, the stream beg") as no:
        read(octets)
    assert no.value.advice.startswith("have the proxy send one")


def test_it_is_refused_at_the_first_byte_that_is_wrong():
    parser = ProxyHeaderParser()
    assert parser.feed(b"PRO") == 3
    with pytest.raises(ProxyHeaderError, match=r"begins with b'GET /in'$"):
        ProxyHeaderParser().feed(b"GET /in?t=s3cret HTTP/1.1\r\n")  # and no token
    with pytest.raises(ProxyHeaderError, match=re.escape("begins with b'PROFIT'")):
        parser.feed(b"FIT")


@pytest.mark.parametrize(
    "line",
    [
        *("", "TCP4", "TCP4 ", "UNKNOWNS", "TCP5 A B 1 2", "tcp4 A B 1 2", "TCP4  A B 1 2"),
        *("TCP4 A B 1", "TCP4 A B 1 2 3", "TCP4 A B 1 2 ", "TCP4 A\tB 1 2", "TCP4 A B 1\0 2"),
        *(
            "TCP4 A B 65536 2",
            "TCP4 A B 1 65536",
            "TCP4 A B -1 2",
            "TCP4 A B 01 2",
        ),
        *(
            "TCP4 A B 1 2\n",
            "TCP4 256.0.0.1 B 1 2",
            "TCP4 1.1.1 B 1 2",
            "TCP4 x B 1 2",
            "TCP4 A B 1 +2",
        ),
        *("TCP4 ::1 ::1 1 2", "TCP4 A 1.1.1.1.1 1 2", "TCP6 A B 1 2", "TCP6 fe80::1%1 ::1 1 2"),
        *("TCP6 ::1 ::1::1 1 2", "TCP4 \u0661.1.1.1 B 1 2", "TCP4 \xff B 1 2", "UNKNOWN\t"),
    ],
)
def test_a_line_that_breaks_the_rules_is_refused(line):
    with pytest.raises(ProxyHeaderError, match="^the PROXY header is malformed: ") as malformed:
        read(f"PROXY {line}\r\n".replace("A", "203.0.113.9").replace("B", "10.0.0.1").encode())
    assert malformed.value.advice == ""


def test_a_line_that_is_not_ended_shows_no_query_of_the_request_behind_it():
    with pytest.raises(ProxyHeaderError, match=r"1 2\\nGET /chat'$"):
        read(b"PROXY TCP4 203.0.113.9 10.0.0.1 1 2\nGET /chat?t=s3cret HTTP/1.1\r\n")


def test_a_line_has_107_bytes_at_most():
    longest = b"PROXY UNKNOWN ".ljust(105, b"x")
    assert read(longest + b"\r\n") == (ProxyHeader(), 107)
    assert read(longest[:-1] + b"xx"[:1])[0] is None
    for ending in (b"x\r\n", b"xxx"):
        with pytest.raises(ProxyHeaderError, match="malformed: line of more than 107 bytes"):
            read(longest + ending)


@pytest.mark.parametrize(
    ("octets", "what"),
    [
        (v2(0x22, 0x11, FOUR), "version and command are 0x22"),
        (v2(0x11, 0x11, FOUR), "version and command are 0x11"),
        (v2(0x31, 0x11, FOUR), "version and command are 0x31"),
        (v2(0x21, 0x12, FOUR), "family and protocol are 0x12"),
        (v2(0x21, 0x41, FOUR), "family and protocol are 0x41"),
        (v2(0x21, 0x10, FOUR), "family and protocol are 0x10"),
        (v2(0x21, 0x11, FOUR[:-1]), "addresses of 11 bytes, expected 12"),
        (v2(0x21, 0x21, FOUR), "addresses of 12 bytes, expected 36"),
        (v2(0x21, 0x31, b"/"), "addresses of 1 bytes, expected 216"),
        (v2(0x21, 0x11, FOUR + b"\x04"), "an addition is cut off"),
        (v2(0x21, 0x11, FOUR + b"\x04\x00\x02x"), "an addition is cut off"),
        (v2(0x21, 0x11, FOUR + tlv(4, b"") + b"\x04\xff\xff"), "an addition is cut off"),
    ],
)
def test_a_binary_header_that_breaks_the_rules_is_refused(octets, what):
    with pytest.raises(ProxyHeaderError, match=f"^the PROXY header is malformed: {what}$"):
        read(octets)


def test_a_header_beyond_the_limit_is_refused_before_it_has_come():
    room = LIMIT - 16 - len(FOUR) - 3
    assert read(v2(0x21, 0x11, FOUR + tlv(4, bytes(room))))[1] == LIMIT
    for command in (0x20, 0x21):
        with pytest.raises(ProxyHeaderError, match=f"header of {LIMIT + 1} bytes, at most"):
            read(v2(command, 0x11, b"", LIMIT + 1 - 16))
    with pytest.raises(ProxyHeaderError, match="header of 65551 bytes"):
        read(v2(0x21, 0x11, b"", 0xFFFF))


begun = st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 1.1.1.1 ", SIGNATURE, v2(0x21, 0x11)[:14]])


@given(begun, st.lists(st.binary(max_size=40), max_size=8), st.integers(0, 255))
def test_whatever_comes_it_takes_no_more_than_it_is_shown(first, pieces, command):
    parser = ProxyHeaderParser()
    taken = 0
    try:
        for piece in [first, *pieces]:
            if parser.header is None and piece:
                used = parser.feed(piece)
                assert 0 < used <= len(piece)
                taken += used
    except ProxyHeaderError:
        pass
    assert taken <= LIMIT


@given(st.binary(max_size=300), st.integers(0, 255), st.integers(0, 255))
def test_whatever_a_binary_header_holds_it_is_read_or_refused(told, command, kind):
    try:
        header, used = read(v2(command, kind, told) + b"rest")
    except ProxyHeaderError:
        return
    assert header is not None
    assert used == 16 + len(told)
    assert header.source is None or 0 <= header.source[1] <= 0xFFFF
