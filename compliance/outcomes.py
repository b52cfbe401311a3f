"""The results of trying permessage-deflate with others, and the page that shows them."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from koko.core import deflate
from koko.core.deflate import Compression
from peers.said import IN_A_ROW
from relay import Record, messages

Setting = bool | Compression
SETTINGS: dict[str, Setting] = {
    "True": True,
    "takeover": Compression(server_no_context_takeover=False, client_no_context_takeover=False),
    "server forgets": Compression(server_no_context_takeover=True),
    "server window": Compression(server_max_window_bits=12),
    "client window": Compression(client_max_window_bits=12),
}


class Outcome(NamedTuple):
    """What came of one conversation; ``error`` is empty when everything was echoed."""

    offer: str
    answer: str
    error: str
    from_client: str
    from_server: str

    @classmethod
    def of(cls, record: Record, error: str) -> Outcome:
        return cls(
            record.offer,
            record.answer,
            error,
            flow(record.asked),
            flow(record.answered),
        )

    @property
    def word(self) -> str:
        """What it is in one word."""
        if self.error:
            return "refused" if "ErrBadHandshake" in self.error else "fails"
        return "yes" if self.answer else "uncompressed"


class Row(NamedTuple):
    """A peer and what came of each setting, on each face; ``note`` is what is known to fail."""

    name: str
    note: str
    version: str
    outcomes: dict[str, dict[str, Outcome]]

    def of(self, setting: str) -> Outcome:
        return self.outcomes[setting]["sync"]

    @property
    def complaints(self) -> Iterator[str]:
        for setting, by_face in self.outcomes.items():
            if len(set(by_face.values())) > 1:
                yield f"{self.name}, {setting}: the faces differ: {by_face}"
            for face, outcome in by_face.items():
                if outcome.error and not (self.note or _is_deserved(setting, outcome)):
                    yield f"{self.name}, {setting}, {face}: {outcome.error}"
        if self.note and not self.of("True").error:
            yield f"{self.name}: nothing fails any more; its note is out of date"


def _is_deserved(setting: str, outcome: Outcome) -> bool:
    # What was asked for by name and is not given ends the handshake; nothing else may.
    return setting.startswith("server ") and "server did not answer" in outcome.error


def flow(octets: bytearray) -> str:
    """Say how the three messages that are alike were sent: the later ones show what is kept."""
    frames = list(messages(octets))[: len(IN_A_ROW)]
    if len(frames) < len(IN_A_ROW):
        return "-"
    if not frames[0].compressed:
        return "as they are"
    return "with context" if frames[-1].length * 2 < frames[0].length else "each alone"


# The page


HEADER = """\
# Compression: what others ask and answer

<!-- Written by `make peers`; edits are lost. -->

`compression=True` is permessage-deflate (RFC 7692): a client offers, a server answers. Below is
what real servers answer to Koko, what real clients ask of Koko, and what comes of it. Each was run,
with Koko on threads and on asyncio; unless it says otherwise every message came back as it was
sent, small and large, also three alike in a row.

Their length shows how these three were compressed. *Each alone*: the sender forgets each
message, so an idle connection holds no memory for it. *With context*: it refers back to earlier
messages, which makes similar small ones far smaller. *As they are*: not compressed.

"""
SERVERS_TEXT = """\
## Servers

`dial(..., compression=True)` sends two offers, the better one first, for servers that take an offer
whole or not at all:

```
Sec-WebSocket-Extensions: {offer}
```

A server that answers without `server_no_context_takeover` keeps its context, and so does Koko's
inflater.
"""
CLIENTS_TEXT = """\
## Clients

A Koko server with `compression=True` takes the first offer that it can honour wholly and asks both
sides to forget each message.
"""
SETTINGS_TEXT = """\
## What other settings do

`compression=` takes a `Compression` for anything but the default:

| column | `compression=Compression(...)` | a client offers |
|---|---|---|
{settings}

*yes*: open and compressed. *uncompressed*: open, and the peer declined or did not ask. *refused*:
the peer does not promise what was asked for by name, and `ErrBadHandshake` says so; asking by name
is for that. *fails*: see the note above. A Koko server refuses no client: one that cannot be
asked for a smaller window uses 15 bits.

"""
NAMES = {
    "True": "`True`",
    "takeover": "takeover",
    "server forgets": "server forgets",
    "server window": "server window",
    "client window": "client window",
}
ARGUMENTS = {
    "takeover": "server_no_context_takeover=False, client_no_context_takeover=False",
    "server forgets": "server_no_context_takeover=True",
    "server window": "server_max_window_bits=12",
    "client window": "client_max_window_bits=12",
}


def table(names: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [names, ["---"] * len(names), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def code(text: str) -> str:
    return f"`{text}`" if text else "nothing"


def render(servers: Sequence[Row], clients: Sequence[Row]) -> str:
    answered = [
        (row.name, row.version, code(one.answer), one.from_server, one.from_client)
        for row in servers
        for one in [row.of("True")]
    ]
    asked = [
        (row.name, row.version, code(one.offer), code(one.answer), one.from_client, one.from_server)
        for row in clients
        for one in [row.of("True")]
    ]
    offered = [
        f"| {name} | `{ARGUMENTS[name]}` | `{deflate.offer(setting)}` |"
        for name, setting in SETTINGS.items()
        if isinstance(setting, Compression)
    ]
    words = ["", *NAMES.values()]
    matrix = [[row.name, *(row.of(name).word for name in SETTINGS)] for row in (*servers, *clients)]
    return "\n".join(
        [
            HEADER + SERVERS_TEXT.format(offer=deflate.offer(Compression())),
            table(("server", "version", "answers", "it sends", "Koko sends"), answered),
            CLIENTS_TEXT,
            table(("client", "version", "asks", "Koko answers", "it sends", "Koko sends"), asked),
            *(f"{row.name} {row.note}.\n" for row in clients if row.note),
            SETTINGS_TEXT.format(settings="\n".join(offered))
            + table(words, matrix[: len(servers)]).replace("|  |", "| server |", 1),
            table(words, matrix[len(servers) :]).replace("|  |", "| client |", 1),
            f"{platform.python_implementation()} {platform.python_version()}, "
            f"{platform.system()}; deflate by {deflate.IMPLEMENTATION}.\n",
        ]
    )
