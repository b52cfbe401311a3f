"""``receive`` and ``send`` of an ASGI application, without a server: every event at every stage.

The codec in use decides which twin is tested: ``_asgi_events`` or ``_native_asgi``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from koko.adapters._asgi import EXPECTED, Conversation, Stage
from koko.adapters._asgi_path import Path
from koko.core.connection import Connection
from koko.core.options import ConnectionOptions
from koko.core.wire import Role
from koko.http import Response
from tests.adapters.asgi_script import scene
from tests.conversation.talk_aio import HIGH_WATER, MemoryTransport
from tests.wire import wire

Event = dict[str, Any]

CLOSE_TIMEOUT = 10.0
CONNECT = {"type": "websocket.connect"}
NEVER_OPEN = {"type": "websocket.disconnect", "code": 1006}


class Gone(OSError):
    """What the conversations here raise to an application whose client is gone."""


class Client:
    """A conversation, and both that surround it: who answers the handshake, and a client."""

    def __init__(self, **options: Any) -> None:
        self.conversation = Conversation(self, Gone)
        self.receive, self.send = self.conversation.receive, self.conversation.send
        self.line = MemoryTransport(asyncio.get_running_loop())
        self.accepted: list[tuple[str | None, Any]] = []
        self.refused: list[Response] = []
        self.complaint: Exception | None = None  # raised in the place of accepting
        self._options = ConnectionOptions(ping_interval=None, **options)

    # What a conversation calls

    def accept(self, subprotocol: str | None, headers: Any) -> Path:
        if self.complaint is not None:
            raise self.complaint
        self.accepted.append((subprotocol, headers))
        loop = asyncio.get_running_loop()
        self.path = Path(Connection(Role.SERVER, self._options, None, loop.time()), self.line, loop)
        self.path.on_lost = None
        self.line.set_protocol(self.path)
        return self.path

    def refuse(self, response: Response) -> None:
        self.refused.append(response)

    # What a test does

    async def enters(self) -> None:
        assert await self.receive() == CONNECT
        await self.send({"type": "websocket.accept"})

    def says(self, *frames: bytes) -> None:
        """Have frames arrive now."""
        self.path.data_received(b"".join(frames))

    def hears(self) -> bytes:
        heard = bytes(self.line.written)
        self.line.written.clear()
        return heard

    def vanishes(self) -> None:
        self.path.connection_lost(None)


def text(message: str) -> bytes:
    return wire("1 000 0001 1 len", message.encode())


def goodbye(octets: bytes = b"\x03\xe8") -> bytes:
    return wire("1 000 1000 1 len", octets)


async def opening() -> Client:
    return Client()


async def refusing() -> Client:
    client = Client()
    await client.send({"type": "websocket.http.response.start", "status": 404})
    return client


async def open_() -> Client:
    client = Client()
    await client.send({"type": "websocket.accept"})
    return client


async def closed() -> Client:
    client = await open_()
    await client.send({"type": "websocket.close"})
    return client


async def refused() -> Client:
    client = Client()
    await client.send({"type": "websocket.close"})
    return client


async def begun(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Return a task that waits for something."""
    task = asyncio.create_task(work)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not task.done()
    return task


async def awaited(step: Any) -> Any:
    """Await what ``receive`` or ``send`` has returned: a task takes nothing but coroutines."""
    return await step


# The order


AT_STAGE: dict[str, tuple[Stage, Callable[[], Coroutine[Any, Any, Client]]]] = {
    "opening": (Stage.OPENING, opening),
    "refusing": (Stage.REFUSING, refusing),
    "open": (Stage.OPEN, open_),
    "closed": (Stage.OVER, closed),
    "refused": (Stage.OVER, refused),
}
EVENTS: dict[str, Event] = {
    "websocket.accept": {},
    "websocket.close": {},
    "websocket.send": {"text": "hello"},
    "websocket.http.response.start": {"status": 403},
    "websocket.http.response.body": {"body": b"no"},
    "websocket.receive": {},
    "lifespan.startup.complete": {},
}
ALLOWED = {
    "opening": {"websocket.accept", "websocket.close", "websocket.http.response.start"},
    "refusing": {"websocket.http.response.body"},
    "open": {"websocket.send", "websocket.close"},
    "closed": set[str](),
    "refused": set[str](),
}


@pytest.mark.parametrize("name", EVENTS)
@pytest.mark.parametrize("stage", AT_STAGE)
@scene
async def test_each_event_has_its_stages(stage: str, name: str) -> None:
    known, reach = AT_STAGE[stage]
    client = await reach()
    event = {"type": name, **EVENTS[name]}
    if name in ALLOWED[stage]:
        await client.send(event)
        return
    before = client.hears(), len(client.accepted), len(client.refused)
    with pytest.raises(RuntimeError) as error:
        await client.send(event)
    assert str(error.value) == EXPECTED[known][1].format(name)
    assert (b"", *before[1:]) == (client.hears(), len(client.accepted), len(client.refused))


@scene
async def test_an_event_without_a_type_is_a_key_error() -> None:
    client = await open_()
    with pytest.raises(KeyError):
        await client.send({"text": "hello"})
    await client.send({"type": "websocket.send", "text": "hello"})
    assert client.hears() == b"\x81\x05hello"


# Before it is accepted


@scene
@pytest.mark.parametrize(
    ("reach", "state"), [(refusing, "refusing"), (refused, "over"), (open_, "open")]
)
async def test_who_was_answered_is_not_upgraded(reach: Any, state: str) -> None:
    client = await reach()
    with pytest.raises(RuntimeError, match=f"cannot be accepted any more: it is {state}"):
        client.conversation.upgrade(None, ())
    assert client.accepted == ([(None, ())] if state == "open" else [])


@scene
async def test_who_has_gone_is_not_upgraded() -> None:
    client = await opening()
    client.conversation.lose()
    with pytest.raises(Gone):
        client.conversation.upgrade(None, ())
    assert client.accepted == []


@scene
async def test_an_application_is_told_of_the_client_first() -> None:
    client = Client()
    assert await client.receive() == CONNECT
    await client.send(
        {"type": "websocket.accept", "subprotocol": "chat", "headers": [(b"x-a", b"1")]}
    )
    assert client.accepted == [("chat", [(b"x-a", b"1")])]
    assert client.conversation.answered
    client.says(text("hello"))
    assert await client.receive() == {"type": "websocket.receive", "text": "hello"}


@scene
async def test_an_accept_that_fails_can_be_tried_again() -> None:
    client = Client()
    client.complaint = ValueError("a header that only the handshake may write")
    with pytest.raises(ValueError, match="only the handshake"):
        await client.send({"type": "websocket.accept"})
    assert not client.conversation.answered
    client.complaint = None
    await client.send({"type": "websocket.accept"})
    assert client.accepted == [(None, ())]


@scene
async def test_a_receive_that_waits_before_the_accept_gets_messages_after_it() -> None:
    client = Client()
    assert await client.receive() == CONNECT
    waiting = await begun(awaited(client.receive()))
    await client.send({"type": "websocket.accept"})
    client.says(text("hello"))
    assert await waiting == {"type": "websocket.receive", "text": "hello"}


@scene
async def test_two_cannot_receive_at_once_before_the_accept() -> None:
    client = await opening()
    await client.receive()
    receiving = await begun(client.receive())
    with pytest.raises(RuntimeError, match=r"receive\(\) is already running"):
        await client.receive()
    client.conversation.lose()
    assert await receiving == NEVER_OPEN


@scene
async def test_a_client_that_leaves_before_the_accept_is_1006() -> None:
    client = Client()
    assert await client.receive() == CONNECT
    waiting = await begun(awaited(client.receive()))
    client.conversation.lose()
    assert await waiting == NEVER_OPEN
    for event in ({"type": "websocket.accept"}, {"type": "websocket.send", "text": "hello"}):
        with pytest.raises(Gone):
            await client.send(event)
    client.conversation.fail()
    assert client.accepted == client.refused == []


@scene
async def test_a_receive_that_is_cancelled_before_the_accept_loses_nothing() -> None:
    client = Client()
    assert await client.receive() == CONNECT
    waiting = await begun(awaited(client.receive()))
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    client.conversation.lose()
    assert await client.receive() == NEVER_OPEN


# Other answers


@scene
async def test_a_close_in_the_place_of_an_accept_is_403() -> None:
    client = Client()
    assert await client.receive() == CONNECT
    await client.send({"type": "websocket.close", "code": 4000})
    assert [response.status for response in client.refused] == [403]
    assert await client.receive() == NEVER_OPEN
    with pytest.raises(Gone, match="behind websocket.disconnect"):
        await client.receive()


@scene
async def test_a_denial_response_is_given_as_a_whole() -> None:
    client = Client()
    headers = [(b"x-why", b"caf\xe9")]
    await client.send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
    await client.send({"type": "websocket.http.response.body", "body": b"a", "more_body": True})
    await client.send({"type": "websocket.http.response.body", "more_body": True})
    assert client.refused == []
    await client.send({"type": "websocket.http.response.body", "body": b"b"})
    (response,) = client.refused
    assert (response.status, response.body) == (401, b"ab")
    assert list(response.headers.items()) == [("x-why", "café")]


@pytest.mark.parametrize("body", ["text", None, [b"x"], 5])
@scene
async def test_a_denial_whose_body_is_no_bytes_is_answered_all_the_same(body: Any) -> None:
    client = await refusing()
    with pytest.raises(TypeError, match="the body of a response is bytes, not"):
        await client.send({"type": "websocket.http.response.body", "body": body})
    client.conversation.fail()
    assert [(each.status, each.body) for each in client.refused] == [(404, b"")]


@scene
async def test_a_denial_is_as_long_as_it_is_whatever_its_headers_say() -> None:
    client = Client()
    headers = [(b"content-length", b"100"), (b"Transfer-Encoding", b"chunked"), (b"x-why", b"a")]
    await client.send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
    await client.send({"type": "websocket.http.response.body", "body": bytearray(b"no")})
    (response,) = client.refused
    assert list(response.headers.items()) == [("x-why", "a")]
    assert response.body == b"no"


@pytest.mark.parametrize("headers", [[("a", "b")], [(b"a",)], {b"ab": b"cde"}, [5], 5])
@scene
async def test_headers_that_are_no_pairs_of_bytes_are_told_so(headers: Any) -> None:
    client = await opening()
    start = {"type": "websocket.http.response.start", "status": 401, "headers": headers}
    with pytest.raises(TypeError, match="headers of ASGI are pairs of bytes"):
        await client.send(start)
    client.conversation.fail()
    assert [response.status for response in client.refused] == [500]


@pytest.mark.parametrize("status", [100, 101, 199, 600, "404", 404.5, None])
@scene
async def test_a_denial_is_no_informational_status(status: Any) -> None:
    client = Client()
    with pytest.raises(RuntimeError, match=f"Invalid HTTP status code '{status}' in response."):
        await client.send({"type": "websocket.http.response.start", "status": status})
    await client.send({"type": "websocket.accept"})


@scene
async def test_a_denial_whose_headers_could_split_it_leaves_room_for_another_answer() -> None:
    client = await opening()
    headers = [(b"x-next", b"/\r\nset-cookie: a=b")]
    start = {"type": "websocket.http.response.start", "status": 401, "headers": headers}
    with pytest.raises(ValueError, match="which no header may have"):
        await client.send(start)
    client.conversation.fail()
    assert [response.status for response in client.refused] == [500]


@scene
async def test_a_denial_without_a_body_has_none() -> None:
    client = Client()
    await client.send({"type": "websocket.http.response.start", "status": 204})
    with pytest.raises(RuntimeError, match="a response with status 204 has no body"):
        await client.send({"type": "websocket.http.response.body", "body": b"x"})
    await client.send({"type": "websocket.http.response.body"})
    assert (client.refused[0].status, client.refused[0].body) == (204, b"")


@pytest.mark.parametrize(
    ("reach", "statuses"), [(opening, [500]), (refusing, [404]), (open_, []), (refused, [403])]
)
@scene
async def test_an_application_that_leaves_is_answered_for(reach: Any, statuses: list[int]) -> None:
    client = await reach()
    client.conversation.fail()
    assert [response.status for response in client.refused] == statuses


# Messages


@scene
async def test_messages_are_told_as_what_they_are() -> None:
    client = await open_()
    client.says(text("é"), wire("1 000 0010 1 len", b"\xe9"), text(""), wire("1 000 0010 1 len"))
    told = [await client.receive() for _ in range(4)]
    assert told == [
        {"type": "websocket.receive", "text": "é"},
        {"type": "websocket.receive", "bytes": b"\xe9"},
        {"type": "websocket.receive", "text": ""},
        {"type": "websocket.receive", "bytes": b""},
    ]


@pytest.mark.parametrize(
    ("event", "frame"),
    [
        ({"text": "é"}, b"\x81\x02\xc3\xa9"),
        ({"bytes": b"\xe9"}, b"\x82\x01\xe9"),
        ({"text": ""}, b"\x81\x00"),
        ({"bytes": b""}, b"\x82\x00"),
        ({"bytes": b"a", "text": "b"}, b"\x82\x01a"),
        ({"bytes": None, "text": "b"}, b"\x81\x01b"),
        ({"bytes": bytearray(b"a")}, b"\x82\x01a"),
        ({"bytes": memoryview(b"a")}, b"\x82\x01a"),
    ],
)
@scene
async def test_what_is_sent_is_one_frame(event: Event, frame: bytes) -> None:
    client = await open_()
    await client.send({"type": "websocket.send", **event})
    assert client.hears() == frame


@pytest.mark.parametrize("event", [{}, {"text": None}, {"bytes": None, "text": None}])
@scene
async def test_a_message_that_is_none_is_an_error(event: Event) -> None:
    client = await open_()
    with pytest.raises(RuntimeError, match="websocket.send has neither 'bytes' nor 'text'"):
        await client.send({"type": "websocket.send", **event})
    assert client.hears() == b""


@pytest.mark.parametrize("event", [{"text": 1}, {"bytes": 1}])
@scene
async def test_a_message_of_another_type_is_a_type_error(event: Event) -> None:
    client = await open_()
    with pytest.raises(TypeError):
        await client.send({"type": "websocket.send", **event})
    await client.send({"type": "websocket.send", "text": "on it goes"})
    assert client.hears() == b"\x81\x0aon it goes"


@scene
async def test_a_receive_that_is_cancelled_loses_no_message() -> None:
    client = await open_()
    waiting = await begun(awaited(client.receive()))
    waiting.cancel()
    client.says(text("first"), text("second"))
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert (await client.receive())["text"] == "first"
    assert (await client.receive())["text"] == "second"


@scene
async def test_two_cannot_receive_at_once() -> None:
    client = await open_()
    waiting = await begun(awaited(client.receive()))
    with pytest.raises(RuntimeError, match="already running"):
        await client.receive()
    client.says(text("hello"))
    assert (await waiting)["text"] == "hello"


@scene
async def test_a_send_waits_for_a_client_that_does_not_read() -> None:
    client = await open_()
    client.line.stall()
    await client.send({"type": "websocket.send", "bytes": bytes(HIGH_WATER + 1)})
    waiting = await begun(awaited(client.send({"type": "websocket.send", "text": "late"})))
    client.line.flow()
    await waiting
    assert client.hears().endswith(b"\x81\x04late")


@scene
async def test_a_send_that_is_cancelled_while_it_waits_has_sent_nothing() -> None:
    client = await open_()
    client.line.stall()
    await client.send({"type": "websocket.send", "bytes": bytes(HIGH_WATER + 1)})
    waiting = await begun(awaited(client.send({"type": "websocket.send", "text": "never"})))
    waiting.cancel()
    await asyncio.wait([waiting])
    client.line.flow()
    await asyncio.sleep(0)
    client.hears()
    await client.send({"type": "websocket.send", "text": "next"})
    assert client.hears() == b"\x81\x04next"


@scene
async def test_a_send_that_waits_is_told_of_the_end() -> None:
    client = await open_()
    client.line.stall()
    await client.send({"type": "websocket.send", "bytes": bytes(HIGH_WATER + 1)})
    waiting = await begun(awaited(client.send({"type": "websocket.send", "text": "never"})))
    client.vanishes()
    with pytest.raises(Gone, match="the stream was closed"):
        await waiting


# The end


@pytest.mark.parametrize(
    ("close", "told"),
    [
        (goodbye(), {"code": 1000, "reason": ""}),
        (goodbye(b"\x10\xe1enough"), {"code": 4321, "reason": "enough"}),
        (goodbye(b""), {"code": 1005, "reason": ""}),
        (wire("1 000 0010 0 len", b"no mask"), {"code": 1002}),
        (wire("1 000 0001 1 len", b"\xff"), {"code": 1007}),
    ],
)
@scene
async def test_the_clients_end_comes_behind_its_messages(close: bytes, told: Event) -> None:
    client = await open_()
    client.says(text("last"), close)
    assert (await client.receive())["text"] == "last"
    event = await client.receive()
    assert event["type"] == "websocket.disconnect"
    assert {key: event[key] for key in told} == told
    with pytest.raises(Gone, match="behind websocket.disconnect"):
        await client.receive()
    for late in ({"type": "websocket.send", "text": "late"}, {"type": "websocket.close"}):
        with pytest.raises(Gone):
            await client.send(late)
    client.vanishes()


@scene
async def test_a_message_above_the_limit_is_1009() -> None:
    client = Client(read_limit=4)
    await client.enters()
    client.says(text("12345"))
    event = await client.receive()
    assert (event["type"], event["code"]) == ("websocket.disconnect", 1009)
    client.vanishes()


@scene
async def test_a_client_that_vanishes_is_1005_and_the_reason_says_how() -> None:
    client = await open_()
    waiting = await begun(awaited(client.receive()))
    client.vanishes()
    told = await waiting
    assert (told["type"], told["code"]) == ("websocket.disconnect", 1005)
    assert told["reason"].startswith("the stream was closed, last heard the opening handshake")
    for event in ({"type": "websocket.send", "text": "late"}, {"type": "websocket.close"}):
        with pytest.raises(Gone):
            await client.send(event)


@scene
async def test_a_close_of_the_application_ends_a_receive_that_waits() -> None:
    client = await open_()
    waiting = await begun(awaited(client.receive()))
    await client.send({"type": "websocket.close", "code": 4000, "reason": "bye"})
    assert client.hears() == b"\x88\x05\x0f\xa0bye"
    told = {"type": "websocket.disconnect", "code": 4000, "reason": "bye"}
    assert await waiting == told
    client.says(goodbye(b"\x0f\xa0"))
    client.vanishes()


@scene
async def test_a_close_says_1000_where_no_code_is_given() -> None:
    client = await open_()
    client.says(text("unread"))
    await client.send({"type": "websocket.close", "reason": None})
    assert client.hears() == b"\x88\x02\x03\xe8"
    assert (await client.receive())["text"] == "unread"
    assert await client.receive() == {"type": "websocket.disconnect", "code": 1000, "reason": ""}
    client.vanishes()


@pytest.mark.parametrize("code", [1004, 1006, 999, 5000])
@scene
async def test_a_close_with_a_code_that_no_frame_may_have_is_an_error(code: int) -> None:
    client = await open_()
    with pytest.raises(ValueError, match=str(code)):
        await client.send({"type": "websocket.close", "code": code})
    await client.send({"type": "websocket.send", "text": "on it goes"})
    assert client.hears() == b"\x81\x0aon it goes"


@scene
async def test_a_close_with_1005_has_no_code() -> None:
    client = await open_()
    await client.send({"type": "websocket.close", "code": 1005})
    assert client.hears() == b"\x88\x00"
    client.vanishes()


@scene
async def test_a_server_that_ends_says_what_is_received_last() -> None:
    client = await open_()
    waiting = await begun(awaited(client.receive()))
    client.conversation.end({"type": "websocket.disconnect", "code": 1012})
    client.conversation.end({"type": "websocket.disconnect", "code": 1001})  # too late
    assert await waiting == {"type": "websocket.disconnect", "code": 1012}


# What is awaited


@scene
async def test_nothing_is_done_before_it_is_awaited() -> None:
    client = await open_()
    client.says(text("hello"))
    client.receive().close()
    step = client.send({"type": "websocket.send", "text": "never"})
    with pytest.warns(RuntimeWarning, match="never awaited"):
        del step
    assert client.hears() == b""
    assert (await client.receive())["text"] == "hello"


@scene
async def test_it_is_awaited_once() -> None:
    client = await open_()
    step = client.send({"type": "websocket.send", "text": "once"})
    await step
    with pytest.raises(RuntimeError, match="cannot reuse"):
        await step
    assert client.hears() == b"\x81\x04once"


@scene
async def test_what_is_thrown_into_a_receive_comes_out_of_it() -> None:
    client = await open_()
    for begin in (False, True):
        step: Any = client.receive().__await__()
        if begin:
            step.send(None)
        with pytest.raises(LookupError, match="thrown"):
            step.throw(LookupError("thrown"))
        with pytest.raises((RuntimeError, StopIteration)):
            step.send(None)
    client.says(text("hello"))
    assert (await client.receive())["text"] == "hello"


@scene
async def test_what_is_thrown_into_one_that_waits_for_the_accept_comes_out_of_it() -> None:
    client = Client()
    assert await client.receive() == CONNECT
    step: Any = client.receive().__await__()
    step.send(None)
    with pytest.raises(LookupError, match="thrown"):
        step.throw(LookupError("thrown"))
    client.conversation.lose()
    assert await client.receive() == NEVER_OPEN


@scene
async def test_what_is_thrown_into_a_send_that_waits_leaves_the_next_one_well() -> None:
    client = await open_()
    client.line.stall()
    await client.send({"type": "websocket.send", "bytes": bytes(HIGH_WATER + 1)})

    async def interrupted() -> None:
        step: Any = client.send({"type": "websocket.send", "text": "never"}).__await__()
        step.send(None)
        with pytest.raises(LookupError, match="thrown"):
            step.throw(LookupError("thrown"))

    await asyncio.create_task(interrupted())
    client.line.flow()
    await asyncio.sleep(0)
    client.hears()
    await client.send({"type": "websocket.send", "text": "next"})
    assert client.hears() == b"\x81\x04next"
