"""The chat of ``koko demo``: one room, in which every visitor gets every message.

Every message is one JSON object with a ``type``. A visitor says ``name`` (first, and
again to change it) and ``say``; the room says ``welcome``, ``here``, ``said`` and
``note``. What a visitor sends is hostile until ``_read`` has checked it.
"""

from __future__ import annotations

import json
import time
from collections import deque
from itertools import count
from typing import Any

from koko.aio import Conn
from koko.cli.with_aio import Audience

REMEMBERED = 50  # messages that a new visitor is shown
LONGEST = {"name": 24, "say": 2000}  # characters, as in the page
READ_LIMIT = 16384  # bytes: the longest text, each character escaped, and its braces


class Room:
    """The visitors, and the last messages."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._past: deque[dict[str, Any]] = deque(maxlen=REMEMBERED)
        self._audience = Audience()
        self._ids = count(1)

    async def visit(self, conn: Conn) -> None:
        """Let one visitor take part until the connection ends."""
        visitor = next(self._ids)
        try:
            async for message in conn:
                await self._hear(conn, visitor, *_read(message))
        except ValueError as error:
            await conn.close(1008, str(error))
        finally:
            self._audience.members.discard(conn)
            await self._leave(visitor)

    async def _hear(self, conn: Conn, visitor: int, word: str, text: str) -> None:
        if word == "name" and visitor not in self._names:
            # No other task runs between these two, so the welcome is the first message.
            self._audience.members.add(conn)
            await conn.send(_json("welcome", id=visitor, past=list(self._past)))
            await self._call(visitor, text, f"{text} came in")
        elif word == "name":
            await self._call(visitor, text, f"{self._names[visitor]} is now {text}")
        elif visitor in self._names:
            await self._pass_on(visitor, text)
        else:
            raise ValueError("send your name first")

    async def _call(self, visitor: int, name: str, note: str) -> None:
        if self._names.get(visitor) != name:
            self._names[visitor] = name
            await self._tell_who_is_here(note)

    async def _pass_on(self, visitor: int, text: str) -> None:
        said = {"id": visitor, "name": self._names[visitor], "text": text, "at": time.time()}
        self._past.append(said)
        await self._tell("said", **said)

    async def _leave(self, visitor: int) -> None:
        name = self._names.pop(visitor, None)
        if name is not None:
            await self._tell_who_is_here(f"{name} left")

    async def _tell_who_is_here(self, note: str) -> None:
        people = [{"id": visitor, "name": name} for visitor, name in self._names.items()]
        await self._tell("here", people=people)
        await self._tell("note", text=note)

    async def _tell(self, word: str, **fields: Any) -> None:
        await self._audience.tell(_json(word, **fields))


def _read(message: str | bytes) -> tuple[str, str]:
    """Return the type and the text of a message; raise ValueError if it is not valid."""
    try:
        fields = json.loads(message)
    except (ValueError, RecursionError):
        raise ValueError("a message is one JSON object") from None
    word = fields.get("type") if isinstance(fields, dict) else None
    if word not in ("name", "say"):
        raise ValueError("a message has the type 'name' or 'say'")
    text = fields.get("name" if word == "name" else "text")
    text = text.strip() if isinstance(text, str) else ""
    if not 1 <= len(text) <= LONGEST[word]:
        raise ValueError(f"the text of {word!r} must have 1 to {LONGEST[word]} characters")
    return word, text


def _json(word: str, **fields: Any) -> str:
    return json.dumps({"type": word, **fields})
