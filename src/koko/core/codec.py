"""The seam between the twins: the native codec or the pure one, whole.

``koko.native`` decides, once for all rooms; ``IMPLEMENTATION`` says which one it is and
``WHY`` why it is not the native one.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

from koko.core._codec import Item
from koko.core.memory import keep_large_blocks
from koko.native import choose

IMPLEMENTATION, WHY = choose(os.environ.get("KOKO_CODEC", ""))

if TYPE_CHECKING:
    from koko.core._codec import Decoder, Encoder, mask
    from koko.core._inbox import Inbox
else:
    _names = ("_codec", "_inbox") if IMPLEMENTATION == "pure" else ("_native", "_native_inbox")
    _codec, _inbox = (import_module(f"koko.core.{name}") for name in _names)
    Decoder, Encoder, mask, Inbox = _codec.Decoder, _codec.Encoder, _codec.mask, _inbox.Inbox

keep_large_blocks()  # here, since every connection has a codec

__all__ = ["IMPLEMENTATION", "WHY", "Decoder", "Encoder", "Inbox", "Item", "mask"]
