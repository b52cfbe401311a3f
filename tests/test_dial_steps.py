"""A dial without a face: which steps it takes, and what its timeout says of each."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from koko.dial_plan import Dial, OutOfTimeError
from koko.dial_steps import (
    Attempts,
    CallNetDial,
    Connect,
    ConnectUnix,
    Disconnect,
    Done,
    Exchange,
    Resolve,
    StartTLS,
)
from koko.dialing import Dialer, Opened
from koko.errors import ErrBadHandshake, HandshakeError
from koko.opening.handshake import accept_key
from koko.opening.head import RequestParser

URL = "ws://me:s3cret@a.example/room?token=s3cret"
WITHIN = "the handshake with ws://a.example/room did not finish within 10 s: "
PROXY = "https://me:s3cret@p.example"
TUNNEL = b"HTTP/1.1 200 OK\r\n\r\n"
MOVED = b"HTTP/1.1 302 Found\r\nLocation: ws://b.example/?q=s3cret\r\nContent-Length: %d\r\n\r\n"


class Session:
    """What TLS has agreed on."""

    def __init__(self, alpn: str | None = None) -> None:
        self.alpn = alpn

    def selected_alpn_protocol(self) -> str | None:
        return self.alpn

    def version(self) -> str:
        return "TLSv1.3"


class Played:
    """A dial whose steps are performed by the test."""

    def __init__(self, url: str = URL, **options: Any) -> None:
        self.dial = Dial(Dialer(**{"proxy": None, **options}), url, None, 1000.0)
        self.steps = self.dial.steps()
        self.step: Any = next(self.steps)

    def answer(self, answer: Any = None) -> Any:
        self.step = self.steps.send(answer)
        return self.step

    def hears(self, octets: bytes) -> Any:
        """Have the peer answer; the step must be an exchange."""
        return self.answer(self.step.reader.feed(octets))

    def resolved(self, *addresses: Any) -> Any:
        assert isinstance(self.step, Resolve)
        return self.answer(addresses or [address("10.0.0.1")])

    def lacking(self) -> str:
        """End the dial here; return what its timeout says."""
        with pytest.raises(TimeoutError) as caught:
            self.steps.throw(OutOfTimeError())
        sentence = str(caught.value)
        assert type(caught.value) is TimeoutError
        assert sentence.startswith(WITHIN)
        return sentence.removeprefix(WITHIN)


def address(host: str, *more: int) -> Any:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return family, socket.SOCK_STREAM, 6, "", (host, 80, *more)


def accepted(octets: bytes, behind: bytes = b"") -> bytes:
    request = RequestParser().feed(octets)
    assert request is not None
    key = accept_key(request.headers["Sec-WebSocket-Key"])
    head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    return f"{head}Sec-WebSocket-Accept: {key}\r\n\r\n".encode() + behind


# Which steps


def test_a_plain_dial_resolves_connects_and_asks():
    played = Played()
    assert played.step == Resolve("a.example", 80)
    connect = played.resolved()
    assert isinstance(connect, Connect)
    assert (connect.host, connect.port, connect.for_tls) == ("a.example", 80, False)
    exchange = played.answer()
    assert isinstance(exchange, Exchange)
    assert exchange.octets.startswith(b"GET /room?token=s3cret HTTP/1.1\r\n")
    done = played.hears(accepted(exchange.octets, b"early"))
    assert isinstance(done, Done)
    assert (done.opened, done.response.status, done.early) == (Opened(None, None), 101, b"early")


def test_tls_begins_on_the_connection_before_the_request():
    played = Played("wss://a.example/", server_hostname="cert.example")
    assert played.resolved().for_tls
    assert played.answer() == StartTLS("cert.example", None)
    assert isinstance(played.answer(Session()), Exchange)


def test_a_session_for_another_protocol_ends_the_dial():
    played = Played("wss://a.example/")
    played.resolved()
    played.answer()
    with pytest.raises(HandshakeError, match="chose 'h2' in ALPN"):
        played.answer(Session("h2"))


def test_through_a_secure_proxy_there_is_tls_twice_with_the_tunnel_between():
    played = Played("wss://a.example/", proxy=PROXY)
    assert played.step == Resolve("p.example", 443)
    assert played.resolved().for_tls
    assert played.answer() == StartTLS("p.example", None)
    asking = played.answer(Session())
    assert asking.octets.startswith(b"CONNECT a.example:443 HTTP/1.1\r\n")
    assert played.hears(TUNNEL) == StartTLS("a.example", None)
    assert played.answer(Session()).octets.startswith(b"GET / ")


def test_a_connection_on_which_tls_begins_behind_a_plain_proxy_is_for_tls_as_well():
    assert Played("wss://a.example/", proxy="http://p").resolved().for_tls
    assert Played("ws://a.example/", proxy="https://p").resolved().for_tls
    assert not Played("ws://a.example/", proxy="http://p").resolved().for_tls


def test_a_proxy_that_refuses_ends_the_dial():
    played = Played(proxy=PROXY)
    played.resolved()
    played.answer()
    played.answer(Session())
    with pytest.raises(ErrBadHandshake, match="the proxy https://p.example answered 'No'"):
        played.hears(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")


def test_net_dial_and_a_unix_socket_take_the_place_of_the_first_hop():
    def net_dial(host: str, port: int, timeout: float | None) -> Any:
        raise NotImplementedError

    assert Played(net_dial=net_dial).step == CallNetDial("a.example", 80, False, net_dial)
    through = Played(net_dial=net_dial, proxy="http://p:3128")
    assert through.step == CallNetDial("p", 3128, False, net_dial)
    assert Played(unix="/s").step == ConnectUnix("a.example", 80, False, "/s")


def test_a_redirect_drops_the_connection_and_begins_anew():
    played = Played()
    played.resolved()
    played.answer()
    assert played.hears(MOVED % 0) == Disconnect()
    assert played.answer() == Resolve("b.example", 80)


def test_a_redirect_whose_body_never_ends_is_not_followed_when_the_time_is_over():
    played = Played()
    played.resolved()
    played.answer()
    played.step.reader.feed(MOVED % 9)
    assert played.lacking() == "no answer to the request came, only the beginning of one"


def test_what_goes_wrong_in_a_step_ends_the_dial():
    played = Played()
    played.resolved()
    error = ConnectionRefusedError("no")
    with pytest.raises(ConnectionRefusedError) as caught:
        played.steps.throw(error)
    assert caught.value is error


def test_of_a_refusal_that_breaks_off_what_came_is_shown():
    played = Played()
    played.resolved()
    played.answer()
    played.step.reader.feed(b"HTTP/1.1 401 No\r\nContent-Length: 9\r\n\r\nno")
    with pytest.raises(ErrBadHandshake) as caught:
        played.steps.throw(ConnectionResetError())
    assert caught.value.response.body == b"no"


def test_the_systems_own_timeout_is_not_ours():
    played = Played()
    played.resolved()
    with pytest.raises(TimeoutError, match="the system"):
        played.steps.throw(TimeoutError(110, "the system gave up"))


# What a timeout says


def test_the_deadline_is_for_the_whole_dial():
    played = Played()
    played.resolved()
    played.answer()
    played.hears(MOVED % 0)
    assert played.dial.deadline == 1010.0
    assert Played(handshake_timeout=None).dial.deadline is None


def test_every_address_that_was_tried_is_named_with_what_became_of_it():
    far, near, nearer = address("fd00::1", 0, 0), address("10.0.0.1"), address("10.0.0.2")
    attempts = Attempts("ws://a.example/", "a.example", 80, [far, near, nearer])
    assert attempts.lacking == "no time was left to connect"
    assert attempts.begin() == far
    assert attempts.lacking == "the TCP connection to [fd00::1]:80 was not accepted"
    attempts.failed(far, OSError(101, "whatever"))
    assert (attempts.begin(), attempts.begin()) == (near, nearer)
    assert attempts.lacking == (
        "TCP connections to [fd00::1]:80 (Network is unreachable), 10.0.0.1:80 and 10.0.0.2:80"
        " were not accepted"
    )


def test_the_way_to_a_proxy_is_told_from_the_one_behind_it():
    reached = "the proxy https://p.example was not reached: "

    def played() -> Played:
        played = Played(proxy=PROXY)
        played.resolved()
        played.answer()
        return played

    assert played().lacking() == f"{reached}the TLS handshake with p.example did not finish"
    asked = played()
    asked.answer(Session())
    assert asked.lacking() == "no answer from the proxy https://p.example came"
    asked = played()
    asked.answer(Session())
    asked.hears(TUNNEL)
    assert asked.lacking() == "no answer to the request came"


def test_an_answer_that_has_begun_is_told_from_none():
    for came, lacking in (b"", ""), (b"H", ", only the beginning of one"):
        played = Played()
        played.resolved()
        played.answer()
        played.step.reader.feed(came)
        assert played.lacking() == f"no answer to the request came{lacking}"


def test_a_timeout_after_a_redirect_says_so_and_forgets_what_came_before():
    played = Played(proxy="http://p.example")
    played.resolved().attempts.begin()
    played.answer()
    played.hears(TUNNEL)
    played.hears(MOVED % 0)
    played.answer()
    connect = played.resolved()
    after = "after a redirect to ws://b.example/, the proxy http://p.example was not reached: "
    connect.attempts.begin()
    assert played.lacking() == f"{after}the TCP connection to 10.0.0.1:80 was not accepted"


# SOCKS


def test_a_socks_proxy_is_asked_in_exchanges_over_the_same_connection():
    played = Played(proxy="socks5h://me:s3cret@p.example")
    assert played.step == Resolve("p.example", 1080)
    played.resolved()
    assert played.answer().octets == b"\x05\x02\x00\x02"
    assert played.step.reader.feed(b"\x05") is None, "half an answer"
    assert played.hears(b"\x02").octets == b"\x01\x02me\x06s3cret"
    assert played.hears(b"\x01\x00").octets == b"\x05\x01\x00\x03\x09a.example\x00\x50"
    assert played.hears(b"\x05\x00\x00\x01" + bytes(6)).octets.startswith(b"GET /room")


@pytest.mark.parametrize(("scheme", "only_ipv4"), [("socks4", True), ("socks5", False)])
def test_a_socks_proxy_that_does_not_resolve_is_given_an_address(scheme, only_ipv4):
    played = Played(proxy=f"{scheme}://p.example")
    assert played.step == Resolve("a.example", 80, only_ipv4)
    assert played.resolved(address("10.0.0.9")) == Resolve("p.example", 1080)


def test_a_socks_proxy_that_speaks_on_in_the_place_of_the_server_is_refused():
    played = Played(proxy="socks4a://p.example")
    played.resolved()
    played.answer()
    with pytest.raises(ConnectionError, match="sent b'x' before the target was asked"):
        played.hears(b"\x00\x5a" + bytes(6) + b"x")


def test_a_socks_proxy_that_hangs_up_has_refused():
    played = Played(proxy="socks4a://p.example")
    played.resolved()
    played.answer()
    with pytest.raises(ConnectionError, match="the proxy socks4a://p.example refused: "):
        played.step.reader.feed_eof()


def test_no_step_shows_a_secret():
    played = Played(proxy=PROXY)
    shown = [repr(played.step), repr(played.resolved()), repr(played.answer())]
    shown += [repr(played.answer(Session())), repr(played.hears(TUNNEL))]
    assert "s3cret" not in "".join(shown)
