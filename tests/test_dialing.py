"""What a Dialer asks of whom, and what it makes of the answer."""

from __future__ import annotations

import ssl
from dataclasses import fields, replace
from http.cookiejar import CookieJar

import pytest

from koko import __version__
from koko.core.deflate import Compression
from koko.dialing import Dialer, DialerOptions, Opened
from koko.errors import ErrBadHandshake
from koko.http import Response
from koko.opening.handshake import accept_response
from koko.opening.head import write_request

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
A = Dialer.target("wss://a.example/chat?room=1")


def moved(location: str, status: int = 302, **headers: str) -> Response:
    return Response(status, headers={"Location": location, **headers})


def rejected(verb, *arguments) -> str:
    with pytest.raises(ErrBadHandshake) as caught:
        verb(*arguments)
    assert caught.value.response is arguments[-1]
    return caught.value.reason


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


SECRETS = {"Authorization": "Bearer t", "Cookie": "a=1", "Host": "v.example", "X-Api-Key": "k"}
HARMLESS = {"accept-language": "eo", "Origin": "https://app.example", "User-Agent": "me"}


def test_credentials_stay_with_the_origin_they_are_for():
    dialer = Dialer(headers=SECRETS)
    there = dialer.redirect(A, moved("https://a.example:443/other"))
    assert dialer.request(there)[0].headers["Authorization"] == "Bearer t"
    assert dialer.request(there, {"Cookie": "b=2"})[0].headers["Cookie"] == "b=2"


@pytest.mark.parametrize("location", ["wss://b.example/", "wss://a.example:8443/", "//evil@b/"])
def test_credentials_never_go_to_another_origin(location):
    dialer = Dialer(headers=SECRETS)
    there = dialer.redirect(Dialer.target("wss://user:secret@a.example/"), moved(location))
    headers = dialer.request(there, {"Cookie": "b=2", "X-Token": "t"})[0].headers
    assert not {"Authorization", "Cookie", "X-Api-Key", "X-Token"} & set(headers)
    assert headers["Host"] == there.host_header


def test_what_is_no_secret_goes_to_another_origin():
    dialer = Dialer(headers=HARMLESS)
    headers = dialer.request(dialer.redirect(A, moved("//b.example/")))[0].headers
    assert {name: headers[name] for name in HARMLESS} == HARMLESS


def test_the_name_a_certificate_must_have_is_for_one_origin_too():
    dialer = Dialer(server_hostname="cert.example")
    assert dialer.hostname(A) == dialer.hostname(dialer.redirect(A, moved("/x"))) == "cert.example"
    assert dialer.hostname(dialer.redirect(A, moved("//b.example/"))) == "b.example"
    assert Dialer().hostname(Dialer.target("wss://[fe80::1%25eth0]/")) == "fe80::1"


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


def test_the_query_of_a_url_is_shown_nowhere(caplog):
    caplog.set_level("DEBUG", "koko.dialing")
    target = Dialer.target("ws://me:s3cret@a.example/room?token=s3cret")
    assert target.shown == "ws://a.example/room"
    assert "s3cret" not in repr(target)
    Dialer(proxy=None).proxy_for(target)
    with pytest.raises(ErrBadHandshake) as raised:
        Dialer(max_redirects=1).redirect(
            replace(target, redirects=1), Response(302, b"", {"Location": "/in?token=s3cret"})
        )
    assert "s3cret" not in str(raised.value)
    for location in ("ftp://me:s3cret@b.example/", "//me:s3cret@b.example:x/", "/#s3cret=1&?"):
        with pytest.raises(ErrBadHandshake) as raised:
            answer = Response(302, b"", {"Location": location})
            Dialer(max_redirects=1).redirect(replace(target, redirects=1), answer)
        assert "s3cret" not in str(raised.value)
    assert "s3cret" not in caplog.text


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
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "*"}, "ws://[2001:db8::1]/", None),
        ({"ALL_PROXY": "http://p:1"}, "ws://localhost/", None),
        ({"ALL_PROXY": "http://p:1"}, "ws://app.LOCALHOST./", None),
        ({"ALL_PROXY": "http://p:1"}, "wss://127.8.9.1/", None),
        ({"ALL_PROXY": "http://p:1"}, "ws://[::1]:81/", None),
        ({"ALL_PROXY": "http://p:1"}, "ws://[::ffff:127.0.0.1]/", None),
        ({"ALL_PROXY": "http://p:1"}, "ws://localhost.example/", "http://p:1"),
        ({"ALL_PROXY": "http://p:1"}, "ws://128.0.0.1/", "http://p:1"),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "x, 10.0.0.0/8"}, "ws://10.1.2.3/", None),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "fd00::/8"}, "ws://[fd00::1]/", None),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, "ws://11.1.2.3/", "http://p:1"),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "/, 10.0.0.0/8"}, "ws://a.example/", "http://p:1"),
    ],
)
def test_the_environment_names_the_proxy(environment, variables, url, proxy):
    environment(**variables)
    found = Dialer().proxy_for(Dialer.target(url))
    assert (found and found.name) == proxy


@pytest.mark.parametrize(
    ("option", "proxy"),
    [
        (None, None),
        (False, None),
        ("", None),
        ("p:1", "http://p:1"),
        ("SOCKS5://u:pw@p:1", "socks5://p:1"),
        (lambda url: f"http://for-{url[6:7]}:1", "http://for-a:1"),
        (lambda url: None, None),
    ],
)
def test_the_option_overrides_the_environment(environment, option, proxy):
    environment(ALL_PROXY="http://other:1")
    found = Dialer(proxy=option).proxy_for(A)
    assert (found and found.name) == proxy


def test_a_proxy_of_the_environment_that_cannot_be_used_is_named(environment):
    environment(ALL_PROXY="gopher://u:secret@p:1")
    with pytest.raises(ValueError, match="scheme 'gopher', expected one of http, https,") as caught:
        Dialer().proxy_for(A)
    assert "secret" not in str(caught.value)


def test_to_a_unix_socket_there_is_no_proxy(environment):
    environment(ALL_PROXY="http://other:1")
    assert Dialer(unix="/s").proxy_for(A) is None


# Options


def test_options_that_may_be_secret_are_not_shown():
    dialer = Dialer(headers={"X": "s3cret"}, proxy="http://me:s3cret@p")
    assert "s3cret" not in repr(dialer)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"subprotocols": "chat"}, "a list of names"),
        ({"subprotocols": ["a b"]}, "is not a token"),
        ({"ssl": True}, "ssl=True, expected an ssl.SSLContext"),
        ({"jar": {"a": "s3cret"}}, r"^jar= is a dict, expected an http.cookiejar.CookieJar"),
        ({"proxy": b"http://me:s3cret@p"}, "^proxy=a bytes, expected a URL"),
        ({"headers": {"Cookie": "s3cret\n"}}, r"^'Cookie' has '\\n', which no header may"),
        ({"origin": 5}, "^origin=5, expected a str, or None"),
        ({"user_agent": b"a"}, "^user_agent=b'a', expected a str, or None"),
        ({"server_hostname": 5}, "^server_hostname=5, expected a str, or None"),
        ({"ssl": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)}, "^ssl= is a server's: make it with"),
        ({"max_size": 5}, r"^Dialer\(\) has no option 'max_size'; read_limit= bounds a message"),
        ({"proxy": 8080}, "proxy=8080, expected a URL"),
        ({"proxy": "http://"}, "proxy has no host"),
        ({"proxy_ssl": True}, "proxy_ssl=True, expected an ssl.SSLContext"),
        ({"net_dial": "tcp"}, "net_dial='tcp' must be a function of host, port, timeout"),
        ({"unix": 7}, "expected str, bytes or os.PathLike"),
        ({"unix": "/s", "proxy": "http://p"}, "unix='/s' cannot be combined with net_dial"),
        ({"unix": "/s", "net_dial": print}, "unix='/s' cannot be combined with net_dial"),
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
