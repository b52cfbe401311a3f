"""An ASGI application's side of one WebSocket: what it receives, and what it may send when.

The order of events is the table ``EXPECTED``. The handshake is answered by whoever made the
``Conversation``; the messages of an open one go through a ``Path``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from multidict import CIMultiDict

from koko.adapters._asgi_path import Path
from koko.adapters._asgi_scope import Event, Pairs, text_of
from koko.core.codec import IMPLEMENTATION
from koko.errors import CloseError, ProtocolError
from koko.http import Response
from koko.opening.handshake import check_fields
from koko.opening.head import BODILESS

if TYPE_CHECKING or IMPLEMENTATION == "pure":
    from koko.adapters._asgi_events import Events
else:
    from koko.adapters._native_asgi import Events

NO_STATUS = 1005  # the connection was lost after it had been accepted, as uvicorn has it
ABNORMAL = 1006  # it never was accepted
# Headers that say how long a body is: that is known when all of it has come.
FRAMING = ("content-length", "transfer-encoding")


class Handshake(Protocol):
    """What a conversation asks of the server round it."""

    def accept(self, subprotocol: str | None, headers: Pairs) -> Path:
        """Answer with 101; what it raises is raised to the application."""

    def refuse(self, response: Response) -> None:
        """Answer with anything else."""


class Stage(Enum):
    OPENING = "opening"  # nothing has been answered
    REFUSING = "refusing"  # the head of another answer than 101 was given, not all of its body
    OPEN = "open"
    OVER = "over"  # the application has closed it, or refused it


OPENING, REFUSING, OPEN, OVER = Stage


class Conversation(Events):
    """``receive`` and ``send`` of one WebSocket.

    Args:
        handshake: who answers the client.
        gone: raised to an application that goes on after the client's end; an ``OSError``, as
            the specification has it.
    """

    __slots__ = (
        "_body",
        "_change",
        "_connected",
        "_gone",
        "_handshake",
        "_lost",
        "_response",
        "_stage",
        "_told",
    )

    def __init__(self, handshake: Handshake, gone: type[OSError]) -> None:
        self._handshake = handshake
        self._gone = gone
        self._stage = OPENING
        self._connected = False  # the application has received that
        self._told = False  # it has received the disconnect
        self._lost = False  # before it was accepted
        self._change: asyncio.Future[None] | None = None  # what a receiver waits for before that
        self._response: tuple[int, list[tuple[str, str]]] | None = None
        self._body: list[bytes] | None = None

    # What the server calls

    @property
    def answered(self) -> bool:
        """True when the client needs no answer any more."""
        return self._stage in (OPEN, OVER) or self._lost

    def upgrade(self, subprotocol: str | None, headers: Pairs) -> Path:
        """Accept the handshake.

        Raises:
            RuntimeError: it was answered, or an answer has begun.
            OSError: the client is gone.
        """
        if self._lost:
            raise self._gone("the client is gone")
        if self._stage is not OPENING:
            now = self._stage.value
            raise RuntimeError(f"the WebSocket cannot be accepted any more: it is {now}")
        path = self._handshake.accept(subprotocol, headers)
        self._stage = OPEN
        self.open(path)
        self._changed()
        return path

    def end(self, event: Event) -> None:
        """Have the application receive ``event``, behind what has come."""
        if self.disconnect is None:
            self.disconnect = event
        if self.path is not None:
            self.path.waiter.wake()
        self._changed()

    def lose(self) -> None:
        """Take note that the client has gone before it was accepted."""
        self._lost = True
        self.end({"type": "websocket.disconnect", "code": ABNORMAL})

    def fail(self) -> None:
        """Answer for an application that left without an answer, or in the middle of one."""
        if self._lost:
            return
        if self._stage is REFUSING:
            self._finish_response()
        elif self._stage is OPENING:
            self._refuse(Response(500, "Internal Server Error"))

    # What the events need

    async def receive_early(self) -> Event:
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        if self._change is not None and not self._change.done():
            raise RuntimeError("receive() is already running; one receiver per WebSocket")
        while self.disconnect is None:
            self._change = asyncio.get_running_loop().create_future()
            await self._change
            if self.path is not None:
                return await self.receive()
        return self.part(self.disconnect)

    def part(self, event: Event) -> Event:
        # Who asks again and again, whatever it is told, would never let go of the loop.
        if self._told:
            raise self._gone("receive() was called behind websocket.disconnect")
        self._told = True
        return event

    def part_after(self, ending: CloseError) -> Event:
        return self.part(self.disconnect or disconnect(ending))

    def gone_after(self, ending: CloseError) -> OSError:
        return self._gone(str(ending))

    def send_other(self, name: str, event: Event) -> None:
        if self._lost or (self.path is not None and self.path.lost):
            raise self._gone("the client is gone")
        steps, complaint = EXPECTED[self._stage]
        step = steps.get(name)
        if step is None:
            raise RuntimeError(complaint.format(name))
        step(self, event)

    # How it works inside

    def _changed(self) -> None:
        if self._change is not None and not self._change.done():
            self._change.set_result(None)

    def _accept(self, event: Event) -> None:
        self.upgrade(event.get("subprotocol"), event.get("headers") or ())

    def _close(self, event: Event) -> None:
        assert self.path is not None
        code, reason = event.get("code", 1000), event.get("reason") or ""
        try:
            self.path.start_close(code, reason)
        except CloseError as ending:
            raise self.gone_after(ending) from None
        self._stage, self.may_send = OVER, False
        self.end({"type": "websocket.disconnect", "code": code, "reason": reason})

    def _reject(self, event: Event) -> None:
        self._refuse(Response(403))

    def _start_response(self, event: Event) -> None:
        status = event["status"]
        # 101 would tell the client that it is let in.
        if not isinstance(status, int) or not 200 <= status < 600:
            raise RuntimeError(f"Invalid HTTP status code '{status}' in response.")
        said = text_of(event.get("headers") or ())
        check_fields(CIMultiDict(said))  # while another answer can still be given
        headers = [field for field in said if field[0].lower() not in FRAMING]
        self._response, self._body = (status, headers), []
        self._stage = REFUSING

    def _add_body(self, event: Event) -> None:
        assert self._response is not None
        assert self._body is not None
        body = event.get("body", b"")
        if not isinstance(body, bytes | bytearray | memoryview):
            raise TypeError(f"the body of a response is bytes, not {type(body).__name__}")
        if body and self._response[0] in BODILESS:
            raise RuntimeError(f"a response with status {self._response[0]} has no body")
        self._body.append(bytes(body))
        if not event.get("more_body", False):
            self._finish_response()

    def _finish_response(self) -> None:
        assert self._response is not None
        status, headers = self._response
        self._refuse(Response(status, b"".join(self._body or ()), headers))

    def _refuse(self, response: Response) -> None:
        self._stage = OVER
        self._handshake.refuse(response)
        self.end({"type": "websocket.disconnect", "code": ABNORMAL})


Step = Callable[[Conversation, Event], None]

# What an application may send at each stage beside messages, and what it is told of anything else.
EXPECTED: dict[Stage, tuple[dict[str, Step], str]] = {
    OPENING: (
        {
            "websocket.accept": Conversation._accept,
            "websocket.close": Conversation._reject,
            "websocket.http.response.start": Conversation._start_response,
        },
        "Expected ASGI message 'websocket.accept', 'websocket.close' "
        "or 'websocket.http.response.start' but got '{}'.",
    ),
    REFUSING: (
        {"websocket.http.response.body": Conversation._add_body},
        "Expected ASGI message 'websocket.http.response.body' but got '{}'.",
    ),
    OPEN: (
        {"websocket.close": Conversation._close},
        "Expected ASGI message 'websocket.send' or 'websocket.close', but got '{}'.",
    ),
    OVER: ({}, "Unexpected ASGI message '{}', after sending 'websocket.close'."),
}


def disconnect(ending: CloseError) -> Event:
    """Return the event that tells an application how its connection has ended."""
    known = ending.received is not None or isinstance(ending, ProtocolError)
    code = ending.code if known else NO_STATUS
    return {"type": "websocket.disconnect", "code": code, "reason": ending.reason}
