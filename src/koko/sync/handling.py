"""Runs the handler of a connection, and ends the connection when the handler has ended."""

from __future__ import annotations

import logging
from collections.abc import Callable

from koko.errors import forget_frames
from koko.misuse import check_returned
from koko.opening.address import written
from koko.serving import CLIENT, close_code_of, ended, handler_failed
from koko.sync.conn import Conn
from koko.sync.logs import tell

Handler = Callable[[Conn], object]


def run_handler(
    conn: Conn,
    handler: Callable[[], object],
    logger: logging.Logger,
    others: Callable[[], int | None] = lambda: None,
) -> None:
    """Run a handler, end its connection, log how it ended."""
    error = None
    try:
        check_returned("handler", handler, handler())
    except BaseException as raised:
        error = raised
    try:
        end_with(conn, error, logger, others)
    finally:
        error = None  # its traceback holds this frame: a reference cycle


def end_with(
    conn: Conn,
    error: BaseException | None,
    logger: logging.Logger,
    others: Callable[[], int | None],
) -> None:
    """End the connection of a handler that ended, perhaps with an error, and log that.

    ``others`` returns how many connections are still open, None where they are not counted. An
    error that is no ``Exception`` - ``SystemExit``, a test's failure - is raised again, for the
    caller of this thread's function; the connection is over in this case, too.
    """
    code = close_code_of(error)
    try:
        if error is not None and code != 1000:
            sentence, values, shown = handler_failed(conn, error)
            tell(logger, logging.ERROR, sentence, *values, error=shown)
        if error is not None and not isinstance(error, Exception):
            conn._driver.start_close(code, "")
            raise error
        conn.close(code)
    finally:
        error = None  # as above
        conn.abort()
        if logger.isEnabledFor(logging.INFO):
            peer, target = written(conn.remote_address), conn.request.shown
            ending = ended(conn._core, conn._driver.clock.now(), others())
            tell(logger, logging.INFO, CLIENT, peer, target, ending)
        forget_frames(conn.ending)
