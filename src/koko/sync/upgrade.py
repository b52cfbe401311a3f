"""The server's side of the opening handshake, for threads."""

from __future__ import annotations

from koko import upgrading


class Upgrader(upgrading.Upgrader):
    """Decides which requests become connections; options as in ``koko.upgrading.Upgrader``."""
