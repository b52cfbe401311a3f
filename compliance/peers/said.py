"""What is said to an echo server: one list, in every language (``talk.mjs``, ``gorilla.go``)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

_ROW = '{{"id": {}, "name": "number {}", "price": {}}}\n'
TABLE = "".join(_ROW.format(number, number, number * 37) for number in range(60))

# The same thing three times in a row: with context takeover the second costs next to nothing.
IN_A_ROW = [TABLE, TABLE, TABLE]
# One after the other: small, not ASCII, binary and large. None is empty: Daphne drops those.
ONE_BY_ONE: list[str | bytes] = ["hi", "é" * 50_000, bytes(range(256)) * 256]

Message = str | bytes


def talk(send: Callable[[Message], object], recv: Callable[[], Message]) -> None:
    """Say everything and raise unless it is echoed."""
    for message in IN_A_ROW:
        send(message)
    for message in IN_A_ROW:
        _check(message, recv())
    for each in ONE_BY_ONE:
        send(each)
        _check(each, recv())


async def talk_async(
    send: Callable[[Message], Awaitable[object]], recv: Callable[[], Awaitable[Message]]
) -> None:
    """Say everything and raise unless it is echoed."""
    for message in IN_A_ROW:
        await send(message)
    for message in IN_A_ROW:
        _check(message, await recv())
    for each in ONE_BY_ONE:
        await send(each)
        _check(each, await recv())


def _check(message: Message, echo: Message) -> None:
    if message != echo:
        raise ValueError(f"{message[:20]!r} came back as {echo[:20]!r}")
