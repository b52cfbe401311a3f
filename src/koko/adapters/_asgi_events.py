"""``receive`` and ``send`` of an ASGI application, in plain Python.

The twin of ``_native_asgi``. Both are a base class because the interpreter pays for it: an
application calls these for every message.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from koko.adapters._asgi_path import Path
from koko.adapters._asgi_scope import Event
from koko.aio.writing import write_in_turn
from koko.errors import CloseError
from koko.message import Kind

TEXT, BINARY = Kind.TEXT, Kind.BINARY  # a member of an Enum costs more than a name


class Events(ABC):
    """The events of one conversation; what is no message is done by the class that has this base.

    Attributes:
        path: the connection, None while it is not accepted.
        disconnect: what the application receives once nothing else is left.
        may_send: whether messages may be sent: it is accepted, and the application has not
            closed it.
    """

    path: Path | None = None
    disconnect: Event | None = None
    may_send = False

    def open(self, path: Path) -> None:
        """Begin to exchange messages."""
        self.path = path
        self.may_send = True

    async def receive(self) -> Event:
        """Return the next event; behind the disconnect there is none, and it raises."""
        path = self.path
        if path is None:
            return await self.receive_early()
        try:
            while (message := path.next_message()) is None:
                if self.disconnect is not None:
                    return self.part(self.disconnect)
                await path.arrives()
        except CloseError as ending:
            return self.part_after(ending)
        if type(message) is str:
            return {"type": "websocket.receive", "text": message}
        return {"type": "websocket.receive", "bytes": message}

    async def send(self, event: Event) -> None:
        """Do what an event says.

        Raises:
            RuntimeError: it is not the turn of this event.
            OSError: the client is gone; nothing was sent.
        """
        path, name = self.path, event["type"]
        if path is None or not self.may_send or name != "websocket.send":
            return self.send_other(name, event)
        message, kind = event.get("bytes"), BINARY
        if message is None:
            message, kind = event.get("text"), TEXT
            if message is None:
                raise RuntimeError("websocket.send has neither 'bytes' nor 'text'")
        try:
            if path.congested:
                await write_in_turn(path, path.core.send, kind, message)
            else:
                path.write(kind, message)
        except CloseError as ending:
            raise self.gone_after(ending) from None

    @abstractmethod
    async def receive_early(self) -> Event:
        """Return the next event while the connection is not accepted."""

    @abstractmethod
    def send_other(self, name: str, event: Event) -> None:
        """Do what an event says that is no message, or not in its turn."""

    @abstractmethod
    def part(self, event: Event) -> Event:
        """Return the disconnect that is the last event."""

    @abstractmethod
    def part_after(self, ending: CloseError) -> Event:
        """Return the one that tells of this end."""

    @abstractmethod
    def gone_after(self, ending: CloseError) -> OSError:
        """Return what an application is told that sends after this end."""
