"""Waiting to write on asyncio: for the message lock, for the peer, for another's message to end.

A writer waits before anything is owed. So one that is cancelled or too late has sent nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from koko.aio.message_lock import MessageLock
from koko.aio.waiting import TOO_SLOW, within
from koko.core.connection import Connection
from koko.core.outgoing import Outgoing
from koko.message import Kind


class Path(Protocol):
    """What a writer needs of the path of its message."""

    @property
    def core(self) -> Connection: ...
    @property
    def message_lock(self) -> MessageLock: ...
    @property
    def write_paused(self) -> bool: ...
    def sent(self) -> None: ...
    def release_waiters(self) -> None: ...
    async def wait_for_change(self) -> None: ...


async def until_writable(path: Path) -> None:
    """Wait until the transport takes more, or nothing may be sent any longer."""
    while path.write_paused and path.core.may_send:
        await path.wait_for_change()


async def write_in_turn(path: Path, owe: Callable[..., None], *message: object) -> None:
    """Wait for the lock and for the peer, then write."""
    lock = path.message_lock
    lock.check_own()
    await within(lock.time_left(None), TOO_SLOW, _write_in_turn(path, owe, *message))


async def _write_in_turn(path: Path, owe: Callable[..., None], *message: object) -> None:
    async with path.message_lock:
        await _until_vacant(path)
        owe(*message)
        path.sent()


async def open_message(path: Path, kind: Kind) -> Outgoing:
    """Begin a message that is written in parts, once no other is being written."""
    async with path.message_lock:
        await _until_vacant(path)
        message = path.core.start_message(kind)
        path.message_lock.pass_to(message)
        return message


def leave_message(path: Path, message: Outgoing) -> None:
    """Release the lock of a message that was written in parts."""
    lock = path.message_lock
    if lock.message is message:
        lock.message = lock.writer = None
        path.release_waiters()


async def _until_vacant(path: Path) -> None:
    """Wait, with the lock held, until a message may begin, or nothing may be sent."""
    lock = path.message_lock
    while (path.write_paused or lock.message) and path.core.may_send:
        await path.wait_for_change()
