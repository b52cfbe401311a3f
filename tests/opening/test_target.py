"""Where a URL leads, and which URLs lead nowhere."""

from __future__ import annotations

import pytest

from koko.opening.target import Target, parse


@pytest.mark.parametrize(
    ("url", "secure", "host", "port", "resource", "host_header"),
    [
        ("ws://a.example", False, "a.example", 80, "/", "a.example"),
        ("wss://a.example", True, "a.example", 443, "/", "a.example"),
        ("WS://A.Example:80/X?y=1", False, "a.example", 80, "/X?y=1", "a.example"),
        ("ws://a.example:443/", False, "a.example", 443, "/", "a.example:443"),
        ("wss://a.example:/?q", True, "a.example", 443, "/?q", "a.example"),
        ("ws://[::1]:8765/", False, "::1", 8765, "/", "[::1]:8765"),
        ("ws://[fe80::1%25eth0]/", False, "fe80::1%eth0", 80, "/", "[fe80::1]"),
        ("ws://127.0.0.1/%20%2F", False, "127.0.0.1", 80, "/%20%2F", "127.0.0.1"),
        ("ws://bücher.example/ä?ö", False, "xn--bcher-kva.example", 80, "/%C3%A4?%C3%B6", None),
        ("ws://my_host/a|b", False, "my_host", 80, "/a%7Cb", "my_host"),
        ("ws://a.example.//x", False, "a.example.", 80, "//x", "a.example."),
    ],
)
def test_a_url_leads_to_a_target(url, secure, host, port, resource, host_header):
    target = parse(url)
    assert target == Target(secure, host, port, resource)
    assert target.host_header == (host_header or host)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("http://a.example", "scheme 'http', write 'ws' "),
        ("https://a.example", "scheme 'https', write 'wss' "),
        ("localhost:8765", "scheme 'localhost', write 'ws' "),
        ("/chat", "scheme '', write 'ws' "),
        ("ws://a.example/#top", "^URL has a fragment, behind '#'; it may have none"),
        ("ws://a.example/#", "^URL has a fragment, behind '#'; it may have none"),
        ("ws:///chat", "no host"),
        ("ws:chat", "no host"),
        ("ws://a.example:0/", "port 0"),
        ("ws://a.example:99999/", "cannot be read"),
        ("ws://a.example:x/", "cannot be read"),
        ("ws://[::1/", "cannot be read"),
        ("ws://a b/", "URL has ' '; write it as %20"),
        ("ws://a.example/\r\nHost: b", r"URL has '\\r'; write it as %0D"),
        (" ws://a.example/", "URL has ' '"),
        ("ws://a%41b/", "neither a name nor an address"),
        ("ws://a..b/", "neither a name nor an address"),
        ("ws://[v1.x:y]/", "neither a name nor an address|cannot be read"),
        ("ws://" + "ä" * 64 + "/", "not a valid international name"),
    ],
)
def test_what_is_no_websocket_url_is_refused(url, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse(url)


def test_user_and_password_become_basic_authorization_and_are_not_shown():
    target = parse("wss://Aladdin:open%20sesame@a.example/")
    assert target.authorization == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="  # RFC 7617 §2
    assert parse("ws://user@a.example/").authorization == "Basic dXNlcjo="
    assert target.url == "wss://a.example/"
    assert "QWxhZGR" not in repr(target)


@pytest.mark.parametrize("url", ["ws://u:se/cret@a/", "ws://u:secret@:x", "http://u:secret@a/"])
def test_a_password_is_not_shown_by_a_complaint_either(url):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        parse(url)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize("url", [b"ws://a.example", None, 5])
def test_a_url_is_a_str(url):
    with pytest.raises(TypeError, match=f"^URL is a {type(url).__name__}, expected a str"):
        parse(url)
