"""Messages in parts, for threads: a reader and a writer that are ``io`` objects.

``koko.core`` decides what has come and what may be sent; this module only waits.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any

from koko.core.incoming import ALL, LINE, Incoming, Joined
from koko.core.outgoing import WRITE_SIZE, Outgoing
from koko.message import Data, Kind, check_kind
from koko.misuse import check_seconds
from koko.sync.driver import Driver
from koko.sync.writer import Late


class MessageReader(io.RawIOBase):
    """The bytes of a message, read as they come; text as UTF-8, checked already.

    A real ``io`` object: ``shutil.copyfileobj``, ``json.load``, ``io.TextIOWrapper`` and
    ``io.BufferedReader`` take it. It cannot seek. Reads wait as ``recv`` does, count as the
    connection's one receiver, and raise the same errors; a message that is cut off by the
    end of the connection is never taken for a whole one. One thread at a time.

    ``close``, or asking for the next message, closes a reader that was not read to its end:
    the rest of the message is skipped, and reading on is a ValueError.
    """

    _source: Incoming | Joined | None = None  # unset if an interrupt cut off __init__

    def __init__(
        self, driver: Driver, source: Incoming | Joined, read: Callable[[int], bytes | None]
    ) -> None:
        self._driver = driver
        self._source = source
        self._take = read

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, timeout: float | None = None) -> bytes:
        """Return at most ``size`` bytes, as soon as there are any; b"" at the end.

        Without a size, wait for the end of the message and return all of it.

        Raises:
            CloseError: the connection ended in the middle of the message.
            TimeoutError: nothing came within ``timeout`` seconds; nothing is lost.
            ValueError: the reader is closed.
        """
        return self._read(ALL if size is None or size < 0 else size, timeout)

    def readall(self) -> bytes:
        return self._read(ALL)

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` with what is there, waiting for at least one byte; 0 at the end."""
        with memoryview(buffer).cast("B") as view:
            octets = self._read(len(view))
            view[: len(octets)] = octets
            return len(octets)

    def readline(self, size: int | None = -1) -> bytes:
        """Return up to the end of the line or of the message."""
        if size is None or size < 0:
            return self._read(LINE)
        return super().readline(size)

    def close(self) -> None:
        """Skip the rest of the message, without waiting."""
        if not self.closed:
            if self._source is not None:
                self._source.close()
            super().close()

    def _read(self, size: int, timeout: float | None = None) -> bytes:
        if self.closed:
            raise ValueError("read of a closed reader")
        take = partial(self._driver.reader.read_parts, partial(self._take, size))
        octets: bytes = self._driver.reader.receive(timeout, take, "no more of the message")
        return octets


class MessageWriter(io.RawIOBase):
    """A message that is sent in fragments while it is written; ``close`` ends it.

    A real ``io`` object, for ``shutil.copyfileobj``, ``io.TextIOWrapper`` and the like. A
    fragment is sent when ``write_buffer_size`` bytes are gathered and more comes, so a short
    message is one frame. Other threads' messages wait until it is closed; control frames do
    not, and neither does receiving. One thread at a time.

    A message is not ended as if it were whole when the ``with`` block is left by an
    exception, when a write times out, or when the writer is dropped without ``close``. If
    none of it has been sent, nothing is sent and the connection is unharmed; otherwise the
    connection is closed with 1011.
    """

    _message: Outgoing | None = None  # unset if the message could not begin

    def __init__(self, driver: Driver, kind: Kind, timeout: float | None) -> None:
        self._driver = driver
        self._kind = kind
        try:
            self._message = driver.writer.open_message(kind, timeout, id(self))
        finally:
            if self._message is None:
                driver.message_lock.drop(id(self))  # an interrupt may have come after it was taken

    def writable(self) -> bool:
        return True

    def write(self, data: Data, timeout: float | None = None) -> int:  # type: ignore[override]
        """Add to the message: bytes as they are, str as UTF-8 if the message is text.

        Returns the number of bytes, always all of them. Waits while the peer reads too slowly.

        Raises:
            CloseError: the connection is over.
            TimeoutError: it was not done within ``timeout`` seconds; the message is cut off.
            ValueError: the writer is closed.
        """
        message = self._open_message()
        check_kind(self._kind, data)
        check_seconds("timeout", timeout)
        view = memoryview(data.encode() if isinstance(data, str) else data).cast("B")
        try:
            deadline = self._driver.writer.write_by(timeout)
            for at in range(0, len(view), WRITE_SIZE):
                self._driver.writer.write_between(deadline, message.add, view[at : at + WRITE_SIZE])
        except BaseException as error:
            raise self._cut_by(error) from None
        return len(view)

    def close(self) -> None:
        """End the message: the rest of it is sent as the last fragment."""
        if self.closed:
            return
        message = self._open_message()
        try:
            self._driver.writer.end_message(message)
            super().close()
        except BaseException as error:
            raise self._cut_by(error) from None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the message, or cut it off where the block failed."""
        if error is None:
            self.close()
        else:
            self._leave()

    def __del__(self) -> None:
        # The base class would end the message as if it were whole. This may run anywhere,
        # even inside the core: the housekeeper does the work.
        if self._message is not None and not self.closed:
            self._driver.message_lock.drop(id(self))
            warnings.warn(f"{self!r} was never closed", ResourceWarning, stacklevel=2, source=self)

    def _open_message(self) -> Outgoing:
        if self.closed or self._message is None:
            raise ValueError("write to a closed writer: its message has ended")
        return self._message

    def _cut_by(self, error: BaseException) -> BaseException:
        self._leave()
        return self._message.late() if isinstance(error, Late) and self._message else error

    def _leave(self) -> None:
        if self._message is not None:
            self._driver.writer.leave_message(self._message)
        super().close()
