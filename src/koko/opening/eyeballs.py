"""The order in which the addresses of a name are tried: Happy Eyeballs (RFC 8305).

The faces connect; this module gives the order, the delay, and the error when all have failed.
The system's resolver does §3 of the RFC and the sorting of §4 (RFC 6724).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

DELAY = 0.25  # §5: seconds that an attempt may take before the next one starts beside it
ROOM = 0.01  # seconds until the next try at a Unix socket with a full queue: no event says when

Address = tuple[Any, ...]  # as getaddrinfo gives it: family, type, protocol, name, where


def interleaved(addresses: Iterable[Address]) -> list[Address]:
    """Return the addresses, families alternating, the resolver's first choice first (§4)."""
    families: dict[Any, list[Address]] = {}
    for address in addresses:
        families.setdefault(address[0], []).append(address)
    turns = zip_longest(*families.values())
    return [address for turn in turns for address in turn if address is not None]


def no_connection(host: str, port: int, failures: Sequence[tuple[Address, OSError]]) -> OSError:
    """Return the error when every address of a name has failed; its errno is the first one's."""
    reasons = "; ".join(f"{address[4][0]}: {why(error)}" for address, error in failures)
    sentence = f"no connection to {host} port {port}: {reasons}"
    number = failures[0][1].errno if failures else None
    return OSError(sentence) if number is None else OSError(number, sentence)


def why(error: OSError) -> str:
    """Return what went wrong in the system's words; those of asyncio repeat the address."""
    return os.strerror(error.errno) if error.errno else str(error)
