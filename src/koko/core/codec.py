"""The seam between the twins: chooses the native codec or the pure one, whole.

``KOKO_CODEC=native`` or ``pure`` chooses by hand; without it the native codec is used
where it was built. ``IMPLEMENTATION`` says which one it is.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from koko.core import _codec, _inbox
from koko.core.memory import keep_large_blocks

if TYPE_CHECKING:
    from koko.core._codec import Decoder, Encoder, Item, mask
    from koko.core._inbox import Inbox
else:
    Item = _codec.Item

    def _choose():
        wanted = os.environ.get("KOKO_CODEC", "")
        if wanted not in ("", "native", "pure"):
            raise ValueError(f"KOKO_CODEC={wanted!r}, expected 'native' or 'pure'")
        if wanted == "pure":
            return _codec, _inbox
        try:
            from koko.core import _native, _native_inbox  # both or neither
        except ImportError as error:
            if wanted == "native":
                raise ImportError(
                    "KOKO_CODEC=native, but the native codec was not built"
                ) from error
            return _codec, _inbox
        return _native, _native_inbox

    _chosen, _chosen_inbox = _choose()
    Decoder, Encoder, mask = _chosen.Decoder, _chosen.Encoder, _chosen.mask
    Inbox = _chosen_inbox.Inbox

keep_large_blocks()  # here, since every connection has a codec

IMPLEMENTATION = "pure" if Decoder is _codec.Decoder else "native"

__all__ = ["IMPLEMENTATION", "Decoder", "Encoder", "Inbox", "Item", "mask"]
