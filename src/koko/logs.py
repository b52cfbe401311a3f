"""Logging for clients: a log handler that fails ends no dial.

Each face has a ``tell`` of its own for its server, which has other tasks or threads to keep.
"""

from __future__ import annotations

import logging


def tell(logger: logging.Logger, level: int, text: str, *args: object) -> None:
    """Log; what a log handler raises is lost."""
    try:
        logger.log(level, text, *args, stacklevel=2)
    except Exception:
        return
