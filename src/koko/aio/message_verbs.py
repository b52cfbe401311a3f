"""The verbs of a ``Conn`` for whole messages, in plain Python.

``_native_fast_path`` has the same ones, for the native codec.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from typing import Any, Self, TypeVar

from koko.aio.general_path import GeneralPath
from koko.aio.waiting import TOO_SLOW, within
from koko.aio.writing import write_in_turn
from koko.core.lifecycle import OPEN
from koko.errors import CloseError
from koko.message import Data, Kind, PreparedMessage, kind_of


class MessageVerbs:
    """The verbs of a ``Conn`` for whole messages."""

    def __init__(self, protocol: GeneralPath) -> None:
        self._protocol = protocol

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | bytes:
        """Return the next message; an ordinary end of the connection ends the iteration.

        Ordinary is our own ``close`` and a Close with 1000, 1001 or no code; any other
        end is raised, as by ``recv``.
        """
        protocol = self._protocol
        try:
            while (message := protocol.next_message()) is None:
                await protocol.next_waiter()
            return message
        except CloseError as error:
            if error.ordinary:
                raise StopAsyncIteration from None
            raise

    def recv(self, timeout: float | None = None) -> Coroutine[Any, Any, str | bytes]:
        """Return the next message, waiting for it if necessary: text as str, binary as bytes.

        Raises:
            CloseError: the connection is over; see ``code``, ``reason``, ``sent``, ``received``.
            ProtocolError: the peer broke the protocol; a Close that says so was sent.
            ErrReadLimit: the message is larger than ``read_limit``; closed with 1009.
            TimeoutError: nothing arrived within ``timeout`` seconds; nothing is lost.
            RuntimeError: another task is receiving already.
        """
        receiving = self._recv()
        return receiving if timeout is None else within(timeout, "no message came", receiving)

    async def _recv(self) -> str | bytes:
        protocol = self._protocol
        while (message := protocol.next_message()) is None:
            await protocol.next_waiter()
        return message

    def send(self, message: Data, timeout: float | None = None) -> Coroutine[Any, Any, None]:
        """Send one message: str as text, bytes and other buffers as binary.

        Waits while the peer reads too slowly or another task is writing. Returns when the
        message has been handed to the transport, which does not mean that the peer has it.

        Raises:
            ErrCloseSent: a Close was sent already; nothing was written.
            CloseError: the connection is over.
            TimeoutError: it could not begin within ``timeout`` seconds; nothing was sent.
        """
        if type(message) is str:
            kind = Kind.TEXT
        else:
            kind = Kind.BINARY if type(message) is bytes else kind_of(message)
        sending = self._send(kind, message)
        return sending if timeout is None else within(timeout, TOO_SLOW, sending)

    async def _send(self, kind: Kind, message: Data) -> None:
        protocol = self._protocol
        if (protocol.lock is None and not protocol.write_paused) or not protocol.congested:
            protocol.write(kind, message)
        else:
            await write_in_turn(protocol, protocol.core.send, kind, message)


C = TypeVar("C", bound=MessageVerbs)


def send_now(conns: Iterable[C], prepared: PreparedMessage) -> tuple[int, int, list[C]]:
    """Send a prepared message to the connections that have room, without waiting.

    Returns how many it was sent to, how many were over, and those that have no room.
    """
    sent = gone = 0
    late: list[C] = []
    for conn in conns:
        protocol = conn._protocol
        if protocol.core.life.state is not OPEN:
            gone += 1
        elif protocol.write_paused or not (protocol.lock is None or protocol.lock.free):
            late.append(conn)
        else:
            protocol.core.send_prepared(prepared)
            protocol.sent()
            sent += 1
    return sent, gone, late
