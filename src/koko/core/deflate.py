"""permessage-deflate (RFC 7692): what is wanted, offered, answered and accepted.

The law: an offer is taken whole or not at all, an answer must fit one of our offers, and
what was ``Agreed`` decides how ``flate`` compresses and inflates. Strings come in and go
out; no payload passes through here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from koko.core.flate import IMPLEMENTATION, Deflater, Inflater, check_level
from koko.core.wire import Role

__all__ = [
    "IMPLEMENTATION",
    "Agreed",
    "Compression",
    "Deflater",
    "Inflater",
    "accept",
    "answer",
    "check_level",
    "offer",
    "parse_extensions",
]

NAME = "permessage-deflate"
BITS = {"8": 8, "9": 9, "10": 10, "11": 11, "12": 12, "13": 13, "14": 14, "15": 15}
FLAGS = ("server_no_context_takeover", "client_no_context_takeover")
WINDOWS = ("server_max_window_bits", "client_max_window_bits")

# What is wanted and what was agreed


@dataclass(frozen=True, kw_only=True)
class Compression:
    """How messages are compressed, if the peer agrees.

    The two ``server_`` settings rule what the server sends and the two ``client_`` ones
    what the client sends, whichever of them we are. By default every message is
    compressed on its own and an idle connection holds no state. With context takeover
    similar small messages shrink far more (lower ``threshold`` too), and each connection
    keeps, once it has sent or received: to compress, 262 KiB at 15 window bits, 38 at 12,
    24 at 9 (``isal``: 58 at level 1, 107 at 2, whatever the bits); to inflate, 39 KiB
    at 15 bits, 11 at 12, 8 at 9.

    Attributes:
        level: 1 (fast) to 9 (small), 0 to store, -1 for the usual balance, -2 for Huffman
            codes only. Where ``isal`` is installed it does -1, 1 and 2: level 1 costs half
            of zlib's time for the same size. It has nothing as small as zlib's 3 to 9.
        threshold: messages of fewer bytes are sent as they are.
        server_no_context_takeover: the server forgets each message it has sent. None: a
            client asks for it and does without where the server does not promise it; a
            server does so. True: a client refuses a server that does not promise it. A
            client may always ask for it.
        client_no_context_takeover: the same for the client.
        server_max_window_bits: the server refers back at most 2**bits bytes, 8 to 15.
            A client asks for it and refuses a server that uses more.
        client_max_window_bits: the same for the client. A server can ask only clients
            that offered to be asked (Firefox does not); others use 15.

    Raises:
        ValueError: a setting is out of its range.
    """

    level: int = 1
    threshold: int = 256
    server_no_context_takeover: bool | None = None
    client_no_context_takeover: bool = True
    server_max_window_bits: int = 15
    client_max_window_bits: int = 15

    def __post_init__(self) -> None:
        check_level(self.level)
        if type(self.threshold) is not int or self.threshold < 0:
            raise ValueError(f"threshold={self.threshold!r}: a number of bytes, 0 or more")
        for name, or_none in zip(FLAGS, (", or None", ""), strict=True):
            flag = getattr(self, name)
            if type(flag) is not bool and not (flag is None and or_none):
                raise ValueError(f"{name}={flag!r}: True or False{or_none}")
        for name in WINDOWS:
            bits = getattr(self, name)
            if type(bits) is not int or bits not in BITS.values():
                raise ValueError(f"{name}={bits!r}: 8 to 15 (RFC 7692 §7.1.2)")


@dataclass(frozen=True, kw_only=True)
class Agreed(Compression):
    """What both sides said yes to: the same settings, now binding."""

    server_no_context_takeover: bool = True

    def deflater(self, role: Role) -> Deflater:
        """Return what compresses the messages that ``role``, our own, sends."""
        forgets, bits = self._terms_of(role)
        return Deflater(self.level, bits, takeover=not forgets)

    def inflater(self, role: Role) -> Inflater:
        """Return what inflates the messages that ``role``, our own, receives."""
        forgets, bits = self._terms_of(role.peer)
        return Inflater(bits, takeover=not forgets)

    def _terms_of(self, sender: Role) -> tuple[bool, int]:
        if sender is Role.SERVER:
            return self.server_no_context_takeover, self.server_max_window_bits
        return self.client_no_context_takeover, self.client_max_window_bits


# The header Sec-WebSocket-Extensions

Parameters = list[tuple[str, str | None]]

# Runs of characters are possessive: no run of a hostile header is taken twice.
_OWS = r"[ \t]*+"
_CHAR = r"[!#$%&'*+.^_`|~0-9A-Za-z-]"
_TOKEN = rf"{_CHAR}++"
_QUOTED = rf'"(?:\\?{_CHAR})++"'  # §9.1: unquoted it must be a token again
_PARAMETER = rf"{_OWS};{_OWS}({_TOKEN})(?:{_OWS}={_OWS}({_TOKEN}|{_QUOTED}))?"
_ELEMENT = re.compile(rf"{_OWS}(?:(?P<name>{_TOKEN})(?P<rest>(?:{_PARAMETER})*))?{_OWS}(?:,|\Z)")
_PARAMETERS = re.compile(_PARAMETER)


def parse_extensions(values: Sequence[str]) -> list[tuple[str, Parameters]]:
    """Return the extensions that these header values name, in order, with their parameters.

    Quoted values come back unquoted; a parameter without a value has None.

    Raises:
        ValueError: a value breaks the grammar of §9.1, on which a server must fail the
            handshake and a client the connection.
    """
    return [element for value in values for element in _elements(value)]


def _elements(value: str) -> Iterator[tuple[str, Parameters]]:
    at = 0
    while at < len(value):
        found = _ELEMENT.match(value, at)
        if found is None:
            raise ValueError(
                f"Sec-WebSocket-Extensions cannot be read from {value[at : at + 60]!r} on, "
                "expected 'name; parameter=value, ...' (RFC 6455 §9.1)"
            )
        if found["name"]:  # a list may have empty elements (RFC 9110 §5.6.1.2)
            yield found["name"], [_unquote(*pair) for pair in _PARAMETERS.findall(found["rest"])]
        at = found.end()


def _unquote(name: str, value: str) -> tuple[str, str | None]:
    return name, value.strip('"').replace("\\", "") or None


# The negotiation


class _Terms(NamedTuple):
    """The parameters of one offer or answer; a window that was not mentioned is None."""

    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    server_max_window_bits: int | None = None
    client_max_window_bits: int | None = None


def offer(settings: Compression) -> str:
    """Return the Sec-WebSocket-Extensions of a client that wants these settings.

    What is only wished for stands in a first offer; the second one does without it, for
    servers that honour an offer whole or not at all.
    """
    if settings.server_no_context_takeover is None:
        insisting = replace(settings, server_no_context_takeover=True)
        yielding = replace(settings, server_no_context_takeover=False)
        return f"{_offer(insisting)}, {_offer(yielding)}"
    return _offer(settings)


def _offer(settings: Compression) -> str:
    said = [NAME, *(name for name in FLAGS if getattr(settings, name))]
    if settings.server_max_window_bits < 15:
        said.append(f"server_max_window_bits={settings.server_max_window_bits}")
    # RFC 7692 §7.1.2.2: without this word a server may not ask us for a smaller window.
    bits = settings.client_max_window_bits
    said.append("client_max_window_bits" + (f"={bits}" if bits < 15 else ""))
    return "; ".join(said)


def answer(settings: Compression, values: Sequence[str]) -> tuple[str, Agreed] | None:
    """Return a server's Sec-WebSocket-Extensions and what it agrees to, None to decline all.

    The first offer that can be honoured wholly is taken.

    Raises:
        ValueError: the header is malformed; the client deserves a 400 (§9.1). An offer
            that is only unusable, with a parameter unknown or out of range, is declined.
    """
    for name, parameters in parse_extensions(values):
        if name != NAME:
            continue
        try:
            offered = _read(parameters)
        except ValueError:  # RFC 7692 §7: such an offer MUST be declined
            continue
        return _answer(settings, offered)
    return None


def _answer(settings: Compression, offered: _Terms) -> tuple[str, Agreed]:
    # RFC 7692 §7.1.2.2: only a client that offered client_max_window_bits may be told it.
    client_bits = offered.client_max_window_bits
    agreed = _settle(
        settings,
        _Terms(
            settings.server_no_context_takeover is not False or offered.server_no_context_takeover,
            settings.client_no_context_takeover or offered.client_no_context_takeover,
            min(settings.server_max_window_bits, offered.server_max_window_bits or 15),
            min(settings.client_max_window_bits, client_bits) if client_bits else 15,
        ),
    )
    said = [NAME, *(name for name in FLAGS if getattr(agreed, name))]
    # RFC 7692 §7.1.2.1: what was offered is echoed, be it 15.
    if offered.server_max_window_bits or agreed.server_max_window_bits < 15:
        said.append(f"server_max_window_bits={agreed.server_max_window_bits}")
    if agreed.client_max_window_bits < 15:
        said.append(f"client_max_window_bits={agreed.client_max_window_bits}")
    return "; ".join(said), agreed


def accept(settings: Compression | None, values: Sequence[str]) -> Agreed | None:
    """Return what a server's answer to our offer agrees to, None if it declined.

    Args:
        settings: what was offered, None for nothing.
        values: the Sec-WebSocket-Extensions of its answer.

    Raises:
        ValueError: the answer is malformed, or not one to our offer.
    """
    elements = parse_extensions(values)
    for name, _ in elements:
        if name != NAME or settings is None:
            raise ValueError(f"server chose the extension {name!r}, not offered (RFC 6455 §9.1)")
    if not elements or settings is None:
        return None
    if len(elements) > 1:
        raise ValueError(f"server chose {NAME} twice, offered once (RFC 6455 §9.1)")
    parameters = elements[0][1]
    if ("client_max_window_bits", None) in parameters:
        raise ValueError("server answered client_max_window_bits bare (RFC 7692 §7.1.2.2)")
    answered = _read(parameters)
    _check_answer(settings, answered)
    return _settle(
        settings,
        _Terms(
            answered.server_no_context_takeover,
            settings.client_no_context_takeover or answered.client_no_context_takeover,
            answered.server_max_window_bits or 15,
            min(settings.client_max_window_bits, answered.client_max_window_bits or 15),
        ),
    )


def _check_answer(settings: Compression, answered: _Terms) -> None:
    if settings.server_no_context_takeover and not answered.server_no_context_takeover:
        raise ValueError(
            "server did not answer server_no_context_takeover, which was asked for by name "
            "(RFC 7692 §7.1.1.1)"
        )
    offered = settings.server_max_window_bits
    if offered < 15 and answered.server_max_window_bits is None:
        raise ValueError("server did not answer server_max_window_bits (RFC 7692 §7.1.2.1)")
    for name in WINDOWS:
        offered, bits = getattr(settings, name), getattr(answered, name) or 8
        if bits > offered:
            raise ValueError(f"server answered {name}={bits}, offered {offered} (RFC 7692 §7.1.2)")


def _settle(settings: Compression, terms: _Terms) -> Agreed:
    return Agreed(level=settings.level, threshold=settings.threshold, **terms._asdict())


def _read(parameters: Parameters) -> _Terms:
    terms: dict[str, Any] = {}
    for name, value in parameters:
        if name in terms:
            raise ValueError(f"{NAME} with {name} twice (RFC 7692 §7.1)")
        terms[name] = _term(name, value)
    return _Terms(**terms)


def _term(name: str, value: str | None) -> int:
    if name in FLAGS:
        if value is not None:
            raise ValueError(f"{NAME} with {name}={value}, which has no value (RFC 7692 §7.1.1)")
        return True
    if name not in WINDOWS:
        raise ValueError(f"{NAME} with the unknown parameter {name!r} (RFC 7692 §7.1)")
    if value is None and name == "client_max_window_bits":  # offered without wishes
        return 15
    if value not in BITS:  # no sign, no leading zero
        raise ValueError(f"{NAME} with {name}={value}, expected 8 to 15 (RFC 7692 §7.1.2)")
    return BITS[value]
