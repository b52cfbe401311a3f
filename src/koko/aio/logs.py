"""What a server logs, where a log handler that fails must not leave a connection open."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from koko.aio.tasks import FATAL
from koko.core.address import written

if TYPE_CHECKING:
    from koko.aio.conn import Conn

NAMED = 5  # addresses that a line has room for


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


def addresses(conns: list[Conn]) -> str:
    """Return whom they are with, as far as a line has room for that."""
    named = [written(conn.remote_address) for conn in conns[:NAMED]]
    return ", ".join(named + ["..."] * (len(conns) > NAMED))
