"""How many a server takes in: the policy of ``max_connections``.

Arithmetic over who is here. Everybody counts from being accepted to being gone, handshakes
and plain HTTP included: a limit that a flood of half-open handshakes goes round is none.
"""

from __future__ import annotations

from enum import Enum

from koko.errors import HandshakeError
from koko.opening.handshake import refusal
from koko.opening.head import write_response

TOLD = 16  # clients that are told at once that there is no place; the others find the line dead
TELLING = 2.0  # seconds that one of them has to ask and to hear the answer


class Place(Enum):
    SEAT = "is served"
    DOOR = "is answered with 503"
    NOWHERE = "is hung up on"


def place(limit: int | None, seated: int, told: int) -> Place:
    """Return what happens to the next one, given how many are served and how many are told."""
    if limit is None or seated < limit:
        return Place.SEAT
    return Place.DOOR if told < TOLD else Place.NOWHERE


def full(limit: int | None) -> HandshakeError:
    """Return the error of a client for which there is no place."""
    sentence = f"the server has all the connections it takes (max_connections={limit})"
    return HandshakeError(503, f"{sentence}, try again later")


def no_place(limit: int | None) -> tuple[HandshakeError, bytes]:
    """Return the error for the log and the answer for the client."""
    error = full(limit)
    return error, write_response(refusal(error))


def check_limit(limit: int | None) -> int | None:
    """Return the limit if it is one."""
    rule = f"max_connections={limit!r}: a whole number above 0, or None for no limit"
    if limit is not None and type(limit) is not int:
        raise TypeError(rule)
    if limit is not None and limit <= 0:
        raise ValueError(rule)
    return limit
