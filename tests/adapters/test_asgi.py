"""``koko.adapters.asgi`` without a server: what is received and what is sent, event by event."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import weakref
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from koko import (
    CloseError,
    ErrBadHandshake,
    ErrCloseSent,
    ErrReadLimit,
    HandshakeError,
    Kind,
    PreparedMessage,
    Response,
    sync,
)
from koko.adapters.asgi import upgrade, websocket
from koko.aio import Conn, Delivery, Upgrader, broadcast
from tests.adapters.asgi_script import PATIENCE, Script, scene
from tests.logged import of_clients

Handler = Callable[[Conn], Awaitable[object]]


async def echo(conn: Conn) -> None:
    async for message in conn:
        await conn.send(message)


def served(handler: Handler, upgrader: Upgrader | None = None, **changes: Any) -> Script:
    return Script(websocket(upgrader)(handler), **changes)


# Messages


@scene
async def test_messages_are_echoed_as_they_came() -> None:
    server = served(echo)
    assert await server.hears("accept") == {"type": "websocket.accept", "headers": []}
    server.text("hello", "é" * 1000, "")
    server.says({"type": "websocket.receive", "bytes": bytes(1 << 20 - 1), "text": None})
    server.says({"type": "websocket.receive", "bytes": b""})
    for message in ("hello", "é" * 1000, "", bytes(1 << 20 - 1), b""):
        kind = "text" if isinstance(message, str) else "bytes"
        assert await server.hears("send") == {"type": "websocket.send", kind: message}
    server.leaves()
    await server.ends()
    assert server.sent == []  # the server does the rest of the closing handshake


@scene
async def test_order_is_kept_when_many_come_at_once() -> None:
    server = served(echo)
    server.text(*map(str, range(5000)))
    server.leaves()
    await server.ends()
    said = [event["text"] for event in server.sent if event["type"] == "websocket.send"]
    assert said == [str(number) for number in range(len(said))]


@scene
async def test_every_verb_works() -> None:
    heard: list[Any] = []

    async def handler(conn: Conn) -> None:
        heard.append(await conn.read_message(PATIENCE))
        heard.append(await conn.read_json())
        kind, reader = await conn.next_reader()
        heard.append((kind, await reader.read()))
        await conn.write_json({"a": 1})
        await conn.write_prepared(PreparedMessage(Kind.BINARY, b"prepared"))
        async with conn.next_writer(Kind.TEXT) as writer:
            for _ in range(3):
                await writer.write("part " * 10_000)
        with conn.cork():
            await conn.send("one")
            await conn.send("two")
        with pytest.raises(TimeoutError, match="no message came within"):
            await conn.recv(0.01)
        heard.append((await broadcast([conn], "all")).sent)
        heard.append((conn.local_address, conn.remote_address, conn.request.path, conn.subprotocol))
        assert type(conn).__mro__[1] is Conn
        assert conn.response.status == 101
        await conn.close(4000, "enough")

    server = served(handler)
    server.text("hello", json.dumps([1]))
    server.says({"type": "websocket.receive", "bytes": b"streamed"})
    assert json.loads((await server.hears("send"))["text"]) == {"a": 1}
    assert (await server.hears("send"))["bytes"] == b"prepared"
    assert (await server.hears("send"))["text"] == "part " * 30_000
    assert [(await server.hears("send"))["text"] for _ in range(3)] == ["one", "two", "all"]
    assert await server.hears("close") == {
        "type": "websocket.close",
        "code": 4000,
        "reason": "enough",
    }
    server.leaves(4000)
    await server.ends()
    assert heard[:3] == [(Kind.TEXT, "hello"), [1], (Kind.BINARY, b"streamed")]
    addresses = (("127.0.0.1", 80), ("203.0.113.7", 51312))
    assert heard[3:] == [1, (*addresses, "/chat room", None)]


@scene
async def test_a_message_above_the_read_limit_is_closed_with_1009() -> None:
    raised: list[BaseException] = []

    async def handler(conn: Conn) -> None:
        try:
            await conn.recv()
        except ErrReadLimit as error:
            raised.append(error)
            raise

    server = served(handler, Upgrader(read_limit=4))
    server.text("hello")
    assert (await server.hears("close"))["code"] == 1009
    server.leaves(1009)
    await server.ends()
    assert "read_limit=4" in str(raised[0])


@scene
async def test_a_slow_server_makes_writers_wait() -> None:
    progress: list[str] = []

    async def handler(conn: Conn) -> None:
        await conn.recv()
        for number in range(10):
            await conn.send(bytes(1 << 15))
            progress.append(f"sent {number}")
        late = await broadcast([conn], "news")
        progress.append(f"{late.sent} sent, {late.dropped} dropped")

    server = served(handler)
    await server.hears("accept")
    server.room.clear()
    server.text("go")
    while len(progress) < 2:
        await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(progress) == 2  # 64 KiB
    server.room.set()
    for _ in range(10):
        await server.hears("send")
    await server.hears("close")
    server.leaves()
    await server.ends()
    assert progress[-2] == "sent 9"


@scene
async def test_empty_messages_make_writers_wait_as_well() -> None:
    sent = 0

    async def handler(conn: Conn) -> None:
        nonlocal sent
        await conn.recv()
        while True:
            await conn.send("")
            sent += 1

    server = served(handler)
    await server.hears("accept")
    server.room.clear()
    server.text("go")
    while not sent:
        await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert sent < 1000  # each is a dictionary that the server has not taken
    server.leaves()
    await server.ends()


@scene
async def test_a_server_that_never_waits_does_not_keep_the_loop() -> None:
    messages, turns, heard = 20_000, 0, 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    class Hasty(Script):
        async def receive(self) -> dict[str, Any]:
            if 0 < self.calls <= messages:
                self.calls += 1
                return {"type": "websocket.receive", "text": ""}
            return await super().receive()

    async def handler(conn: Conn) -> None:
        nonlocal heard
        async for _ in conn:
            heard += 1

    turning = asyncio.create_task(turn())
    server = Hasty(websocket()(handler))
    server.leaves()
    await server.ends()
    turning.cancel()
    await asyncio.wait([turning])
    assert heard == messages
    assert turns > messages / 1000


@scene
async def test_a_broadcast_drops_or_closes_who_is_slow() -> None:
    conns: list[Conn] = []

    async def handler(conn: Conn) -> None:
        conns.append(conn)
        await conn.wait_closed()

    slow, quick = served(handler), served(handler)
    for server in (slow, quick):
        await server.hears("accept")
    while len(conns) < 2:
        await asyncio.sleep(0)
    slow.room.clear()
    assert (await broadcast(conns, bytes(1 << 17))).sent == 2
    await quick.hears("send")
    await asyncio.sleep(0)
    assert await broadcast(conns, "b") == Delivery(sent=1, dropped=1, closed=0, gone=0)
    told = await broadcast(conns, "c", slow="close")
    assert told == Delivery(sent=1, dropped=0, closed=1, gone=0)
    slow.room.set()
    assert (await slow.hears("close"))["code"] == 1013
    slow.leaves(1013)
    quick.leaves()
    await slow.ends()
    await quick.ends()


@scene
async def test_nothing_is_received_while_nobody_takes_it() -> None:
    done = asyncio.Event()

    async def handler(conn: Conn) -> None:
        await done.wait()
        async for _ in conn:
            pass

    server = served(handler)
    for _ in range(20):
        server.says({"type": "websocket.receive", "bytes": bytes(1 << 15)})
    await server.hears("accept")
    for _ in range(100):
        await asyncio.sleep(0)
    assert server.calls < 10
    done.set()
    server.leaves()
    await server.ends()


# Ends


@pytest.mark.parametrize(
    ("code", "reason", "sentence"),
    [
        (1000, "", "peer closed with 1000 (normal); we answered 1000"),
        (1001, "bye", "peer closed with 1001 (going away) 'bye'; we answered 1001"),
        (1012, "", "peer closed with 1012 (service restart); we answered 1012"),
        (1005, "it says", "peer closed with 1005 (no status); we answered 1005"),
        (4000, "é" * 100, f"peer closed with 4000 {'é' * 61!r}; we answered 4000"),
        (1006, "", "connection lost; the server reports 1006, last heard "),
        (1006, "no pong", "connection lost; the server reports 1006 'no pong', last heard "),
    ],
)
@scene
async def test_the_servers_disconnect_is_the_peers_end(
    code: int, reason: str, sentence: str
) -> None:
    ends: list[BaseException | None] = []

    async def handler(conn: Conn) -> None:
        assert await conn.recv() == "last"
        with pytest.raises(CloseError):
            await conn.recv()
        with pytest.raises(CloseError):
            await conn.send("late")
        ends.append(conn.ending)

    server = served(handler)
    server.text("last")
    server.leaves(code, reason)
    await server.ends()
    assert str(ends[0]).startswith(sentence)
    assert server.sent == [{"type": "websocket.accept", "headers": []}]


@scene
async def test_what_came_before_the_disconnect_can_be_read_but_not_answered() -> None:
    heard: list[str | bytes] = []

    async def handler(conn: Conn) -> None:
        await conn.wait_closed()
        async for message in conn:
            heard.append(message)
        with pytest.raises(ErrCloseSent, match=r"peer closed with 1000 \(normal\)"):
            await conn.send("answer")

    server = served(handler)
    server.text("one", "two")
    server.leaves()
    await server.ends()
    assert heard == ["one", "two"]


@pytest.mark.parametrize(
    ("reported", "sentence"),
    [
        (1000, "we closed with 4000 'bye'; the server reports 1000"),
        (1006, "connection lost; we had sent 4000 'bye'; the server reports 1006, last heard "),
    ],
)
@scene
async def test_our_close_is_answered_by_the_servers_report(reported: int, sentence: str) -> None:
    ends: list[Any] = []

    async def handler(conn: Conn) -> None:
        await conn.close(4000, "bye")
        ends.append(conn.ending)

    server = served(handler)
    await server.hears("close")
    server.leaves(reported)
    await server.ends()
    assert str(ends[0]).startswith(sentence)
    assert ends[0].ordinary
    assert ends[0].received is None
    assert ends[0].sent == (4000, "bye")


@scene
async def test_a_server_that_reports_nothing_is_waited_for_in_bounds() -> None:
    ends: list[BaseException | None] = []

    async def handler(conn: Conn) -> None:
        await conn.close(timeout=0.05)
        ends.append(conn.ending)

    server = served(handler)
    await server.ends()
    assert (await server.hears("close"))["code"] == 1000
    assert "we had sent 1000 (normal); no answer within 0.05 s" in str(ends[0])


@scene
async def test_a_server_that_takes_no_close_is_waited_for_in_bounds() -> None:
    server = served(echo, Upgrader(close_timeout=0.05))
    await server.hears("accept")
    server.room.clear()
    server.text("hello")
    server.leaves()
    await server.ends()


@scene
async def test_a_code_that_the_server_does_not_send_becomes_1000() -> None:
    async def handler(conn: Conn) -> None:
        await conn.close(1011)

    app = websocket()(handler)

    async def picky(scope: Any, receive: Any, send: Any) -> None:
        async def checked(event: Any) -> None:
            if event.get("code", 1000) == 1011:
                raise Exception("invalid close code 1011")
            await send(event)

        await app(scope, receive, checked)

    server = Script(picky)
    assert (await server.hears("close"))["code"] == 1000
    server.leaves(1000)
    await server.ends()


@scene
async def test_a_writer_that_waits_is_told_of_the_disconnect_at_once() -> None:
    ends: list[BaseException | None] = []

    async def handler(conn: Conn) -> None:
        with pytest.raises(CloseError):
            while True:
                await conn.send(bytes(1 << 16))
        ends.append(conn.ending)

    server = served(handler, Upgrader(close_timeout=6 * PATIENCE))
    await server.hears("accept")
    server.room.clear()
    for _ in range(10):
        await asyncio.sleep(0)
    server.leaves(1001)
    await server.ends()
    assert str(ends[0]) == "peer closed with 1001 (going away); we answered 1001"


@scene
async def test_the_disconnect_says_why_the_server_took_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("koko.adapters._asgi_transport.REPORT", PATIENCE)
    ends: list[BaseException | None] = []

    async def handler(conn: Conn) -> None:
        with pytest.raises(CloseError):
            while True:
                await conn.send(bytes(1 << 16))
        ends.append(conn.ending)

    server = served(handler)
    await server.hears("accept")
    server.broken = OSError("gone")
    await asyncio.sleep(0.01)
    server.leaves(1001)
    await server.ends()
    assert str(ends[0]) == "peer closed with 1001 (going away); we answered 1001"


@scene
async def test_a_server_that_fails_and_reports_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("koko.adapters._asgi_transport.REPORT", 0.02)
    ends: list[BaseException | None] = []

    async def handler(conn: Conn) -> None:
        await conn.send(await conn.recv())
        with pytest.raises(CloseError):
            await conn.recv()
        ends.append(conn.ending)

    server = served(handler)
    await server.hears("accept")
    server.broken = OSError("gone")
    server.text("hello")
    await server.ends()
    assert "the server sends no more: OSError: gone" in str(ends[0])


@scene
async def test_a_server_whose_receive_fails_has_lost_the_connection() -> None:
    ends: list[BaseException | None] = []

    async def handler(conn: Conn) -> None:
        with pytest.raises(CloseError):
            await conn.recv()
        ends.append(conn.ending)

    app = websocket()(handler)

    async def fails(scope: Any, receive: Any, send: Any) -> None:
        async def once() -> Any:
            if server.calls:
                raise LookupError("no such thing")
            return await receive()

        await app(scope, once, send)

    server = Script(fails)
    await server.ends()
    assert "the server reports no more: LookupError: no such thing" in str(ends[0])


@scene
async def test_abort_ends_the_tasks_and_sends_nothing() -> None:
    async def handler(conn: Conn) -> None:
        conn.abort()
        await conn.wait_closed()
        assert "we dropped it" in str(conn.ending)

    server = served(handler)
    await server.ends()
    assert [event["type"] for event in server.sent] == ["websocket.accept"]


@scene
async def test_a_cancelled_application_says_1001_and_leaves_no_task() -> None:
    async def handler(conn: Conn) -> None:
        await conn.recv()

    server = served(handler)
    await server.hears("accept")
    for _ in range(5):
        await asyncio.sleep(0)
    server.app.cancel()
    assert (await server.hears("close"))["code"] == 1001
    server.leaves(1001)
    with pytest.raises(asyncio.CancelledError):
        await server.app


# Handlers end as on Koko's own server


@scene
@pytest.mark.parametrize("way", ["message", "prepared", "parts"])
async def test_a_text_that_is_not_utf_8_ends_it_with_1007(way: str) -> None:
    raised: list[CloseError] = []

    async def handler(conn: Conn) -> None:
        await conn.send("before")
        if way == "message":
            await conn.write_message(Kind.TEXT, b"\xff")
        elif way == "prepared":
            await conn.write_prepared(PreparedMessage(Kind.TEXT, b"\xff"))
        else:
            async with conn.next_writer(Kind.TEXT) as writer:
                await writer.write(b"\xff")
        await conn.send("behind it")
        try:
            await conn.recv()
        except CloseError as error:
            raised.append(error)

    server = served(handler)
    assert (await server.hears("send"))["text"] == "before"
    closed = await server.hears("close")
    assert (closed["code"], closed["reason"]) == (1007, "a text message that is not UTF-8")
    server.leaves(1007)
    await server.ends()
    assert raised[0].code == 1007
    assert "a text message that is not UTF-8" in str(raised[0])
    assert server.sent == [{"type": "websocket.accept", "headers": []}]


@scene
async def test_a_handler_that_raises_is_logged_and_closes_with_1011(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(conn: Conn) -> None:
        raise LookupError("mine")

    caplog.set_level(logging.INFO)
    server = served(handler)
    assert (await server.hears("close"))["code"] == 1011
    server.leaves(1011)
    await server.ends()
    failed, ended = of_clients(caplog)
    assert failed.startswith("koko.server ERROR handler of <koko.adapters.Conn")
    assert failed.endswith("at /chat%20room failed")
    said = "we closed with 1011 (internal server error); the server reports 1011; after "
    assert ended.startswith(f"koko.server INFO 203.0.113.7:51312 /chat%20room: {said}")
    assert ended.endswith("; 0 open")


@scene
async def test_a_lambda_that_returns_nothing_to_await_is_told_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = served(lambda conn: None)  # type: ignore[arg-type, return-value]
    assert (await server.hears("close"))["code"] == 1011
    server.leaves(1011)
    await server.ends()
    assert "must be async def" in of_clients(caplog, logging.ERROR)[0]


# Handshakes


@scene
async def test_a_subprotocol_and_headers_are_answered() -> None:
    told: list[Any] = []

    async def app(*given: Any) -> None:
        async with upgrade(given, subprotocol="chat", headers={"X-Extra": "café"}) as conn:
            told.append((conn.subprotocol, conn.response.headers["x-extra"]))

    offers = [(b"sec-websocket-protocol", b"soap, chat")]
    server = Script(app, headers=offers, subprotocols=["soap, chat"])  # granian parts them not
    assert await server.hears("accept") == {
        "type": "websocket.accept",
        "subprotocol": "chat",
        "headers": [(b"x-extra", b"caf\xe9")],
    }
    server.leaves()
    await server.ends()
    assert told == [("chat", "café")]


@scene
async def test_a_subprotocol_that_was_not_offered_is_not_answered() -> None:
    async def app(*given: Any) -> None:
        async with upgrade(given, subprotocol="chat") as conn:
            assert conn.subprotocol is None

    server = Script(app)
    assert "subprotocol" not in await server.hears("accept")
    server.leaves()
    await server.ends()


EVIL = [(b"origin", b"https://evil.example")]
SAID = "403: origin 'https://evil.example' is not the host 'app.example'; to let this page in, "


@scene
async def test_a_page_of_another_origin_is_denied_with_a_sentence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = served(echo, headers=EVIL)
    await server.ends()
    start, body = server.sent
    assert start["type"], start["status"] == ("websocket.http.response.start", 403)
    assert (b"content-type", b"text/plain; charset=utf-8") in start["headers"]
    assert body["body"].startswith(b"origin 'https://evil.example' is not the host")
    (line,) = of_clients(caplog)
    assert line.startswith(f"koko.server WARNING 203.0.113.7:51312 /chat%20room: {SAID}")


@scene
async def test_a_server_without_denial_responses_is_told_to_close() -> None:
    server = served(echo, headers=EVIL, extensions={})
    await server.ends()
    assert server.sent == [{"type": "websocket.close"}]


@scene
async def test_an_application_is_raised_the_refusal_behind_its_answer() -> None:
    refused: list[HandshakeError] = []

    async def app(*given: Any) -> None:
        try:
            async with upgrade(given):
                raise AssertionError("it was let in")
        except HandshakeError as error:
            refused.append(error)

    server = Script(app, headers=EVIL)
    await server.ends()
    assert (refused[0].status, len(server.sent)) == (403, 2)


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@scene
async def test_a_page_of_the_same_host_is_let_in(scheme: str) -> None:
    origin = f"http{'s' if scheme == 'wss' else ''}://app.example".encode()
    server = served(echo, headers=[(b"origin", origin)], scheme=scheme)
    await server.hears("accept")
    server.leaves()
    await server.ends()


@scene
async def test_trusted_proxies_tell_the_client() -> None:
    told: list[Any] = []

    async def handler(conn: Conn) -> None:
        told.append(conn.remote_address)

    server = served(
        handler,
        Upgrader(trusted_proxies=["203.0.113.0/24"]),
        headers=[(b"x-forwarded-for", b"198.51.100.1"), (b"x-forwarded-host", b"shop.example")],
    )
    await server.hears("accept")
    server.leaves()
    await server.ends()
    assert told == [("198.51.100.1", 0)]


@scene
async def test_a_client_that_left_before_it_was_accepted_is_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    app = websocket()(echo)

    async def early(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await app(scope, receive, send)

    server = Script(early)
    server.leaves(1006)
    await server.ends()
    said = "the client hung up before it was answered"
    assert of_clients(caplog) == [f"koko.server INFO 203.0.113.7:51312 /chat%20room: {said}"]


GONE = "koko.server INFO 203.0.113.7:51312 /chat%20room: the client hung up before it was answered"
# What servers raise for a client that is gone: as ASGI says; as uvicorn's sansio class, without a
# word; as gunicorn and granian.
RAISED = [ConnectionResetError("gone"), OSError(), RuntimeError("the handler is closed")]


@pytest.mark.parametrize("raised", RAISED)
@scene
async def test_a_client_that_leaves_while_it_is_accepted_is_one_line(
    raised: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = served(echo)
    server.broken = raised
    server.leaves(1006)
    await server.ends()
    assert of_clients(caplog) == [GONE]


@pytest.mark.parametrize("raised", RAISED)
@scene
async def test_a_client_that_leaves_while_it_is_refused_is_one_line(
    raised: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    server = served(echo, headers=EVIL)
    server.broken = raised
    server.leaves(1006)
    await server.ends()
    (line,) = of_clients(caplog)
    assert line.startswith(f"koko.server WARNING 203.0.113.7:51312 /chat%20room: {SAID}")


@scene
async def test_a_client_that_leaves_between_two_events_of_its_refusal_is_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = websocket()(echo)

    async def early(scope: Any, receive: Any, send: Any) -> None:
        async def granian(event: Any) -> None:  # it never reports the end
            if event["type"] == "websocket.http.response.body":
                raise RuntimeError("ASGI flow error: Connection already upgraded")
            await send(event)

        await app(scope, receive, granian)

    await Script(early, headers=EVIL).ends()
    (line,) = of_clients(caplog)
    assert line.startswith(f"koko.server WARNING 203.0.113.7:51312 /chat%20room: {SAID}")


@pytest.mark.parametrize("raised", RAISED)
@scene
async def test_an_endpoint_hears_of_a_client_that_leaves_while_it_is_accepted(
    raised: Exception,
) -> None:
    async def app(*given: Any) -> None:
        said = "^(gone|the client hung up before it was answered|)$"
        with pytest.raises(OSError, match=said) as gone:
            async with upgrade(given):
                raise AssertionError("it was let in")
        assert isinstance(raised, RuntimeError) or gone.value is raised  # a server knows its own

    server = Script(app)
    server.broken = raised
    server.leaves(1006)
    await server.ends()


@scene
async def test_a_server_that_takes_no_accept_of_a_client_that_is_there_has_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = served(echo)
    server.broken = ValueError("a header that it does not send")
    server.text("hello")
    with pytest.raises(ValueError, match="a header"):  # nor a refusal
        await server.ends()
    assert of_clients(caplog) == ["koko.server ERROR could not answer /chat%20room"]


@scene
async def test_a_function_that_fails_at_the_handshake_is_500(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(request: Any) -> bool:
        raise LookupError("mine")

    server = served(echo, Upgrader(check_origin=fails))
    await server.ends()
    assert server.sent[0]["status"] == 500
    assert of_clients(caplog) == ["koko.server ERROR could not answer /chat%20room"]


@scene
async def test_what_another_server_answered_is_not_passed_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def dials(request: Any) -> bool:
        raise ErrBadHandshake("of another", Response(401, b"", {"Set-Cookie": "a=s3cret"}))

    server = served(echo, Upgrader(check_origin=dials))
    await server.ends()
    assert server.sent[0]["status"] == 500
    assert "s3cret" not in str(server.sent)
    assert of_clients(caplog) == ["koko.server ERROR could not answer /chat%20room"]


@scene
async def test_more_than_max_connections_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    app = websocket(max_connections=1)(echo)
    first = Script(app)
    await first.hears("accept")
    caplog.set_level(logging.INFO)
    second = Script(app)
    await second.ends()
    assert second.sent[0]["status"] == 503
    assert "503: the server is full (max_connections=1), try again later" in of_clients(caplog)[0]
    first.leaves()
    await first.ends()
    third = Script(app)
    await third.hears("accept")
    third.leaves()
    await third.ends()


@scene
async def test_lifespan_and_http_are_answered() -> None:
    app = websocket()(echo)
    for name in ("startup", "shutdown"):
        server = Script(app, type="lifespan")
        server._events.get_nowait()
        server.says({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
        await server.ends()
        assert {"type": f"lifespan.{name}.complete"} in server.sent
    server = Script(app, type="http", method="GET")
    server.scope["headers"] = [(b"host", b"app.example")]
    await server.ends()
    start, body = server.sent
    assert start["status"] == 426
    assert (b"upgrade", b"websocket") in start["headers"]
    assert b"websocket" in body["body"]
    server = Script(app, type="http", method="GET")
    await server.ends()
    assert server.sent[1]["body"] == b"there is a WebSocket here, and the server passed HTTP on"
    server = Script(app, type="telnet")
    with pytest.raises(RuntimeError, match="'telnet'"):
        await server.ends()


# Misuse


def plain(conn: Conn) -> None:
    pass


async def yields(conn: Conn) -> Any:
    yield conn


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        (lambda: websocket()(plain), r"function plain\(\) as handler; it must be async def"),  # type: ignore[arg-type]
        (lambda: websocket()(yields), r"function yields\(\) .* without yield"),  # type: ignore[arg-type]
        (lambda: websocket()(None), "expected a function that gets a Conn"),  # type: ignore[arg-type]
        (lambda: websocket(sync.Upgrader()), r"expected a koko\.aio\.Upgrader"),  # type: ignore[arg-type]
        (lambda: websocket(echo), r"expected a koko\.aio\.Upgrader"),  # type: ignore[arg-type]
        (lambda: websocket(max_connections="1"), "a whole number above 0"),  # type: ignore[arg-type]
        (lambda: upgrade({}), "a WebSocket of Starlette or FastAPI"),
        (lambda: upgrade((1, 2, 3)), "a WebSocket of Starlette or FastAPI"),
        (lambda: upgrade(({"type": "http"}, print, print)), "a scope of type 'http'"),
    ],
)
def test_misuse_is_told_when_it_is_made(mistake: Callable[[], object], sentence: str) -> None:
    with pytest.raises(TypeError, match=sentence):
        mistake()


def test_what_may_be_awaited_is_no_misuse() -> None:
    class Handler:
        async def __call__(self, conn: Conn) -> None: ...

    for handler in (echo, partial(echo), Handler(), lambda conn: echo(conn)):
        websocket()(handler)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ping_interval": None}, "ping_interval=None; pings are the server's: uvicorn --ws-ping"),
        ({"ping_timeout": 5}, "ping_timeout=5; pings are the server's"),
        ({"compression": True}, "compression=True; compression is the server's"),
        ({"head_limit": 99}, "head_limit=99; the server has read the head"),
        ({"handshake_timeout": 1}, "handshake_timeout=1; the server waits for the head"),
        ({"write_buffer_size": 1}, "write_buffer_size=1; ASGI sends whole messages"),
    ],
)
def test_an_option_that_the_server_decides_is_an_error(
    options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        websocket(Upgrader(**options))


@scene
async def test_a_verb_that_the_server_decides_is_an_error() -> None:
    refused: list[str] = []

    async def handler(conn: Conn) -> None:
        for verb in (
            conn.ping,
            conn.pong,
            partial(conn.write_control, Kind.PING),
            partial(conn.write_control, Kind.PONG),
        ):
            with pytest.raises(NotImplementedError) as error:
                await verb()
            refused.append(str(error.value))
        for name in ("ping_handler", "pong_handler", "compression_level", "write_compression"):
            getattr(conn, name)
            with pytest.raises(NotImplementedError) as error:
                setattr(conn, name, None)
            refused.append(str(error.value))
        await conn.write_control(Kind.CLOSE, b"\x03\xe8bye")

    server = served(handler)
    close = await server.hears("close")
    assert (close["code"], close["reason"]) == (1000, "bye")
    server.leaves()
    await server.ends()
    assert len(refused) == 8
    assert all("the server's: uvicorn --ws-" in sentence for sentence in refused)


@scene
async def test_there_is_one_connection_for_a_websocket() -> None:
    said: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        once = upgrade((scope, receive, send))
        async with once as conn:
            for again in (once, upgrade((scope, receive, send))):
                with pytest.raises(RuntimeError, match="entered already for this WebSocket"):
                    await again.__aenter__()
            said.append(await conn.recv())
        with pytest.raises(RuntimeError, match="entered already for this WebSocket"):
            await once.__aenter__()

    server = Script(app)
    server.text("hello")
    await server.hears("close")
    server.leaves()
    await server.ends()
    assert said == ["hello"]


@scene
async def test_a_block_that_is_awaited_is_told_to_be_one() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await upgrade((scope, receive, send))

    with pytest.raises(TypeError, match=r"async with upgrade\(websocket\) as conn"):
        await Script(app).ends()


@scene
async def test_who_has_received_already_is_told_so() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        async with upgrade((scope, receive, send)):
            pass

    server = Script(app)
    server.text("hello")
    with pytest.raises(RuntimeError, match="the first event was 'websocket.receive'"):
        await server.ends()


# The end of a block


@pytest.mark.parametrize(
    ("error", "code"),
    [(None, 1000), (CloseError(1006, "another"), 1000), (LookupError("mine"), 1011)],
)
@scene
async def test_a_block_ends_as_a_handler(error: Exception | None, code: int) -> None:
    behind: list[str] = []

    async def app(*given: Any) -> None:
        async with upgrade(given):
            if error is not None:
                raise error
        behind.append("went on")

    server = Script(app)
    assert (await server.hears("close"))["code"] == code
    server.leaves(code)
    if code == 1011:
        with pytest.raises(LookupError):
            await server.ends()
    else:
        await server.ends()
        assert behind == ["went on"]


@scene
async def test_a_cancelled_block_closes_with_1001() -> None:
    async def app(*given: Any) -> None:
        async with upgrade(given) as conn:
            await conn.recv()

    server = Script(app)
    await server.hears("accept")
    for _ in range(5):
        await asyncio.sleep(0)
    server.app.cancel()
    assert (await server.hears("close"))["code"] == 1001
    server.leaves(1001)
    with pytest.raises(asyncio.CancelledError):
        await server.app


@scene
async def test_a_block_that_is_cancelled_again_and_again_ends_at_once() -> None:
    async def app(*given: Any) -> None:
        async with upgrade(given) as conn:
            await conn.recv()

    server = Script(app)
    await server.hears("accept")
    while not server.app.done():  # as anyio does
        server.app.cancel()
        await asyncio.sleep(0)
    assert server.app.cancelled()


async def recv_on(conn: Conn) -> None:
    while True:
        await conn.send(await conn.recv())


async def fail(conn: Conn) -> None:
    await conn.recv()
    raise LookupError("on purpose")


async def close(conn: Conn) -> None:
    await conn.recv()
    await conn.close(4000, "bye")


async def abort(conn: Conn) -> None:
    await conn.recv()
    conn.abort()


async def as_a_block(handler: Handler, *given: Any) -> None:
    async with upgrade(given) as conn:
        await handler(conn)


@pytest.mark.parametrize("end", [1000, 1006, "cancelled", "broken"], ids=str)
@pytest.mark.parametrize("way", ["handler", "block"])
@pytest.mark.parametrize("handler", [echo, recv_on, fail, close, abort])
@scene
async def test_a_connection_that_has_ended_waits_for_no_garbage_collector(
    handler: Handler, way: str, end: Any
) -> None:
    seen: list[weakref.ref[Any]] = []

    async def remember(conn: Conn) -> None:
        seen.extend(weakref.ref(each) for each in (conn, conn.transport))
        await handler(conn)

    gc.collect()
    logging.disable()  # pytest keeps records, with what was raised, and so the frames
    gc.disable()
    try:
        app = websocket()(remember) if way == "handler" else partial(as_a_block, remember)
        server = Script(app)
        await server.hears("accept")
        server.text("hello")
        while not seen:
            await asyncio.sleep(0)
        if end == "cancelled":
            await asyncio.sleep(0)
            server.app.cancel()
        elif end == "broken":
            server.broken = OSError("gone")
        server.leaves(end if type(end) is int else 1006)
        await asyncio.wait([server.app])
        assert server.app.cancelled() or server.app.exception() is None or handler is fail
        del server.app, server  # the task holds what it was raised, which holds its frames
        await asyncio.sleep(0)
        assert [each() for each in seen] == [None, None]
    finally:
        logging.disable(logging.NOTSET)
        gc.enable()
