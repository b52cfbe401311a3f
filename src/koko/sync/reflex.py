"""The seam to the fast path: there where the extensions are used, else None."""

from __future__ import annotations

from typing import Any

from koko.core.codec import IMPLEMENTATION

FastPath: Any = None
if IMPLEMENTATION == "native":
    from koko.sync._native_reflex import FastPath  # type: ignore[import-not-found, no-redef]

__all__ = ["FastPath"]
