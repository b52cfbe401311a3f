"""Runs the handler of a connection, and ends the connection when the handler has ended."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import CoroutineType

from koko.aio.conn import Conn
from koko.aio.logs import tell
from koko.aio.tasks import FATAL, was_cancelled
from koko.errors import CloseError
from koko.message import Kind, format_close_message
from koko.misuse import not_awaitable
from koko.opening.address import written
from koko.serving import CLIENT, close_code_of, ended, handler_failed

Handler = Callable[[Conn], Awaitable[object]]


async def run_handler(
    conn: Conn, handler: Handler, logger: logging.Logger, others: Callable[[], int]
) -> None:
    """Run a handler, end its connection, log how it ended."""
    error = None
    try:
        result = handler(conn)
        # For a coroutine isawaitable() takes ten times as long as this check of the type.
        if type(result) is not CoroutineType and not inspect.isawaitable(result):
            raise not_awaitable("handler", handler, result)
        await result
    except BaseException as raised:
        error = raised
    try:
        await end_with(conn, error, logger, others)
    finally:
        error = None  # its traceback holds this frame: a reference cycle


async def end_with(
    conn: Conn, error: BaseException | None, logger: logging.Logger, others: Callable[[], int]
) -> None:
    """End the connection of a handler that ended, perhaps with an error, and log that.

    ``others`` returns how many connections are still open. Two kinds of errors are raised
    again: the cancellation of this task, and what ends the loop.
    """
    try:
        if error is not None and was_cancelled(error):
            raise error
        if error is None or close_code_of(error) == 1000:
            await conn.close()
        else:
            await _fail(conn, error, logger)
    except asyncio.CancelledError:
        conn.abort()
        raise
    finally:
        error = None  # as above
        _log_end(conn, logger, others)


async def _fail(conn: Conn, error: BaseException, logger: logging.Logger) -> None:
    sentence, values, shown = handler_failed(conn, error)
    tell(logger, logging.ERROR, sentence, *values, error=shown)
    if not isinstance(error, FATAL):
        return await conn.close(1011)
    with suppress(CloseError):  # the loop is ending: do not wait for the peer's answer
        conn._write_control(Kind.CLOSE, format_close_message(1011))
    raise error


def _log_end(conn: Conn, logger: logging.Logger, others: Callable[[], int]) -> None:
    ending = conn._core.life.ending
    if ending is None:
        return  # the loop is about to end
    if logger.isEnabledFor(logging.INFO):
        peer, target = written(conn.remote_address), conn.request.shown
        sentence = ended(conn._core, conn._protocol.now(), others())
        tell(logger, logging.INFO, CLIENT, peer, target, sentence)
    # The frames of its traceback hold conn, which holds the error: a reference cycle that would
    # keep a connection in memory until the garbage collector runs.
    ending.__traceback__ = None
