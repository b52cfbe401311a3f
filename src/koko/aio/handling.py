"""What becomes of a connection when its handler has come out, as it may."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from koko.aio.conn import Conn
from koko.aio.logs import tell
from koko.aio.tasks import FATAL, was_cancelled
from koko.errors import CloseError
from koko.message import Kind, format_close_message
from koko.opening.address import written
from koko.serving import CLIENT, ended, handler_failed


async def end_with(
    conn: Conn, error: BaseException | None, logger: logging.Logger, others: Callable[[], int]
) -> None:
    """End the connection of a handler that came out, perhaps with an error, and log that.

    ``others`` tells how many are open still. What is not the handler's is raised on: its
    cancellation, and what ends the loop.
    """
    try:
        if error is not None and was_cancelled(error):
            raise error
        if error is None or _is_parting(error):
            await conn.close()
        else:
            await _fail(conn, error, logger)
    except asyncio.CancelledError:
        conn.abort()
        raise
    finally:
        _log_end(conn, logger, others)


async def _fail(conn: Conn, error: BaseException, logger: logging.Logger) -> None:
    sentence, values, shown = handler_failed(conn, error)
    tell(logger, logging.ERROR, sentence, *values, error=shown)
    if not isinstance(error, FATAL):
        return await conn.close(1011)
    with suppress(CloseError):  # the loop does not wait for the answer
        conn._write_control(Kind.CLOSE, format_close_message(1011))
    raise error


def _is_parting(error: BaseException) -> bool:
    """Tell whether nothing but CloseErrors left a handler, or the task groups in it."""
    if isinstance(error, ExceptionGroup):
        return error.split(CloseError)[1] is None
    return isinstance(error, CloseError)


def _log_end(conn: Conn, logger: logging.Logger, others: Callable[[], int]) -> None:
    ending = conn.ending
    if ending is None:
        return  # the loop is about to end
    if logger.isEnabledFor(logging.INFO):
        peer, target = written(conn.remote_address), conn.request.shown
        sentence = ended(conn._core, conn._protocol.now(), others())
        tell(logger, logging.INFO, CLIENT, peer, target, sentence)
    # The frames it went through hold conn, which holds it: a circle that keeps a
    # connection in memory until the garbage collector comes by.
    ending.__traceback__ = None
