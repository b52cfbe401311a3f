"""Which of the words about a request's origin are believed, and whose."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from koko.opening.forwarded import Source, source_of, tells_host, trusted

OURS = trusted(("10.0.0.0/8", "2001:db8:1::/48"))
PROXY = ("10.0.0.1", 4711)


def told(*fields: tuple[str, str], peer: object = PROXY, secure: bool = False) -> Source:
    return source_of(CIMultiDict(fields), peer, secure, OURS)


def by(name: str, value: str) -> Source:
    return told((name, value))


# Who is believed


@pytest.mark.parametrize(
    ("proxies", "peer"),
    [
        (("10.0.0.0/8",), ("10.255.0.1", 1)),
        (("192.0.2.7",), ("192.0.2.7", 1)),
        (("::1",), ("::1", 1, 0, 0)),
        (("fe80::/10",), ("fe80::1%eth0", 1, 0, 2)),
        (("127.0.0.1",), ("::ffff:127.0.0.1", 1, 0, 0)),  # an IPv4 client of an IPv6 socket
        (("unix",), ""),
        (("unix",), b""),
        (("unix",), "/run/client.sock"),
        (("0.0.0.0/0",), ("203.0.113.9", 1)),
    ],
)
def test_a_peer_is_trusted_by_address_network_and_kind(proxies, peer):
    assert trusted(proxies).holds(peer)


@pytest.mark.parametrize(
    ("proxies", "peer"),
    [
        ((), ("10.0.0.1", 1)),
        (("10.0.0.0/8",), ("11.0.0.1", 1)),
        (("10.0.0.0/8",), ("::1", 1, 0, 0)),
        (("10.0.0.0/8",), ""),
        (("0.0.0.0/0", "::/0"), ""),
        (("unix",), ("127.0.0.1", 1)),
        (("unix",), ("", 1)),
        (("unix", "0.0.0.0/0"), None),  # it is gone already
        (("0.0.0.0/0",), ("proxy.example", 1)),
        (("0.0.0.0/0",), (None, 1)),
    ],
)
def test_any_other_peer_is_not(proxies, peer):
    assert not trusted(proxies).holds(peer)


@pytest.mark.parametrize("proxy", ["proxy.example", "10.0.0.1/8", "10.0.0.0/33", "", "*", "Unix"])
def test_what_is_no_network_is_told_to_the_programmer(proxy):
    with pytest.raises(ValueError, match="neither an address, nor a network, nor 'unix'"):
        trusted((proxy,))


def test_a_number_is_no_address():
    with pytest.raises(TypeError, match="5 is no str"):
        trusted((5,))  # type: ignore[arg-type]


@pytest.mark.parametrize("peer", [("192.0.2.1", 1), "", None])
def test_the_headers_of_anybody_else_are_ignored(peer):
    fields = [
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "app.example"),
        ("Forwarded", "for=203.0.113.9;proto=https;host=app.example"),
    ]
    assert told(*fields, peer=peer) == Source(None, False, None)
    assert source_of(CIMultiDict(fields), PROXY, False, None) == Source(None, False, None)


def test_without_headers_the_connection_speaks_for_itself():
    assert told() == Source(None, False, None)
    assert told(secure=True) == Source(None, True, None)


# X-Forwarded-For


@pytest.mark.parametrize(
    ("listed", "address"),
    [
        ("203.0.113.9", ("203.0.113.9", 0)),
        ("203.0.113.9:51312", ("203.0.113.9", 51312)),  # as Azure writes it
        ("2001:db8::1", ("2001:db8::1", 0, 0, 0)),
        ("[2001:DB8::1]", ("2001:db8::1", 0, 0, 0)),
        ("[2001:db8::1]:443", ("2001:db8::1", 443, 0, 0)),
        ("::ffff:203.0.113.9", ("203.0.113.9", 0)),
        ("203.0.113.9, 10.0.0.2", ("203.0.113.9", 0)),
        ("203.0.113.9,10.0.0.2,2001:db8:1::7", ("203.0.113.9", 0)),
        ("1.1.1.1, 203.0.113.9, 10.0.0.2", ("203.0.113.9", 0)),  # the client wrote the first
        ("10.9.9.9, 203.0.113.9", ("203.0.113.9", 0)),
        ("10.0.0.3, 10.0.0.2", ("10.0.0.3", 0)),  # a client among the proxies
        ("garbage, 203.0.113.9", ("203.0.113.9", 0)),
        ("garbage, 10.0.0.2", ("10.0.0.2", 0)),  # whoever wrote it is not known
        ("203.0.113.9, unknown, 10.0.0.2", ("10.0.0.2", 0)),
        ("203.0.113.9, , 10.0.0.2", ("10.0.0.2", 0)),
    ],
)
def test_a_list_is_read_from_the_right_past_trusted_addresses(listed, address):
    assert by("X-Forwarded-For", listed).address == address


@pytest.mark.parametrize(
    "listed",
    [
        *("", " ", ",", "unknown", "_hidden", "proxy.example", "203.0.113.256", "203.0.113", "1"),
        *("203.0.113.9:99999", "203.0.113.9:", "203.0.113.9:x", "[203.0.113.9]:x", "[::1", "::1]"),
        *("fe80::1%eth0", "203.0.113.009", "٢٠٣.0.113.9", "203.0.113.9\x00", "'203.0.113.9'"),
        *("203.0.113.9 10.0.0.2", "203.0.113.9;10.0.0.2", "1e1", ":", "::1::2", "203.0.113.9/32"),
    ],
)
def test_what_is_no_address_is_not_believed(listed):
    assert by("X-Forwarded-For", listed).address is None


def test_a_header_that_comes_twice_is_one_list():
    one, two = ("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-For", "10.0.0.2")
    assert told(one, two).address == ("203.0.113.9", 0)
    assert told(two, one).address == ("203.0.113.9", 0)
    assert told(("X-Forwarded-For", ""), one).address == ("203.0.113.9", 0)


# X-Forwarded-Proto and -Host


@pytest.mark.parametrize(
    ("said", "secure"), [("https", True), ("wss", True), ("HTTPS", True), ("http", False)]
)
def test_the_proxy_knows_whether_its_client_came_over_tls(said, secure):
    assert told(("X-Forwarded-Proto", said), secure=not secure).secure is secure


@pytest.mark.parametrize("said", ["", "on", "https https", "ftp", "\x00"])
def test_a_scheme_that_is_none_changes_nothing(said):
    assert told(("X-Forwarded-Proto", said)).secure is False
    assert told(("X-Forwarded-Proto", said), secure=True).secure is True


@pytest.mark.parametrize("host", ["app.example", "app.example:8443", "[2001:db8::1]:443"])
def test_the_host_that_the_client_asked_for_is_told(host):
    assert by("X-Forwarded-Host", host).host == host


@pytest.mark.parametrize("host", ["", "a b", "a/b", "user@app.example", "a:b", "a:123456", "[::1"])
def test_what_is_no_host_is_not_believed(host):
    assert by("X-Forwarded-Host", host).host is None


def test_of_a_list_what_the_outermost_trusted_proxy_said_counts():
    hops = ("X-Forwarded-For", "1.1.1.1, 203.0.113.9, 10.0.0.2")  # two of ours have added
    hosts = ("X-Forwarded-Host", "evil.example, app.example, inner:8000")
    schemes = ("X-Forwarded-Proto", "http, https, http")
    assert told(hops, hosts, schemes) == Source(("203.0.113.9", 0), True, "app.example")


def test_a_proxy_may_replace_what_it_does_not_add_to():
    hops = ("X-Forwarded-For", "203.0.113.9, 10.0.0.2")
    told_once = told(hops, ("X-Forwarded-Host", "app.example"), ("X-Forwarded-Proto", "https"))
    assert told_once == Source(("203.0.113.9", 0), True, "app.example")


# Forwarded


@pytest.mark.parametrize(
    ("said", "address"),
    [
        ("for=203.0.113.9", ("203.0.113.9", 0)),
        ("For=203.0.113.9", ("203.0.113.9", 0)),
        ('for="203.0.113.9:4711"', ("203.0.113.9", 4711)),
        ('for="203.0.113.9:_port"', ("203.0.113.9", 0)),
        ('for="[2001:db8::1]"', ("2001:db8::1", 0, 0, 0)),
        ('for="[2001:db8::1]:4711"', ("2001:db8::1", 4711, 0, 0)),
        (r'for="\203.0.\113.9"', ("203.0.113.9", 0)),
        ("for=1.1.1.1, for=203.0.113.9;by=10.0.0.2, for=10.0.0.2", ("203.0.113.9", 0)),
        ("for=1.1.1.1,for=_hidden,for=10.0.0.2", ("10.0.0.2", 0)),
        ("for=1.1.1.1,for=unknown,for=10.0.0.2", ("10.0.0.2", 0)),
        ("for=1.1.1.1,proto=https,for=10.0.0.2", ("10.0.0.2", 0)),
        ('a="x, for=1.1.1.1";for=203.0.113.9', ("203.0.113.9", 0)),
        (", ,for=203.0.113.9;,", ("203.0.113.9", 0)),
        ("for=203.0.113.9; proto=https", ("203.0.113.9", 0)),
    ],
)
def test_forwarded_is_read_from_the_right_as_well(said, address):
    assert by("Forwarded", said).address == address


@pytest.mark.parametrize(
    "said",
    [
        *("", "for", "for=", "for=unknown", "for=_hidden", 'for="unknown"', "for=proxy.example"),
        *("for=203.0.113.9:80", "for=[2001:db8::1]", "for=2001:db8::1"),  # want quotes
        *('for="203.0.113.9', 'for=203.0.113.9"', "for =203.0.113.9", "for= 203.0.113.9"),
        *("for=203.0.113.9 proto=https", "for=1.1.1.1;for=203.0.113.9", 'for="203.0.113.9"x'),
        *("for=203.0.113.9;=", "for=203.0.113.9\n", "for=203.0.113.9;host=a/b"),
    ],
)
def test_what_has_no_address_or_breaks_the_grammar_is_not_believed(said):
    assert by("Forwarded", said).address is None


def test_a_broken_element_spoils_the_whole_header():
    assert by("Forwarded", "for=203.0.113.9;proto=https, for=[::1]") == Source(None, False, None)


def test_scheme_and_host_are_those_of_the_outermost_trusted_proxy():
    said = (
        "for=1.1.1.1;host=evil.example;proto=http, "
        'for=203.0.113.9;host="app.example:8443";proto=https, for=10.0.0.2;host=inner;proto=http'
    )
    assert by("Forwarded", said) == Source(("203.0.113.9", 0), True, "app.example:8443")


# Both at once: whoever writes only one of them passes the other on as its client wrote it


def test_where_both_say_the_same_it_is_believed():
    both = [("X-Forwarded-For", "203.0.113.9"), ("Forwarded", 'for="203.0.113.9:4711"')]
    assert told(*both).address == told(*reversed(both)).address == ("203.0.113.9", 4711)
    hosts = [("X-Forwarded-Host", "App.example"), ("Forwarded", "host=app.example")]
    assert told(*hosts).host == "app.example"


@pytest.mark.parametrize("forged", ["for=127.0.0.1", "for=1.1.1.1", "for=10.0.0.2"])
def test_where_they_differ_neither_is(forged):
    assert told(("X-Forwarded-For", "203.0.113.9"), ("Forwarded", forged)).address is None
    hosts = ("X-Forwarded-Host", "app.example"), ("Forwarded", "host=evil.example")
    assert told(*hosts).host is None
    schemes = ("X-Forwarded-Proto", "https"), ("Forwarded", "proto=http")
    assert told(*schemes).secure is False
    assert told(*schemes, secure=True).secure is True


def test_it_is_seen_that_a_proxy_tells_the_host():
    assert tells_host(CIMultiDict({"X-Forwarded-Host": "a"}))
    assert tells_host(CIMultiDict({"Forwarded": "for=_a"}))
    assert not tells_host(CIMultiDict({"Host": "a"}))


# Whatever comes

words = st.text(st.sampled_from('for=host;proto,"\\[]:._10 \t\x00é٢https'), max_size=40)
names = st.sampled_from(
    ["Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Host"]
)


@given(st.lists(st.tuples(names, words | st.text(max_size=40)), max_size=8))
def test_nothing_that_a_request_says_raises_or_gives_what_is_no_address(fields):
    address, secure, host = told(*fields)
    assert address is None or trusted(("0.0.0.0/0", "::/0")).holds(address)
    assert address is None or 0 <= address[1] <= 0xFFFF
    assert type(secure) is bool
    assert host is None or not set(host) & set(' \t"/@,;\\\x00')


@given(st.lists(st.tuples(names, words), max_size=8), st.ip_addresses())
def test_whatever_a_client_wrote_the_address_that_our_proxy_added_counts(fields, client):
    before = [(name, text) for name, text in fields if name == "X-Forwarded-For"]
    found = told(*before, ("X-Forwarded-For", str(client))).address
    assert found is not None
    mapped = getattr(client, "ipv4_mapped", None) or client
    if not trusted(("10.0.0.0/8", "2001:db8:1::/48")).holds((str(client), 0)):
        assert found[0] == str(mapped)


@given(st.text(st.sampled_from('a=";,\\ \t'), min_size=1000, max_size=4000))
def test_a_long_header_takes_no_longer_than_it_is(text):
    told(("Forwarded", text), ("X-Forwarded-For", text))
