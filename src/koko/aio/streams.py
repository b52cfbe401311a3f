"""Messages in parts, for asyncio: a reader and a writer, awaited.

``koko.core`` decides what has come and what may be sent; this module only waits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self

from koko.aio.general_path import GeneralPath
from koko.aio.pending import Pending
from koko.aio.waiting import within
from koko.aio.writing import leave_message, open_message, until_writable
from koko.core.incoming import ALL, LINE, Incoming, Joined
from koko.core.outgoing import WRITE_SIZE, Outgoing
from koko.message import Data, Kind, check_kind
from koko.misuse import check_seconds


class MessageReader:
    """The bytes of a message, read as they come; text as UTF-8, checked already.

    It has the verbs of ``asyncio.StreamReader`` that make sense for a message;
    iteration gives lines, as with any file. Reads wait as ``recv`` does, count as the
    connection's one receiver, and raise the same errors; a message that is cut off by the
    end of the connection is never taken for a whole one. Cancelling a read loses nothing.

    ``close``, or asking for the next message, closes a reader that was not read to its end:
    the rest of the message is skipped, and reading on is a ValueError.
    """

    def __init__(
        self, protocol: GeneralPath, source: Incoming | Joined, read: Callable[[int], bytes | None]
    ) -> None:
        self._protocol = protocol
        self._source = source
        self._take = read

    async def read(self, size: int | None = -1, timeout: float | None = None) -> bytes:
        """Return at most ``size`` bytes, as soon as there are any; b"" at the end.

        Without a size, wait for the end of the message and return all of it.

        Raises:
            CloseError: the connection ended in the middle of the message.
            TimeoutError: nothing came within ``timeout`` seconds; nothing is lost.
            ValueError: the reader is closed.
        """
        return await self._read(ALL if size is None or size < 0 else size, timeout)

    async def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` with what is there, waiting for at least one byte; 0 at the end."""
        with memoryview(buffer).cast("B") as view:
            octets = await self._read(len(view))
            view[: len(octets)] = octets
            return len(octets)

    async def readline(self) -> bytes:
        """Return up to the end of the line or of the message."""
        return await self._read(LINE)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if line := await self._read(LINE):
            return line
        raise StopAsyncIteration

    def close(self) -> None:
        """Skip the rest of the message, without waiting."""
        self._source.close()

    @property
    def closed(self) -> bool:
        """Whether it was closed before the message had been read to its end."""
        return self._source.closed

    async def _read(self, size: int, timeout: float | None = None) -> bytes:
        if timeout is not None:
            return await within(timeout, "no more of the message came", self._read(size))
        protocol, take = self._protocol, partial(self._take, size)
        octets: bytes | None = protocol.ask(take)
        while octets is None:
            await protocol.arrives()
            octets = protocol.ask(take)
        return octets


class MessageWriter:
    """A message that is sent in fragments while it is written; ``close`` ends it.

    A fragment is sent when ``write_buffer_size`` bytes are gathered and more comes, so a short
    message is one frame. Other tasks' messages wait until it is closed; control frames do
    not, and neither does receiving. One task at a time.

    A message is not ended as if it were whole when the ``async with`` block is left by an
    exception, when a write times out or is cancelled, or when the writer is dropped without
    ``close``. If none of it has been sent, nothing is sent and the connection is unharmed;
    otherwise the connection is closed with 1011.
    """

    def __init__(self, protocol: GeneralPath, kind: Kind, message: Outgoing) -> None:
        self._protocol = protocol
        self._kind = kind
        self._message = message
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether the message has ended, or was cut off."""
        return self._closed

    async def write(self, data: Data, timeout: float | None = None) -> int:
        """Add to the message: bytes as they are, str as UTF-8 if the message is text.

        Returns the number of bytes, always all of them. Waits while the peer reads too slowly.

        Raises:
            CloseError: the connection is over.
            TimeoutError: it was not done within ``timeout`` seconds; the message is cut off.
            ValueError: the writer is closed.
        """
        self._check_open()
        check_kind(self._kind, data)
        check_seconds("timeout", timeout)
        view = memoryview(data.encode() if isinstance(data, str) else data).cast("B")
        await self._or_cut(timeout, self._write, view)
        return len(view)

    async def close(self) -> None:
        """End the message: the rest of it is sent as the last fragment."""
        if not self._closed:
            await self._or_cut(None, self._end)
            self._leave()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the message, or cut it off where the block failed or was cancelled."""
        if error is None:
            await self.close()
        elif not self._closed:
            self._cut()

    def __del__(self) -> None:
        if not self._closed:
            with suppress(RuntimeError):  # the loop is closed, so the connection is gone
                self._protocol.loop.call_soon_threadsafe(_cut, self._protocol, self._message)
            warnings.warn(f"{self!r} was never closed", ResourceWarning, stacklevel=2, source=self)

    async def _or_cut(self, timeout: float | None, work: Callable[..., Any], *args: Any) -> None:
        try:
            timeout = self._protocol.message_lock.time_left(timeout)
            await within(timeout, "", work(*args))
        except TimeoutError:
            self._cut()
            raise self._message.late() from None
        except BaseException:
            self._cut()
            raise

    async def _write(self, view: memoryview) -> None:
        for at in range(0, len(view), WRITE_SIZE):
            await until_writable(self._protocol)
            self._message.add(view[at : at + WRITE_SIZE])
            self._protocol.flush()

    async def _end(self) -> None:
        await until_writable(self._protocol)
        self._message.end()
        self._protocol.flush()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("write to a closed writer: its message has ended")

    def _cut(self) -> None:
        _cut(self._protocol, self._message)
        self._closed = True

    def _leave(self) -> None:
        leave_message(self._protocol, self._message)
        self._closed = True


def _cut(protocol: GeneralPath, message: Outgoing) -> None:
    message.cut(protocol.now())
    leave_message(protocol, message)
    protocol.flush()
    protocol.apply_stream_action()


class PendingWriter(Pending[MessageWriter]):
    """The writer of a message that has yet to begin."""

    def __init__(self, protocol: GeneralPath, kind: Kind, timeout: float | None) -> None:
        self._protocol = protocol
        self._kind = kind
        self._timeout = timeout

    async def _open(self) -> MessageWriter:
        protocol = self._protocol
        protocol.message_lock.check_own()
        timeout = protocol.message_lock.time_left(self._timeout)
        message = await within(
            timeout, "no message could begin", open_message(protocol, self._kind)
        )
        return MessageWriter(protocol, self._kind, message)
