"""The seam between the twins of the short way: native where the codec is, if it was built."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from koko.core.codec import IMPLEMENTATION

if TYPE_CHECKING or IMPLEMENTATION == "pure":
    from koko.aio._reflex import MessageVerbs, Reflex, Waiter, offer
else:
    try:
        from koko.aio._native_reflex import MessageVerbs, Reflex, Waiter, offer
    except ImportError:  # each is built by itself, and a compiler may have failed at this one
        if os.environ.get("KOKO_CODEC"):
            raise
        from koko.aio._reflex import MessageVerbs, Reflex, Waiter, offer

__all__ = ["MessageVerbs", "Reflex", "Waiter", "offer"]
