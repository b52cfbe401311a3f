"""Logging for a server: a log handler that fails ends no thread of ours."""

from __future__ import annotations

import logging
import threading


def tell(
    logger: logging.Logger,
    level: int,
    text: str,
    *args: object,
    error: BaseException | None = None,
) -> None:
    """Log; what a log handler raises is lost. An interrupt of the main thread is raised."""
    try:
        logger.log(level, text, *args, exc_info=error, stacklevel=2)
    except Exception:
        return
    except BaseException:
        if threading.current_thread() is threading.main_thread():
            raise
