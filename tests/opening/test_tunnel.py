"""Proxies: what a URL says of one, how it is asked for a tunnel and what its answer means."""

from __future__ import annotations

import pytest

from koko.errors import ErrBadHandshake, HandshakeError
from koko.http import Response
from koko.opening.head import write_request
from koko.opening.tunnel import Proxy, TunnelParser


@pytest.mark.parametrize(
    ("url", "port"),
    [("http://p", 80), ("https://p", 443), ("socks5://p", 1080), ("http://p:3128", 3128)],
)
def test_scheme_gives_the_port_that_the_url_leaves_out(url, port):
    assert Proxy.of(url).port == port


@pytest.mark.parametrize(
    ("scheme", "socks", "secure", "resolves"),
    [
        ("http", False, False, False),
        ("https", False, True, False),
        ("socks4", True, False, False),
        ("socks4a", True, False, True),
        ("socks5", True, False, False),
        ("socks5h", True, False, True),
    ],
)
def test_scheme_says_how_the_proxy_is_spoken_to(scheme, socks, secure, resolves):
    proxy = Proxy.of(f"{scheme}://p")
    assert (proxy.is_socks, proxy.is_secure, proxy.resolves) == (socks, secure, resolves)


def test_name_of_a_proxy_keeps_its_password_secret():
    proxy = Proxy.of("http://me:s3cret@proxy.example:3128")
    assert proxy.name == "http://proxy.example:3128"
    assert "s3cret" not in repr(proxy)


def test_tunnel_is_asked_for_with_the_port_and_the_password():
    proxy = Proxy.of("http://me:p%40ss@p")
    assert write_request(proxy.connect_request("target.example", 443)) == (
        b"CONNECT target.example:443 HTTP/1.1\r\n"
        b"Host: target.example:443\r\n"
        b"Proxy-Authorization: Basic bWU6cEBzcw==\r\n\r\n"
    )


def test_tunnel_to_an_ipv6_address_puts_it_in_brackets():
    assert Proxy.of("http://p").connect_request("::1", 80).target == "[::1]:80"


def test_answer_2xx_has_no_body_whatever_it_announces():
    parser = TunnelParser()
    response = parser.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    assert response.status == 200
    Proxy.of("http://p").check(response, parser.rest)


def test_proxy_that_speaks_in_the_place_of_the_target_is_not_trusted():
    parser = TunnelParser()
    response = parser.feed(b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 101 ")
    with pytest.raises(ErrBadHandshake, match="sent b'HTTP/1.1 101 ' before the target was asked"):
        Proxy.of("http://p").check(response, parser.rest)


def test_refusal_is_read_with_its_body():
    response = TunnelParser().feed(b"HTTP/1.1 407 Who?\r\nContent-Length: 2\r\n\r\nno")
    assert response.body == b"no"
    with pytest.raises(ErrBadHandshake, match="the proxy http://p answered 'Who.', expected a 2xx"):
        Proxy.of("http://me:secret@p").check(response, b"")


def test_refusal_without_a_reason_phrase_is_one_too():
    response = TunnelParser().feed(b"HTTP/1.1 407\r\nContent-Length: 0\r\n\r\n")
    with pytest.raises(ErrBadHandshake, match="407: the proxy http://p answered"):
        Proxy.of("http://p").check(response, b"")


def test_redirect_of_a_proxy_is_a_refusal():
    with pytest.raises(ErrBadHandshake):
        Proxy.of("http://p").check(Response(302), b"")


def test_proxy_that_cannot_be_read_keeps_its_password_secret():
    with pytest.raises(ValueError, match="a host or a port that cannot be read") as raised:
        Proxy.of("http://me:s3cret/x@proxy.example:3128")
    assert "s3cret" not in str(raised.value)


def test_a_tunnel_does_not_care_for_the_length_of_its_answer():
    # RFC 9110 §9.3.6: what a 2xx says of a body counts for nothing; of a refusal it counts.
    head = b"HTTP/1.1 %d Ok\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert TunnelParser().feed(head % 200).status == 200
    with pytest.raises(HandshakeError, match="can't be present with"):
        TunnelParser().feed(head % 407)
