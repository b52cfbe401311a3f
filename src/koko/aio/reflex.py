"""The seam between the twins of the short way: native where the codec is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from koko.core.codec import IMPLEMENTATION

if TYPE_CHECKING or IMPLEMENTATION == "pure":
    from koko.aio._reflex import Arrival, Reflex, clock_of, iterate, receive, send
else:
    from koko.aio._native_reflex import Arrival, Reflex, clock_of, iterate, receive, send

__all__ = ["Arrival", "Reflex", "clock_of", "iterate", "receive", "send"]
