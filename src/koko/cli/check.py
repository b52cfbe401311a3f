"""``koko demo --check``: the demo talks to itself and says what it found.

Instead of a browser, ``urllib`` fetches the page and Koko's own client opens the WebSockets,
on a free port of the loopback.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

from koko import ErrBadHandshake
from koko.aio import Conn, Server, Upgrader, dial
from koko.aio.dial import Dialing
from koko.cli.chat import READ_LIMIT
from koko.cli.failure import Failure
from koko.cli.site import http, visitor
from koko.opening.address import written

PATIENCE = 10.0  # seconds for each step


async def check() -> None:
    """Raise Failure, or what failed, unless everything in the demo works."""
    upgrader = Upgrader(read_limit=READ_LIMIT)
    server = Server(visitor(), "127.0.0.1", upgrader=upgrader, http=http(), logger=_silent())
    async with server:
        address = written(server.address)
        _say(f"listening on {address}")
        await asyncio.to_thread(_check_pages, f"http://{address}")
        await _check_chat(f"ws://{address}/chat", f"http://{address}")
        await _check_echo(f"ws://{address}/echo", f"http://{address}")
        await _check_origin(f"ws://{address}/chat")
    _say("closed the server")


def _silent() -> logging.Logger:
    # The check provokes refusals: its log would only confuse.
    logger = logging.getLogger("koko.check")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger


def _check_pages(site: str) -> None:
    status, body, policy = _fetch(f"{site}/")
    _expect(status == 200 and b"<title>Koko demo</title>" in body, f"GET / gave {status}, no page")
    _expect("default-src 'none'" in policy, f"the page has the policy {policy!r}, not a strict one")
    _say(f"the page: {status}, {len(body)} bytes, a strict Content-Security-Policy")
    status, body, _ = _fetch(f"{site}/health")
    _expect((status, body) == (200, b"ok\n"), f"GET /health gave {status} {body!r}, not 200")
    status, _, _ = _fetch(f"{site}/elsewhere")
    _expect(status == 404, f"GET /elsewhere gave {status}, not 404")
    _say("/health is ok, any other path 404")


def _fetch(url: str) -> tuple[int, bytes, str]:
    try:
        answer = build_opener(ProxyHandler({})).open(url, timeout=PATIENCE)
    except HTTPError as error:
        answer = error
    with answer:
        return answer.status, answer.read(), answer.headers.get("Content-Security-Policy", "")


async def _check_chat(url: str, origin: str) -> None:
    async with _visit(url, origin) as ada, _visit(url, origin) as grace:
        for conn, name in ((ada, "Ada"), (grace, "Grace")):
            await conn.send(json.dumps({"type": "name", "name": name}))
            await _hear(conn, "welcome")
        for speaker, hearer, text in ((ada, grace, "hello"), (grace, ada, "hello yourself")):
            await speaker.send(json.dumps({"type": "say", "text": text}))
            said = (await _hear(hearer, "said"))["text"]
            _expect(said == text, f"one said {text!r} and the other heard {said!r}")
            await _hear(speaker, "said")
    _say("two visitors of the chat hear each other")


def _visit(url: str, origin: str) -> Dialing:
    return dial(url, headers={"Origin": origin}, proxy=None)


async def _hear(conn: Conn, word: str) -> dict[str, Any]:
    while True:
        heard: dict[str, Any] = json.loads(await conn.recv(timeout=PATIENCE))
        if heard["type"] == word:
            return heard


async def _check_echo(url: str, origin: str) -> None:
    async with _visit(url, origin) as conn:
        await conn.send("there and back")
        echoed = await conn.recv(timeout=PATIENCE)
        _expect(echoed == "there and back", f"the echo of 'there and back' is {echoed!r}")
        _say(f"the echo comes back; a ping takes {await conn.ping(timeout=PATIENCE) * 1000:.2f} ms")


async def _check_origin(url: str) -> None:
    try:
        async with _visit(url, "http://elsewhere.example"):
            raise Failure("a page of another site could connect")
    except ErrBadHandshake as error:
        _expect(error.status == 403, f"another site was refused with {error.status}, not 403")
    _say("another site is refused with 403")


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Failure(otherwise)


def _say(sentence: str) -> None:
    print(f"ok  {sentence}", flush=True)
