"""How far a dial has come: what it waits for, in the words of the log and of its timeout.

The words stand here once, for both faces: these say what they begin to wait for, and read the
deadline. Nothing here waits or reads a clock. No query, user or password is shown.
"""

from __future__ import annotations

import logging

from koko.opening.address import written
from koko.opening.eyeballs import Address, why
from koko.opening.head import ResponseParser
from koko.opening.target import Target
from koko.opening.tunnel import Proxy

log = logging.getLogger("koko.dialing")


class Progress:
    """What one dial waits for, and when all of it must be over.

    Attributes:
        deadline: when, by the clock of ``now``; None for never.
    """

    def __init__(self, target: Target, timeout: float | None, now: float) -> None:
        self.deadline = None if timeout is None else now + timeout
        self._timeout = timeout
        self._dialed = target.shown
        self.begin(target)

    def begin(self, target: Target) -> None:
        """Begin with the URL that was dialed, or with where an answer sent us."""
        self._shown = target.shown
        self._way = f"after a redirect to {target.shown}, " if target.redirects else ""
        self._proxy: Proxy | None = None  # while it has not been reached
        self._tried: dict[str, str] = {}  # by address: as it is told of
        self._lacking = "no time was left to connect"
        self._answer: ResponseParser | None = None

    # What is waited for, in the order of a dial

    def reach(self, proxy: Proxy) -> None:
        """The steps that follow lead to a proxy, until it is asked."""
        self._proxy = proxy

    def resolve(self, host: str) -> None:
        self._wait(f"resolving {host!r}", f"the name {host!r} was not resolved")

    def connect(self, address: Address) -> None:
        """One more attempt to connect begins, beside those that run."""
        where = written(address[4])
        self._tried[where] = where
        self._wait(f"connecting to {where}", self._not_accepted())

    def connect_failed(self, address: Address, error: OSError) -> None:
        """One of these attempts has failed."""
        where = written(address[4])
        self._tried[where] = f"{where} ({why(error)})"
        self._lacking = self._not_accepted()

    def _not_accepted(self) -> str:
        *others, last = self._tried.values()
        if not others:
            return f"the TCP connection to {last} was not accepted"
        return f"TCP connections to {', '.join(others)} and {last} were not accepted"

    def net_dial(self) -> None:
        self._wait("calling net_dial", "net_dial did not return a socket in time")

    def connect_unix(self, path: str) -> None:
        where = f"the Unix socket {path!r}"
        self._wait(f"connecting to {where}", f"{where} did not accept a connection")

    def secure(self, name: str) -> None:
        self._wait(f"beginning TLS with {name}", f"TLS with {name} was not agreed on")

    def ask_proxy(self, parser: ResponseParser | None = None) -> None:
        """The proxy was reached and is asked for a way; ``parser`` reads its answer."""
        assert self._proxy is not None
        asked, self._proxy = f"the proxy {self._proxy.name}", None
        self._wait(f"asking {asked} for a way", f"no answer of {asked} came", parser)

    def ask(self, parser: ResponseParser) -> None:
        """The server is sent the request; ``parser`` reads its answer."""
        self._wait("sending the request", "no answer to the request came", parser)

    def _wait(self, begun: str, lacking: str, parser: ResponseParser | None = None) -> None:
        self._lacking, self._answer = lacking, parser
        log.debug("%s: %s", self._shown, begun)

    # What became of it

    def timed_out(self) -> TimeoutError:
        """Return the error of a dial whose time is over: it names what did not happen."""
        way, lacking = self._way, self._lacking
        if self._proxy is not None:
            way += f"the proxy {self._proxy.name} was not reached: "
        if self._answer is not None and self._answer.begun:
            lacking += ", only the beginning of one"
        within = f"did not finish within {self._timeout:g} s"
        return TimeoutError(f"the handshake with {self._dialed} {within}: {way}{lacking}")
