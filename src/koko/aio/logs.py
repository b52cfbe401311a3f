"""What a server logs, where a log handler that fails must not leave a connection open."""

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
    """Log; what a log handler raises is the loop's to complain of."""
    try:
        logger.log(level, text, *args, exc_info=error, stacklevel=2)
    except FATAL:
        raise
    except BaseException as failure:
        complaint = {"message": "a log handler failed", "exception": failure}
        asyncio.get_running_loop().call_exception_handler(complaint)
