"""Writes a server's log lines; a log handler that raises does not stop the server."""

from __future__ import annotations

import asyncio
import logging

from koko.aio.tasks import FATAL


def tell(
    logger: logging.Logger,
    level: int,
    text: str,
    *args: object,
    error: BaseException | None = None,
) -> None:
    """Log; what a log handler raises goes to the loop's exception handler."""
    try:
        logger.log(level, text, *args, exc_info=error, stacklevel=2)
    except FATAL:
        raise
    except BaseException as failure:
        complaint = {"message": "a log handler failed", "exception": failure}
        asyncio.get_running_loop().call_exception_handler(complaint)
