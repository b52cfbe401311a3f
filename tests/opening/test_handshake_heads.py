"""Opening handshakes as browsers, servers and proxies write them, and how they are read.

What is refused here is refused by ``websockets`` and ``ws`` as well, or would let two readers of
one head see different things.
"""

from __future__ import annotations

import pytest

from koko.errors import HandshakeError
from koko.opening.handshake import check_request, check_response, is_websocket_upgrade
from koko.opening.head import RequestParser, ResponseParser

KEY, ACCEPT = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

ASKED = {
    "Chromium": """\
GET /chat?x=1 HTTP/1.1
Host: 127.0.0.1:38443
Connection: Upgrade
Pragma: no-cache
Cache-Control: no-cache
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156
Upgrade: websocket
Origin: http://127.0.0.1:38443
Sec-WebSocket-Version: 13
Accept-Encoding: gzip, deflate, br, zstd
Accept-Language: en-US,en;q=0.9
Sec-WebSocket-Key: {KEY}
Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits
""",
    "Firefox": """\
GET / HTTP/1.1
Host: app.example
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0
Accept: */*
Sec-WebSocket-Version: 13
Origin: https://app.example
Sec-WebSocket-Extensions: permessage-deflate
Sec-WebSocket-Key: {KEY}
Connection: keep-alive, Upgrade
Sec-Fetch-Dest: empty
Upgrade: websocket
""",
    "undici": """\
GET / HTTP/1.1
host: 127.0.0.1:43945
connection: upgrade
upgrade: websocket
sec-websocket-key: {KEY}
sec-websocket-version: 13
sec-websocket-extensions: permessage-deflate; client_max_window_bits
accept: */*
sec-fetch-mode: websocket
""",
    "nginx": """\
GET / HTTP/1.1
Upgrade: websocket
Connection: upgrade
Host: 127.0.0.1:44095
Sec-WebSocket-Key: {KEY}
Sec-WebSocket-Version: 13
""",
    "HAProxy": """\
GET / HTTP/1.1
host: 127.0.0.1:37911
upgrade: websocket
connection: Upgrade
sec-websocket-key: {KEY}
sec-websocket-version: 13
""",
    "Caddy": """\
GET / HTTP/1.1
Host: 127.0.0.1:37443
Connection: Upgrade
Sec-Websocket-Key: {KEY}
Sec-Websocket-Version: 13
Upgrade: websocket
X-Forwarded-For: 127.0.0.1
X-Forwarded-Proto: http
Accept-Encoding: gzip
""",
    "Envoy": """\
GET / HTTP/1.1
host: app.example
upgrade: websocket
connection: Upgrade
sec-websocket-version: 13
sec-websocket-key: {KEY}
x-forwarded-proto: https
x-request-id: 2f8e
content-length: 0
""",
    "a load balancer of AWS": """\
GET / HTTP/1.1
X-Forwarded-For: 203.0.113.7
X-Forwarded-Proto: https
X-Forwarded-Port: 443
Host: app.example
X-Amzn-Trace-Id: Root=1-67891233-abcdef012345678912345678
sec-websocket-version: 13
sec-websocket-key: {KEY}
connection: upgrade
upgrade: websocket
""",
    "a proxy that is asked by its absolute form": """\
GET http://app.example/chat HTTP/1.1
Host: app.example
Upgrade:   WebSocket\t
Connection: keep-alive
Connection: , Upgrade,
Sec-WebSocket-Key:{KEY}
Sec-WebSocket-Version: 13
""",
}


def read(parser, head, size):
    octets = head.replace("\n", "\r\n").replace("{KEY}", KEY).replace("{ACCEPT}", ACCEPT).encode()
    for at in range(0, len(octets), size):
        if (found := parser.feed(octets[at : at + size])) is not None:
            return found
    return None


@pytest.mark.parametrize("size", [1, 7, 4096])
@pytest.mark.parametrize("head", ASKED.values(), ids=ASKED)
def test_what_browsers_and_proxies_ask_is_a_good_request(head, size):
    request = read(RequestParser(), head + "\n", size)
    assert is_websocket_upgrade(request)
    check_request(request)


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        ("HTTP/1.1", "HTTP/1.0", 400),  # RFC 9110 §7.8: Upgrade in HTTP/1.0 MUST be ignored
        ("Host: 127.0.0.1:44095\n", "", 400),  # RFC 9112 §3.2
        ("Version: 13", "Version: 13, 8", 426),  # gorilla takes it; §4.1: the value must be 13
        (KEY, "c2hvcnQ=", 400),  # §4.2.1: 16 bytes
        ("Upgrade: websocket", "Upgrade: websocket/13", 426),
        ("Upgrade: websocket", "Upgrade:\n websocket", 400),  # RFC 9112 §5.2: a server refuses
        ("Upgrade: websocket", "Upgrade : websocket", 400),  # RFC 9112 §5.1
        ("Version: 13\n", "Version: 13\nContent-Length: 5\n", 413),
        ("Version: 13\n", "Version: 13\nTransfer-Encoding: chunked\n", 413),
    ],
)
def test_what_two_readers_could_understand_differently_is_refused(old, new, status):
    head = ASKED["nginx"].replace("{KEY}", KEY)
    assert old in head
    with pytest.raises(HandshakeError) as caught:
        check_request(read(RequestParser(), head.replace(old, new) + "\n", 4096))
    assert caught.value.status == status


TOKENS = "Upgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Accept: {ACCEPT}\n"
YES = "HTTP/1.1 101 Switching Protocols\n"
ANSWERED = {
    "in short": YES + TOKENS,
    "lower case": YES + TOKENS.replace("Upgrade: websocket", "upgrade: websocket"),
    "upper case": YES + TOKENS.replace("websocket", "WEBSOCKET").replace(": Upgrade", ": UPGRADE"),
    "a list": YES + TOKENS.replace(": Upgrade", ": keep-alive, Upgrade"),
    "two lines": YES + TOKENS + "Connection: keep-alive\n",
    "twice": YES + TOKENS + "Upgrade: websocket\nConnection: Upgrade\n",
    "any order": YES + "Date: now\nSec-WebSocket-Accept: {ACCEPT}\nConnection:Upgrade\n"
    "Upgrade:\twebsocket  \nServer: Caddy\nServer: Python\n",
    "no reason": "HTTP/1.1 101 \n" + TOKENS,
    "not even its blank": "HTTP/1.1 101\n" + TOKENS,
    "another reason": "HTTP/1.1 101 Web Socket Protocol Handshake\n" + TOKENS,
    "a reason in UTF-8": "HTTP/1.1 101 Protokoll gewählt\n" + TOKENS,
    "HTTP/1.0": "HTTP/1.0 101 Switching Protocols\n" + TOKENS,
    "no subprotocol, by an empty field": YES + TOKENS + "Sec-WebSocket-Protocol:\n",
    "no extension, by an empty field": YES + TOKENS + "Sec-WebSocket-Extensions:\n",
    "a length": YES + TOKENS + "Content-Length: 0\n",
    "two lengths": YES + TOKENS + "Content-Length: 0\nContent-Length: 0\n",
    "chunks": YES + TOKENS + "Transfer-Encoding: chunked\n",
    "cookies": YES + TOKENS + "Set-Cookie: a=1; Path=/\nSet-Cookie: b=2\n",
    "hints first": "HTTP/1.1 103 Early Hints\nLink: </a>; rel=preload\n\n" + YES + TOKENS,
    "nothing to continue first": "HTTP/1.1 100\n\nHTTP/1.1 102 Processing\n\n" + YES + TOKENS,
    "folded": YES + TOKENS.replace("Upgrade: websocket", "Upgrade:\n websocket"),
    "an empty line first": "\n" + YES + TOKENS,
}


@pytest.mark.parametrize("size", [1, 7, 4096])
@pytest.mark.parametrize("head", ANSWERED.values(), ids=ANSWERED)
def test_what_servers_and_proxies_answer_is_a_good_answer(head, size):
    response = read(ResponseParser(), head + "\n", size)
    assert check_response(response, KEY, ["chat"]) is None


@pytest.mark.parametrize(
    "head",
    [
        YES + TOKENS.replace(": Upgrade", ": Upgrade;"),
        YES + TOKENS.replace("Upgrade:", "Upgrade :"),
        YES + TOKENS + "X: \0\n",
        YES + TOKENS + "X(Y): z\n",
        YES + TOKENS + "no field\n",
        YES + TOKENS + "Sec-WebSocket-Accept: {ACCEPT}\n",
        YES + TOKENS + "Sec-WebSocket-Protocol: other\n",
        YES + TOKENS + "Sec-WebSocket-Protocol: chat\nSec-WebSocket-Protocol: chat\n",
        YES + TOKENS.replace("{ACCEPT}", "AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        YES + TOKENS.replace("Connection: Upgrade\n", ""),
        "HTTP/1.2 101 Switching Protocols\n" + TOKENS,
        "HTTP/1.1  101 Switching Protocols\n" + TOKENS,
        "\n\n" + YES + TOKENS,
    ],
)
def test_an_answer_that_websockets_and_ws_refuse_is_refused(head):
    with pytest.raises(HandshakeError):
        check_response(read(ResponseParser(), head + "\n", 4096), KEY, ["chat"])
