"""What a Dialer asks of whom, and what it makes of the answer."""

from __future__ import annotations

import ssl
from dataclasses import fields
from http.cookiejar import CookieJar

import pytest

from koko import __version__
from koko.core.deflate import Compression
from koko.core.handshake import accept_response
from koko.core.head import Response, write_request
from koko.dialing import Dialer, DialerOptions, Opened, Target
from koko.errors import ErrBadHandshake

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
A = Dialer.target("wss://a.example/chat?room=1")


def moved(location: str, status: int = 302, **headers: str) -> Response:
    return Response(status, headers={"Location": location, **headers})


def rejected(verb, *arguments) -> str:
    with pytest.raises(ErrBadHandshake) as caught:
        verb(*arguments)
    assert caught.value.response is arguments[-1]
    return caught.value.reason


# Targets


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
    target = Dialer.target(url)
    assert target == Target(secure, host, port, resource)
    assert target.host_header == (host_header or host)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("http://a.example", "scheme 'http', write 'ws' "),
        ("https://a.example", "scheme 'https', write 'wss' "),
        ("localhost:8765", "scheme 'localhost', write 'ws' "),
        ("/chat", "scheme '', write 'ws' "),
        ("ws://a.example/#top", "fragment 'top'; it may have none"),
        ("ws://a.example/#", "fragment ''; it may have none"),
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
        ("ws://" + "ä" * 64 + "/", "no internationalised name"),
    ],
)
def test_what_is_no_websocket_url_is_refused(url, complaint):
    with pytest.raises(ValueError, match=complaint):
        Dialer.target(url)


def test_user_and_password_become_basic_authorization_and_are_not_shown():
    target = Dialer.target("wss://Aladdin:open%20sesame@a.example/")
    assert target.authorization == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="  # RFC 7617 §2
    assert Dialer.target("ws://user@a.example/").authorization == "Basic dXNlcjo="
    assert target.url == "wss://a.example/"
    assert "QWxhZGR" not in repr(target)


@pytest.mark.parametrize("url", ["ws://u:se/cret@a/", "ws://u:secret@:x", "http://u:secret@a/"])
def test_a_password_is_not_shown_by_a_complaint_either(url):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Dialer.target(url)
    assert "cret" not in str(caught.value)


# Requests


def test_a_request_says_what_was_asked_for():
    dialer = Dialer(
        subprotocols=["chat", "superchat"],
        headers={"X-Token": "t"},
        origin="https://app.example",
        user_agent="me",
        compression=True,
    )
    request, key = dialer.request(A, {"X-More": "m"})
    assert request.target == "/chat?room=1"
    assert dict(request.headers) == {
        "Host": "a.example",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": key,
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": "chat, superchat",
        "Sec-WebSocket-Extensions": request.headers["Sec-WebSocket-Extensions"],
        "User-Agent": "me",
        "Origin": "https://app.example",
        "X-Token": "t",
        "X-More": "m",
    }
    assert request.headers["Sec-WebSocket-Extensions"].startswith("permessage-deflate")


def test_every_request_has_its_own_key():
    assert Dialer().request(A)[1] != Dialer().request(A)[1]


def test_the_user_agent_names_us_unless_told_otherwise():
    assert Dialer().request(A)[0].headers["User-Agent"] == f"koko/{__version__}"
    assert "User-Agent" not in Dialer(user_agent=None).request(A)[0].headers


def test_nearer_headers_replace_farther_ones():
    dialer = Dialer(headers=[("X", "1"), ("X", "2"), ("Host", "b.example")], origin="https://o")
    target = Dialer.target("ws://user@a.example/")
    headers = dialer.request(target)[0].headers
    assert headers.getall("X") == ["1", "2"]
    assert headers.getall("Host") == ["b.example"]
    assert headers["Authorization"] == "Basic dXNlcjo="
    nearer = {"x": "3", "Authorization": "Bearer t", "origin": "https://p"}
    headers = dialer.request(target, nearer)[0].headers
    assert headers.getall("X") == ["3"]
    assert headers.getall("Authorization") == ["Bearer t"]
    assert headers.getall("Origin") == ["https://p"]


def test_headers_given_as_an_iterator_serve_every_request():
    dialer = Dialer(headers=iter([("X", "1")]))
    assert dialer.request(A)[0].headers["X"] == dialer.request(A)[0].headers["X"] == "1"


@pytest.mark.parametrize("name", ["Upgrade", "connection", "Sec-WebSocket-Key", "Content-Length"])
def test_headers_of_the_handshake_cannot_be_given(name):
    with pytest.raises(ValueError, match=f"header '{name}' cannot be given"):
        Dialer(headers={name: "x"})
    with pytest.raises(ValueError, match=f"header '{name}' cannot be given"):
        Dialer().request(A, {name: "x"})


# Verdicts


def test_an_acceptance_says_what_was_agreed():
    dialer = Dialer(subprotocols=["a", "b"])
    assert dialer.check(KEY, accept_response(KEY, "b")) == Opened("b", None)


def test_compression_is_agreed_on_when_the_server_accepts_it():
    answer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    opened = Dialer(compression=Compression(level=6)).check(KEY, accept_response(KEY, None, answer))
    assert opened.agreed.level == 6


def test_an_extension_that_was_not_offered_is_rejected():
    response = accept_response(KEY, None, "permessage-deflate")
    assert "permessage-deflate" in rejected(Dialer().check, KEY, response)


def test_a_refusal_is_rejected():
    reason = rejected(Dialer().conclude, A, KEY, Response(403, "go away"))
    assert reason == "server answered 'Forbidden', expected 101 (RFC 6455 §4.1): 'go away'"


def test_conclude_is_in_or_elsewhere():
    assert Dialer().conclude(A, KEY, accept_response(KEY)) == Opened(None, None)
    assert Dialer().conclude(A, KEY, moved("/other")).resource == "/other"


# Redirects


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/other", "wss://a.example/other"),
        ("other?x", "wss://a.example/other?x"),
        ("//b.example/", "wss://b.example/"),
        ("wss://b.example:8443/x", "wss://b.example:8443/x"),
        ("HTTPS://b.example/x", "wss://b.example/x"),
        ("https://b.example/x#top", "wss://b.example/x"),
    ],
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(location, url, status):
    there = Dialer().redirect(A, moved(location, status))
    assert (there.url, there.redirects) == (url, 1)


def test_a_redirect_may_lead_from_ws_to_wss_but_never_back():
    plain = Dialer.target("ws://a.example/")
    assert Dialer().redirect(plain, moved("https://a.example/")).secure
    for location in ("ws://a.example/", "http://a.example/"):
        reason = rejected(Dialer().redirect, A, moved(location))
        assert (
            reason == f"redirected to {location!r}, from TLS to plain text, which is never followed"
        )


@pytest.mark.parametrize(
    "response", [Response(302), Response(200), moved("/x", 300), moved("", 302)]
)
def test_what_is_no_redirect_leads_nowhere(response):
    assert Dialer().redirect(A, response) is None


def test_redirects_are_followed_as_often_as_allowed():
    assert Dialer(max_redirects=0).redirect(A, moved("/x")) is None
    dialer = Dialer(max_redirects=2)
    twice = dialer.redirect(dialer.redirect(A, moved("/1")), moved("/2"))
    assert twice.redirects == 2
    reason = rejected(dialer.redirect, twice, moved("/3"))
    assert reason == "redirected to '/3', one more than max_redirects=2"


@pytest.mark.parametrize("location", ["ftp://b.example/", "wss://a b/", "wss://b.example:x/"])
def test_a_redirect_to_what_is_no_url_is_rejected(location):
    assert f"redirected to {location!r}: URL has" in rejected(Dialer().redirect, A, moved(location))


SECRETS = {"Authorization": "Bearer t", "Cookie": "a=1", "Host": "v.example", "X": "x"}


def test_credentials_stay_with_the_origin_they_are_for():
    dialer = Dialer(headers=SECRETS)
    there = dialer.redirect(A, moved("https://a.example:443/other"))
    assert dialer.request(there)[0].headers["Authorization"] == "Bearer t"
    assert dialer.request(there, {"Cookie": "b=2"})[0].headers["Cookie"] == "b=2"


@pytest.mark.parametrize("location", ["wss://b.example/", "wss://a.example:8443/", "//evil@b/"])
def test_credentials_never_go_to_another_origin(location):
    dialer = Dialer(headers=SECRETS)
    there = dialer.redirect(Dialer.target("wss://user:secret@a.example/"), moved(location))
    headers = dialer.request(there, {"Cookie": "b=2"})[0].headers
    assert not {"Authorization", "Cookie"} & set(headers)
    assert headers["Host"] == there.host_header
    assert headers["X"] == "x"


def test_credentials_of_the_url_stay_with_its_origin():
    target = Dialer.target("wss://user:secret@a.example/")
    there = Dialer().redirect(target, moved("/other"))
    assert there.authorization == target.authorization


def test_coming_back_does_not_restore_credentials():
    dialer = Dialer(headers=SECRETS)
    back = dialer.redirect(dialer.redirect(A, moved("//b.example/")), moved(A.url))
    assert back.origin == A.origin
    assert "Cookie" not in dialer.request(back)[0].headers


# Cookies


def test_cookies_are_kept_and_sent_again():
    dialer = Dialer(jar=CookieJar())
    dialer.store_cookies(A, Response(101, headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]))
    assert dialer.request(A)[0].headers["Cookie"] == "a=1; b=2"
    assert b"\r\nCookie: a=1; b=2\r\n" in write_request(dialer.request(A)[0])


def test_cookies_are_kept_although_the_handshake_failed():
    dialer = Dialer(jar=CookieJar())
    with pytest.raises(ErrBadHandshake):
        dialer.conclude(A, KEY, Response(401, headers={"Set-Cookie": "a=1"}))
    assert dialer.request(A)[0].headers["Cookie"] == "a=1"


def test_a_cookie_goes_where_it_belongs():
    dialer = Dialer(jar=CookieJar())
    dialer.store_cookies(A, Response(101, headers={"Set-Cookie": "a=1; Secure; Path=/chat"}))
    assert "Cookie" in dialer.request(A)[0].headers
    for url in ("ws://a.example/chat", "wss://b.example/chat", "wss://a.example/other"):
        assert "Cookie" not in dialer.request(Dialer.target(url))[0].headers


def test_a_cookie_header_replaces_those_of_the_jar():
    dialer = Dialer(jar=CookieJar())
    dialer.store_cookies(A, Response(101, headers={"Set-Cookie": "a=1"}))
    assert dialer.request(A, {"Cookie": "mine=1"})[0].headers.getall("Cookie") == ["mine=1"]


def test_without_a_jar_cookies_are_forgotten():
    Dialer().store_cookies(A, Response(101, headers={"Set-Cookie": "a=1"}))
    assert "Cookie" not in Dialer().request(A)[0].headers


# Proxies


@pytest.fixture
def environment(monkeypatch):
    def set_to(**variables: str) -> None:
        for name in ("http", "https", "all", "no"):
            monkeypatch.delenv(f"{name}_proxy", raising=False)
            monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_to


@pytest.mark.parametrize(
    ("variables", "url", "proxy"),
    [
        ({}, "wss://a.example/", None),
        ({"HTTPS_PROXY": "http://p:1"}, "wss://a.example/", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1"}, "ws://a.example/", None),
        ({"http_proxy": "p:1"}, "ws://a.example/", "http://p:1"),
        ({"ALL_PROXY": "socks5h://p:1"}, "ws://a.example/", "socks5h://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "ALL_PROXY": "http://q:1"}, "wss://a/", "http://p:1"),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": ".example"}, "ws://a.example/", None),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "a.example:81"}, "ws://a.example:81/", None),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "a.example:81"}, "ws://a.example/", "http://p:1"),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "*"}, "ws://[::1]/", None),
    ],
)
def test_the_environment_names_the_proxy(environment, variables, url, proxy):
    environment(**variables)
    assert Dialer().proxy_for(Dialer.target(url)) == proxy


@pytest.mark.parametrize(
    ("option", "proxy"),
    [
        (None, None),
        (False, None),
        ("", None),
        ("p:1", "http://p:1"),
        ("SOCKS5://u:pw@p:1", "SOCKS5://u:pw@p:1"),
    ],
)
def test_the_option_overrides_the_environment(environment, option, proxy):
    environment(ALL_PROXY="http://other:1")
    assert Dialer(proxy=option).proxy_for(A) == proxy


def test_a_proxy_of_the_environment_that_cannot_be_used_is_named(environment):
    environment(ALL_PROXY="gopher://u:secret@p:1")
    with pytest.raises(ValueError, match="scheme 'gopher', expected one of http, https,") as caught:
        Dialer().proxy_for(A)
    assert "secret" not in str(caught.value)


# Options


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"subprotocols": "chat"}, "a list of names"),
        ({"subprotocols": ["a b"]}, "is not a token"),
        ({"ssl": True}, "ssl=True: an ssl.SSLContext"),
        ({"jar": {}}, r"jar=\{\}: an http.cookiejar.CookieJar"),
        ({"proxy": 8080}, "proxy=8080: a URL"),
        ({"proxy": "ftp://p"}, "proxy has the scheme 'ftp'"),
        ({"max_redirects": -1}, "max_redirects=-1"),
        ({"max_redirects": True}, "max_redirects=True"),
        ({"max_redirects": None}, "max_redirects=None"),
        ({"read_limit": 0}, "read_limit=0"),
    ],
)
def test_an_option_that_cannot_work_is_refused_at_once(options, complaint):
    with pytest.raises((TypeError, ValueError), match=complaint):
        Dialer(**options)


def test_a_context_for_tls_is_taken_as_it_is():
    context = ssl.create_default_context()
    assert Dialer(ssl=context).ssl is context


def test_the_typed_dict_names_the_options_and_their_types():
    named = {name: kind.__forward_arg__ for name, kind in DialerOptions.__annotations__.items()}
    assert named == {option.name: option.type for option in fields(Dialer)}
