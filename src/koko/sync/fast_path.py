"""The fast path of a message on threads: there if the extensions are used, else None."""

from __future__ import annotations

from typing import Any

from koko.core.codec import IMPLEMENTATION
from koko.sync import monitor

FastPath: Any = None
Turns: Any = monitor.Turns
if IMPLEMENTATION == "native":
    from koko.sync._native_fast_path import (  # type: ignore[import-not-found, no-redef]
        FastPath,
        Turns,
    )

__all__ = ["FastPath", "Turns"]
