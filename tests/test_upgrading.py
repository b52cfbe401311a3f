"""Whom an Upgrader lets in, and what it tells whom it does not."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest
from multidict import CIMultiDict

from koko.core.deflate import Compression
from koko.errors import HandshakeError
from koko.http import Request, Response
from koko.upgrading import Accepted, Refused, Upgrader, UpgraderOptions, source_of

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def asked(
    origin: str | list[str] | None = None, *, host: str = "a.example", **more: str
) -> Request:
    headers = CIMultiDict(
        {
            "Host": host,
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": KEY,
            "Sec-WebSocket-Version": "13",
        }
    )
    for one in origin if isinstance(origin, list) else [origin]:
        if one is not None:
            headers.add("Origin", one)
    for name, value in more.items():
        headers.add(name.replace("_", "-"), value)
    return Request("GET", "/", headers)


def accepted(verdict: Accepted | Refused) -> Accepted:
    assert isinstance(verdict, Accepted), verdict
    return verdict


def refused(verdict: Accepted | Refused, status: int) -> str:
    assert isinstance(verdict, Refused)
    assert verdict.error.status == verdict.response.status == status
    return verdict.error.reason


# The decision


def test_a_good_request_is_accepted():
    verdict = accepted(Upgrader().decide(asked()))
    assert verdict.response.status == 101
    assert verdict.response.headers["Sec-WebSocket-Accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert (verdict.subprotocol, verdict.agreed) == (None, None)


def test_a_bad_request_is_refused_with_its_sentence():
    request = Request("GET", "/", CIMultiDict({"Host": "a", "Upgrade": "h2c"}))
    verdict = Upgrader().decide(request)
    reason = "header 'Upgrade' is 'h2c', expected 'websocket' (RFC 6455 §4.2.1)"
    assert refused(verdict, 426) == reason
    assert verdict.response.body.decode() == reason
    assert verdict.response.headers["Sec-WebSocket-Version"] == "13"


def test_headers_of_the_application_are_added_to_the_101():
    verdict = accepted(Upgrader().decide(asked(), {"Set-Cookie": "a=1"}))
    assert verdict.response.headers["Set-Cookie"] == "a=1"


@pytest.mark.parametrize(
    "name", ["Sec-WebSocket-Extensions", "sec-websocket-accept", "Upgrade", "Connection"]
)
def test_headers_of_the_handshake_are_not(name):
    with pytest.raises(ValueError, match=f"header '{name}' cannot be given"):
        Upgrader().decide(asked(), {name: "x"})


def test_error_may_write_the_refusal():
    def page(request: Request, error: HandshakeError) -> Response:
        return Response(
            error.status, f"<p>{request.path}: {error.status}", {"Content-Type": "text/html"}
        )

    verdict = Upgrader(error=page).decide(asked("https://evil.example"))
    refused(verdict, 403)
    assert verdict.response.body == b"<p>/: 403"


def test_error_may_not_let_the_client_in():
    with pytest.raises(ValueError, match="returned a 101"):
        Upgrader(error=lambda *_: Response(101)).decide(asked("https://evil.example"))
    with pytest.raises(TypeError, match="error= returned None, expected a Response"):
        Upgrader(error=lambda *_: None).decide(asked("https://evil.example"))


# Origins


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (None, "a.example"),
        ("https://a.example", "a.example"),
        ("http://a.example", "a.example"),
        ("https://a.example", "A.Example"),
        ("https://a.example:443", "a.example"),
        ("https://a.example", "a.example:443"),
        ("http://a.example", "a.example:80"),
        ("http://a.example:8080", "a.example:8080"),
        ("http://[::1]:8080", "[::1]:8080"),
    ],
)
def test_a_page_of_the_same_host_is_let_in(origin, host):
    accepted(Upgrader().decide(asked(origin, host=host)))


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://evil.example", "a.example"),
        ("https://a.example.evil.example", "a.example"),
        ("https://a.example:8443", "a.example"),
        ("https://a.example", "a.example:80"),
        ("http://a.example", "a.example:443"),
        ("https://a.example", "b.a.example"),
        ("null", "a.example"),
        ("", "a.example"),
        ("", ""),
        ("a.example", "a.example"),
        ("https://a.example/", "a.example"),
        ("https://a.example@evil.example", "a.example"),
        ("https://evil.example#a.example", "a.example"),
        ("chrome-extension://a.example", "a.example"),
        ("https://a.example", "a.example:x"),
    ],
)
def test_a_page_of_another_host_is_refused(origin, host):
    reason = refused(Upgrader().decide(asked(origin, host=host)), 403)
    assert reason == f"origin {origin!r} is not the host {host!r}"


def test_behind_a_proxy_the_scheme_of_the_page_may_differ_but_not_over_our_own_tls():
    accepted(Upgrader().decide(asked("https://a.example"), secure=False))
    accepted(Upgrader().decide(asked("https://a.example"), secure=True))
    accepted(Upgrader().decide(asked("http://a.example:8080", host="a.example:8080"), secure=True))
    refused(Upgrader().decide(asked("http://a.example"), secure=True), 403)


def test_two_origins_are_refused():
    verdict = Upgrader(origins="*").decide(asked(["https://a.example", "https://b.example"]))
    assert refused(verdict, 403) == "header 'Origin' came 2 times (RFC 6454 §7.3)"


@pytest.mark.parametrize(
    ("pattern", "origin"),
    [
        ("*", "https://anywhere.example"),
        ("*", "null"),
        ("null", "null"),
        ("https://app.example", "https://app.example"),
        ("https://app.example", "https://APP.example:443"),
        ("https://app.example:443", "https://app.example"),
        ("https://app.example:8443", "https://app.example:8443"),
        ("HTTPS://App.Example", "https://app.example"),
        ("https://*.example", "https://a.b.example"),
        ("https://pr-*.app.example", "https://pr-17.app.example"),
        ("https://*", "https://anywhere"),
        ("http://localhost:*", "http://localhost:5173"),
        ("http://localhost:*", "http://localhost"),
        ("http://[::1]", "http://[::1]"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("file://", "file://"),
        (re.compile(r"https://\d+\.example"), "https://17.example"),
    ],
)
def test_a_listed_origin_is_let_in(pattern, origin):
    accepted(Upgrader(origins=["https://other.example", pattern]).decide(asked(origin)))


@pytest.mark.parametrize(
    ("pattern", "origin"),
    [
        ("https://app.example", "http://app.example"),
        ("https://app.example", "https://app.example:8443"),
        ("https://app.example", "https://app.example.evil.example"),
        ("https://app.example", "https://appxexample"),
        ("https://*.example", "https://example"),
        ("https://*.example", "https://evil.test/.example"),
        ("https://*.example", "https://evil.test:80.example"),
        ("https://*.example", "https://evil.test@x.example"),
        ("https://*", "https://app.example:8443"),
        ("https://*", "null"),
        ("null", "https://app.example"),
        ("file://", "file://evil.example"),
        ("https://*", "file://"),
        (re.compile(r"https://app\.example"), "https://app.example.evil.example"),
    ],
)
def test_an_origin_that_is_not_listed_is_refused(pattern, origin):
    reason = refused(Upgrader(origins=[pattern]).decide(asked(origin)), 403)
    assert reason == f"origin {origin!r} is not in origins={[pattern]!r}"


def test_a_refused_origin_comes_with_advice_for_the_operator():
    decision = Upgrader().decide(asked("https://app.example", host="10.0.0.7:8000"))
    assert isinstance(decision, Refused)
    assert decision.error.advice == (
        "to let this page in, add 'https://app.example' to origins=; behind a proxy, have it pass "
        "the public host on (nginx: proxy_set_header Host $http_host)"
    )
    listed = Upgrader(origins=["https://other.example"]).decide(asked("https://app.example"))
    assert isinstance(listed, Refused)
    assert listed.error.advice == "to let this page in, add 'https://app.example' to origins="


def test_a_proxy_that_passes_the_host_in_a_header_of_its_own_is_to_be_named():
    for header in ("X_Forwarded_Host", "Forwarded"):
        decision = Upgrader().decide(asked("https://app.example", **{header: "host=app.example"}))
        assert isinstance(decision, Refused)
        assert decision.error.advice.endswith(
            "(nginx: proxy_set_header Host $http_host), or name it in trusted_proxies=, "
            "as it passes another header"
        )


@pytest.mark.parametrize(
    ("lacking", "version", "status"),
    [("Upgrade", "1.1", 426), ("Connection", "1.1", 426), ("", "1.0", 400)],
)
def test_an_upgrade_that_a_proxy_has_not_passed_on_comes_with_advice(lacking, version, status):
    headers = CIMultiDict(asked().headers)
    headers.pop(lacking, None)
    decision = Upgrader().decide(Request("GET", "/", headers, version))
    assert isinstance(decision, Refused)
    assert decision.error.status == status
    assert "have the proxy pass the upgrade on (nginx: " in decision.error.advice
    del headers["Sec-WebSocket-Key"]
    page = Upgrader().decide(Request("GET", "/", headers, version))
    assert isinstance(page, Refused)
    assert page.error.status == status
    assert page.error.advice == ""


def test_the_host_that_a_proxy_tells_is_compared_in_the_place_of_the_header():
    page = asked("https://app.example", host="10.0.0.7:8000")
    accepted(Upgrader().decide(page, host="app.example"))
    accepted(Upgrader().decide(page, host="app.example", secure=True))
    plain = asked("http://app.example", host="10.0.0.7:8000")
    refused(Upgrader().decide(plain, host="app.example", secure=True), 403)
    reason = refused(Upgrader().decide(page, host="b.example"), 403)
    assert reason == "origin 'https://app.example' is not the host 'b.example'"


def test_who_sends_no_origin_is_no_page_and_let_in():
    accepted(Upgrader(origins=["https://app.example"]).decide(asked()))
    accepted(Upgrader(origins=[]).decide(asked()))


def test_check_origin_decides_alone():
    local = Upgrader(check_origin=lambda request: request.headers.get("Origin") == "null")
    accepted(local.decide(asked("null")))
    reason = refused(local.decide(asked("https://a.example")), 403)
    assert reason == "origin 'https://a.example' was refused by check_origin="
    assert refused(local.decide(asked()), 403) == "origin None was refused by check_origin="


# Proxies


def test_trusted_proxies_are_checked_where_they_are_given():
    Upgrader(trusted_proxies=["10.0.0.0/8", "::1", "unix"])
    with pytest.raises(TypeError, match=r"a list, as in \['10.0.0.1'\]"):
        Upgrader(trusted_proxies="10.0.0.1")
    with pytest.raises(ValueError, match="'nginx' is neither an address"):
        Upgrader(trusted_proxies=["nginx"])


def test_only_the_proxies_that_are_named_are_believed():
    request = asked(X_Forwarded_For="203.0.113.9")
    proxy, named = ("10.0.0.1", 1), Upgrader(trusted_proxies=["10.0.0.0/8"])
    assert source_of(named, request, proxy, False).address == ("203.0.113.9", 0)
    for peer, upgrader in [(("11.0.0.1", 1), named), (proxy, Upgrader())]:
        assert source_of(upgrader, request, peer, True) == (None, True, None)


# Subprotocols


@pytest.mark.parametrize(
    ("spoken", "offered", "chosen"),
    [
        (["a", "b"], "b, a", "b"),  # the client's preference, as gorilla does
        (["a", "b"], "c, a", "a"),
        (["a"], "A", None),
        (["a"], "", None),
        ([], "a", None),
        (None, "a", None),
    ],
)
def test_the_first_subprotocol_of_the_client_that_we_speak_is_chosen(spoken, offered, chosen):
    request = asked(Sec_WebSocket_Protocol=offered)
    verdict = accepted(Upgrader(subprotocols=spoken).decide(request))
    assert verdict.subprotocol == chosen
    assert verdict.response.headers.get("Sec-WebSocket-Protocol") == chosen


def test_without_a_policy_the_application_names_the_subprotocol():
    given = {"Sec-WebSocket-Protocol": "b"}
    request = asked(Sec_WebSocket_Protocol="a, b")
    verdict = accepted(Upgrader().decide(request, given))
    assert verdict.subprotocol == "b"
    assert verdict.response.headers.getall("Sec-WebSocket-Protocol") == ["b"]
    assert given == {"Sec-WebSocket-Protocol": "b"}


def test_a_subprotocol_that_was_not_offered_is_never_answered():
    verdict = accepted(Upgrader().decide(asked(), {"Sec-WebSocket-Protocol": "b"}))
    assert verdict.subprotocol is None
    assert "Sec-WebSocket-Protocol" not in verdict.response.headers


def test_with_a_policy_the_application_cannot_name_the_subprotocol():
    with pytest.raises(ValueError, match="use subprotocols="):
        Upgrader(subprotocols=["a"]).decide(asked(), {"Sec-WebSocket-Protocol": "a"})


def test_select_subprotocol_chooses_from_what_was_offered():
    request = asked(Sec_WebSocket_Protocol="a, b")
    last = Upgrader(select_subprotocol=lambda request, offered: offered[-1])
    assert accepted(last.decide(request)).subprotocol == "b"
    none = Upgrader(select_subprotocol=lambda request, offered: None)
    assert accepted(none.decide(request)).subprotocol is None
    wrong = Upgrader(select_subprotocol=lambda request, offered: "c")
    with pytest.raises(ValueError, match=r"chose 'c', which was not offered"):
        wrong.decide(request)


def test_select_subprotocol_may_refuse():
    def picky(request: Request, offered: list[str]) -> str:
        raise HandshakeError(400, "speak chat or go")

    assert refused(Upgrader(select_subprotocol=picky).decide(asked()), 400) == "speak chat or go"


# Compression


def test_compression_is_agreed_on_when_both_want_it():
    request = asked(Sec_WebSocket_Extensions="permessage-deflate")
    verdict = accepted(Upgrader(compression=True).decide(request))
    assert verdict.agreed is not None
    assert verdict.response.headers["Sec-WebSocket-Extensions"].startswith("permessage-deflate")
    assert accepted(Upgrader(compression=Compression(level=6)).decide(request)).agreed.level == 6


@pytest.mark.parametrize(
    ("ours", "theirs"), [(False, "permessage-deflate"), (True, None), (True, "x-other")]
)
def test_compression_is_off_when_one_does_not(ours, theirs):
    request = asked(**({"Sec_WebSocket_Extensions": theirs} if theirs else {}))
    verdict = accepted(Upgrader(compression=ours).decide(request))
    assert verdict.agreed is None
    assert "Sec-WebSocket-Extensions" not in verdict.response.headers


def test_a_malformed_offer_of_extensions_is_refused():
    request = asked(Sec_WebSocket_Extensions="permessage-deflate; =")
    assert "Sec-WebSocket-Extensions" in refused(Upgrader(compression=True).decide(request), 400)


# Options


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"origins": "https://app.example"}, r"a list, as in \['https://app.example'\]"),
        ({"origins": ["app.example"]}, r"'app.example' is not '\*', 'null' or scheme://host"),
        ({"origins": ["https://app.example/"]}, "scheme://host"),
        ({"origins": ["https://app.example:http"]}, "scheme://host"),
        ({"origins": [None]}, "None is neither a str nor a compiled pattern"),
        ({"origins": ["*"], "check_origin": bool}, "both decide"),
        ({"check_origin": True}, "check_origin is a function, not True"),
        ({"subprotocols": "chat"}, "a list of names"),
        ({"subprotocols": ["a", "a"]}, "names one twice"),
        ({"subprotocols": ["a"], "select_subprotocol": max}, "both choose"),
        ({"select_subprotocol": "a"}, "select_subprotocol is a function, not 'a'"),
        ({"error": 403}, "error is a function, not 403"),
        ({"read_limit": 0}, "read_limit=0"),
    ],
)
def test_an_option_that_cannot_work_is_refused_at_once(options, complaint):
    with pytest.raises((TypeError, ValueError), match=complaint):
        Upgrader(**options)


def test_the_typed_dict_names_the_options_and_their_types():
    named = {name: kind.__forward_arg__ for name, kind in UpgraderOptions.__annotations__.items()}
    assert named == {option.name: option.type for option in fields(Upgrader)}
