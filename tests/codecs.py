"""The codecs that this pass of the tests is about: the chosen one, or both.

``make test`` runs a pass for each. A fixture that goes through the codecs takes them from
here, so that neither pass does the work of the other.
"""

from __future__ import annotations

import os

CHOSEN = os.environ.get("KOKO_CODEC", "")
CODECS = [CHOSEN] if CHOSEN else ["pure", "native"]
