"""The seam between the twins of the short way: native where the codec is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from koko.core.codec import IMPLEMENTATION

if TYPE_CHECKING or IMPLEMENTATION == "pure":
    from koko.sync._reflex import Reflex
else:
    from koko.sync._native_reflex import Reflex

__all__ = ["Reflex"]
