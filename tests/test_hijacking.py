"""What is read out of other servers' requests, and what is left to the servers afterwards."""

from __future__ import annotations

import io
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from koko.errors import HandshakeError
from koko.hijacking import hijackable
from koko.http import Response


def environ(**more: Any) -> dict[str, Any]:
    made = {
        "REQUEST_METHOD": "GET",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SCRIPT_NAME": "/app",
        "PATH_INFO": "/caf\xc3\xa9",
        "QUERY_STRING": "a=b",
        "CONTENT_LENGTH": "",
        "HTTP_HOST": "koko.example",
        "HTTP_SEC_WEBSOCKET_VERSION": "13",
        "wsgi.input": io.BytesIO(),
        "wsgi.url_scheme": "http",
    }
    return made | more


# The request


@pytest.mark.parametrize(
    ("more", "peer"),
    [
        ({"REMOTE_ADDR": "203.0.113.9", "REMOTE_PORT": "4711"}, ("203.0.113.9", 0)),
        ({"REMOTE_ADDR": "::1"}, ("::1", 0)),
        ({"REMOTE_ADDR": ""}, ""),  # a Unix socket: gunicorn,
        ({"REMOTE_ADDR": "<local>"}, ""),  # werkzeug,
        ({}, ""),  # gevent
    ],
)
def test_the_peer_is_known_by_its_address(more, peer):
    assert hijackable(environ(**more)).peer == peer


@pytest.mark.parametrize("where", ["gunicorn.socket", "werkzeug.socket", "wsgi.input"])
def test_the_port_is_that_of_the_socket_unless_middleware_knows_another_address(where):
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as client, server.accept()[0] as ours:
            given = ours.makefile("rb") if where == "wsgi.input" else ours
            known = {where: given, "REMOTE_ADDR": "127.0.0.1", "REMOTE_PORT": "1"}
            assert hijackable(environ(**known)).peer == client.getsockname()
            corrected = known | {"REMOTE_ADDR": "203.0.113.9"}
            assert hijackable(environ(**corrected)).peer == ("203.0.113.9", 0)
            if given is not ours:
                given.close()


def test_a_request_is_put_together_from_an_environ():
    request = hijackable(environ()).request
    assert (request.method, request.target, request.version) == ("GET", "/app/caf%C3%A9?a=b", "1.1")
    assert (request.path, request.query) == ("/app/café", "a=b")
    assert dict(request.headers) == {"Host": "koko.example", "Sec-Websocket-Version": "13"}


def test_the_target_is_as_it_was_sent_where_the_server_tells():
    assert hijackable(environ(RAW_URI="/caf%c3%a9?x")).request.target == "/caf%c3%a9?x"


def test_an_announced_body_is_seen():
    headers = hijackable(environ(CONTENT_LENGTH="5", CONTENT_TYPE="text/plain")).request.headers
    assert (headers["Content-Length"], headers["Content-Type"]) == ("5", "text/plain")


def test_a_request_object_of_a_framework_is_known_by_its_environ():
    assert hijackable(SimpleNamespace(environ=environ())).request.target == "/app/caf%C3%A9?a=b"


def test_tls_is_told_by_the_scheme():
    assert hijackable(environ(**{"wsgi.url_scheme": "https"})).secure
    assert not hijackable(environ()).secure


@pytest.mark.parametrize("stranger", [None, {}, "GET /", object()])
def test_what_is_no_request_is_told_what_is(stranger):
    with pytest.raises(TypeError, match="expected a WSGI environ or a request that has one"):
        hijackable(stranger)


def test_an_answer_leaves_the_hop_by_hop_headers_to_a_wsgi_server():
    refusal = Response(426, "no", {"Upgrade": "websocket", "Connection": "close", "X": "y"})
    answer = hijackable(environ()).answer(refusal)
    assert dict(answer.headers) == {"X": "y", "Content-Type": "text/plain; charset=utf-8"}
    assert (answer.status, answer.body) == (426, b"no")


# The socket


@pytest.fixture
def pair():
    theirs, client = socket.socketpair()
    with theirs, client:
        yield theirs, client


def test_what_the_server_has_read_ahead_is_handed_over_and_no_longer_there(pair):
    theirs, client = pair
    with theirs.makefile("rb") as reader:
        client.sendall(b"the last line of the head\r\nearly")
        reader.readline()
        ours, early = hijackable(environ(**{"wsgi.input": reader})).take()
        with ours:
            assert early == b"early"
            client.sendall(b"later")
            assert ours.recv(100) == b"later"
            assert reader.read() == b""


def test_nothing_read_ahead_is_not_waited_for(pair):
    theirs, _ = pair
    theirs.settimeout(5)
    with theirs.makefile("rb") as reader:
        ours, early = hijackable(environ(**{"wsgi.input": reader})).take()
        with ours:
            assert early == b""
            assert theirs.gettimeout() == 5


def test_the_server_is_left_with_a_dead_socket_that_it_may_close(pair):
    theirs, client = pair
    with theirs.makefile("rb") as reader:
        ours, _ = hijackable(environ(**{"wsgi.input": reader})).take()
    with ours:
        with pytest.raises(BrokenPipeError):
            theirs.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        assert theirs.recv(1) == b""
        theirs.close()
        ours.sendall(b"still here")
        assert client.recv(100) == b"still here"


def test_gunicorn_gives_what_its_parser_holds(pair):
    theirs, _ = pair
    unreader = SimpleNamespace(buf=io.BytesIO(b"early"))
    body = SimpleNamespace(reader=SimpleNamespace(unreader=unreader))
    ours, early = hijackable(environ(**{"gunicorn.socket": theirs, "wsgi.input": body})).take()
    with ours:
        assert early == b"early"
        assert unreader.buf.getvalue() == b""


def test_a_gunicorn_that_keeps_it_elsewhere_is_not_robbed(pair):
    theirs, client = pair
    strange = environ(**{"gunicorn.socket": theirs, "wsgi.input": object()})
    with pytest.raises(HandshakeError, match="500: Koko does not know where"):
        hijackable(strange).take()
    theirs.sendall(b"still its own")
    assert client.recv(100) == b"still its own"


def test_a_server_that_keeps_its_socket_is_named():
    with pytest.raises(HandshakeError, match="500: mod_wsgi does not hand over its socket"):
        hijackable(environ(SERVER_SOFTWARE="mod_wsgi")).take()


@pytest.mark.parametrize(
    "of_eventlet",
    [
        {"eventlet.input": io.BytesIO(), "SERVER_PROTOCOL": "HTTP/1.0"},
        {"gunicorn.socket": type("GreenSocket", (), {"__module__": "eventlet.greenio.base"})()},
    ],
    ids=["its own server", "under gunicorn"],
)
def test_eventlet_is_refused_with_the_way_out(of_eventlet):
    request = hijackable(environ(**of_eventlet))
    assert request.request.version == "1.1"  # which it calls 1.0, whatever was asked
    with pytest.raises(HandshakeError, match="eventlet is not supported.* gevent or gthread"):
        request.take()
