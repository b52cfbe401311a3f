"""The seam between the twins of the short way: native where the codec is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from koko.core.codec import IMPLEMENTATION

if TYPE_CHECKING or IMPLEMENTATION == "pure":
    from koko.aio._reflex import MessageVerbs, Reflex, Waiter, offer
else:
    from koko.aio._native_reflex import MessageVerbs, Reflex, Waiter, offer

__all__ = ["MessageVerbs", "Reflex", "Waiter", "offer"]
