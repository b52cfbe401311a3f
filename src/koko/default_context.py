"""The TLS context of clients that were given none: the system's certificates, checked.

To load them takes 40 ms, so a process does it once, when first needed; certificates that are
installed later are not seen by it. ``ssl=`` takes another context.
"""

from __future__ import annotations

import ssl

_made: dict[str, ssl.SSLContext] = {}


def made_context() -> ssl.SSLContext | None:
    """Return the context if it has been made."""
    return _made.get("client")


def default_context() -> ssl.SSLContext:
    """Return the context, the same one for every thread.

    No lock, which a child of fork might inherit held: two threads that are here first may both
    make one, and both get the one that was kept.
    """
    return made_context() or _made.setdefault("client", ssl.create_default_context())
