"""The TLS context of clients that were given none: the system's certificates, checked.

Loading them takes 40 ms, so a process does it once, when first needed; certificates that are
installed later have no effect. ``ssl=`` takes another context.
"""

from __future__ import annotations

import ssl

_made: dict[str, ssl.SSLContext] = {}


def made_context() -> ssl.SSLContext | None:
    """Return the context if it has been made."""
    return _made.get("client")


def default_context() -> ssl.SSLContext:
    """Return the context, the same one for every thread.

    It takes no lock, since a child of fork could inherit one that is held. Two threads may both
    make a context; both get the one that was stored first.
    """
    return made_context() or _made.setdefault("client", ssl.create_default_context())
