"""The steps of a dial, as data: what a face does, and the words for it.

``doing`` goes to the log when a step begins; ``lacking`` is what a timeout says did not happen.
No query, user or password is shown.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from koko.dialing import NetDial, Opened, log
from koko.http import Request, Response
from koko.logs import tell
from koko.opening.address import written
from koko.opening.eyeballs import DELAY, Address, interleaved, no_connection, why

if TYPE_CHECKING:
    from ssl import SSLContext


class Reader(Protocol):
    """Reads an answer; a ``ResponseParser`` is one."""

    rest: bytes  # what came after the answer

    @property
    def begun(self) -> bool:
        """Whether any of the answer has come."""

    def feed(self, data: bytes, /) -> Any:
        """Take what arrived and return the answer, None while it is incomplete."""

    def feed_eof(self) -> Any:
        """Return the answer that the end of the stream completes, or raise."""


class Attempts:
    """The attempts to connect to the addresses of one host: which is next, which failed.

    They run side by side, and the first to succeed is the connection (RFC 8305 §5).
    """

    def __init__(self, shown: str, host: str, port: int, addresses: Sequence[Address]) -> None:
        self._shown, self._host, self._port = shown, host, port
        self._waiting = deque(interleaved(addresses))
        self._failures: list[tuple[Address, OSError]] = []
        self._tried: dict[str, str] = {}  # by address: the words for a timeout

    @property
    def left(self) -> bool:
        """Whether there is an address that was not tried."""
        return bool(self._waiting)

    @property
    def patience(self) -> float | None:
        """How many seconds to wait for the running attempts before the next one begins."""
        return DELAY if self._waiting else None

    def begin(self) -> Address:
        """Return the address of the next attempt."""
        address = self._waiting.popleft()
        where = written(address[4])
        self._tried[where] = where
        tell(log, logging.DEBUG, "%s: %s", self._shown, _connecting(where))
        return address

    def failed(self, address: Address, error: OSError) -> None:
        """Note that an attempt has failed."""
        self._failures.append((address, error))
        where = written(address[4])
        self._tried[where] = f"{where} ({why(error)})"

    def error(self) -> OSError:
        """Return the error when every address has failed."""
        return no_connection(self._host, self._port, self._failures)

    @property
    def lacking(self) -> str:
        if not self._tried:
            return "no time was left to connect"
        *others, last = self._tried.values()
        if not others:
            return f"the TCP connection to {last} was not accepted"
        return f"TCP connections to {', '.join(others)} and {last} were not accepted"


def _connecting(where: str) -> str:
    return f"connecting to {where}"


@dataclass(frozen=True, slots=True)
class Resolve:
    """Look up a name; the answer is its addresses, as ``getaddrinfo`` gives them."""

    host: str
    port: int
    only_ipv4: bool = False

    @property
    def doing(self) -> str:
        return f"resolving {self.host!r}"

    @property
    def lacking(self) -> str:
        return f"the name {self.host!r} was not resolved"


@dataclass(frozen=True, slots=True)
class Connect:
    """Connect to the first address that accepts.

    Attributes:
        for_tls: TLS will run on this connection, at once or later.
    """

    host: str
    port: int
    for_tls: bool
    attempts: Attempts

    @property
    def lacking(self) -> str:
        return self.attempts.lacking


@dataclass(frozen=True, slots=True)
class ConnectUnix:
    """Connect to a Unix socket in the place of a host."""

    host: str
    port: int
    for_tls: bool
    path: str | bytes

    @property
    def doing(self) -> str:
        return f"connecting to {self._shown}"

    @property
    def lacking(self) -> str:
        return f"{self._shown} did not accept a connection"

    @property
    def _shown(self) -> str:
        return f"the Unix socket {os.fsdecode(self.path)!r}"


@dataclass(frozen=True, slots=True)
class CallNetDial:
    """Let the application's ``net_dial`` connect."""

    host: str
    port: int
    for_tls: bool
    function: NetDial

    @property
    def doing(self) -> str:
        return "calling net_dial"

    @property
    def lacking(self) -> str:
        return "net_dial did not return a socket in time"


@dataclass(frozen=True, slots=True)
class StartTLS:
    """Begin TLS with a peer that must prove to be ``name``; the answer is the session.

    Attributes:
        context: None for the default one.
    """

    name: str
    context: SSLContext | None = field(repr=False)

    @property
    def doing(self) -> str:
        return f"beginning TLS with {self.name}"

    @property
    def lacking(self) -> str:
        return f"the TLS handshake with {self.name} did not finish"


@dataclass(frozen=True, slots=True)
class Exchange:
    """Write ``octets``, then feed ``reader`` what arrives; the answer is what it returns.

    Attributes:
        proxy: the name of the proxy that is asked for a tunnel; None when it is the server.
    """

    octets: bytes = field(repr=False)
    reader: Reader = field(repr=False)
    proxy: str | None = None

    @property
    def doing(self) -> str:
        if self.proxy is None:
            return "sending the request"
        return f"asking the proxy {self.proxy} for a tunnel"

    @property
    def lacking(self) -> str:
        if self.proxy is None:
            return "no answer to the request came"
        return f"no answer from the proxy {self.proxy} came"


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Drop the connection: the next step connects to somewhere else."""


@dataclass(frozen=True, slots=True)
class Done:
    """The WebSocket is open; this is the last step.

    Attributes:
        early: what came after the response.
    """

    opened: Opened
    request: Request
    response: Response
    early: bytes = field(repr=False)


Connecting = Connect | ConnectUnix | CallNetDial
Waiting = Resolve | Connecting | StartTLS | Exchange
Step = Waiting | Disconnect | Done
