"""The server's side of the opening handshake, for asyncio."""

from __future__ import annotations

from koko import upgrading


class Upgrader(upgrading.Upgrader):
    """Decides which requests become connections; the options are ``koko.upgrading.Upgrader``'s."""
