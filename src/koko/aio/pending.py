"""A connection that is being opened: to be awaited, or used in ``async with``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from types import TracebackType
from typing import Any

from koko.aio.conn import Conn


class Pending(ABC):
    """A connection being opened: an awaitable and an async context manager."""

    _conn: Conn | None = None

    @abstractmethod
    async def _open(self) -> Conn:
        """Open it."""

    def __await__(self) -> Generator[Any, None, Conn]:
        return self._open().__await__()

    async def __aenter__(self) -> Conn:
        self._conn = await self._open()
        return self._conn

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._conn is not None
        await self._conn.__aexit__(kind, error, traceback)
