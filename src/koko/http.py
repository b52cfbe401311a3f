"""An HTTP request and response, as data: nothing here reads or writes one.

Their reprs may go to any log: they show no query, and no value of a field that may hold a
secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import unquote

from multidict import CIMultiDict, CIMultiDictProxy, MultiMapping

Headers = Mapping[str, str] | Iterable[tuple[str, str]]

REASONS = {status.value: status.phrase for status in HTTPStatus}
_USER = re.compile(r"://[^/@]*@")
_ABSOLUTE = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://[^/?]*")

# Fields whose values a repr shows. The fields that may hold a secret cannot be listed, so any
# other field is shown by its name alone.
_HARMLESS = {
    *("accept-language", "cache-control", "connection", "content-length", "content-type", "date"),
    *("host", "origin", "pragma", "retry-after", "sec-websocket-accept", "server", "upgrade"),
    *("sec-websocket-extensions", "sec-websocket-version", "user-agent"),
}


def relative(target: str) -> str:
    """Return a target without scheme and host (RFC 9112 §3.2.2: a server must accept them)."""
    return _ABSOLUTE.sub("", target, count=1)


def _shown(headers: MultiMapping[str]) -> str:
    fields = headers.items()
    return ", ".join(
        f"{name}: {value}" if name.lower() in _HARMLESS else f"{name}: ..."
        for name, value in fields
    )


@dataclass(frozen=True, slots=True, repr=False)
class Request:
    """The head of a request; ``headers`` ignores case and keeps repeated fields."""

    method: str
    target: str
    headers: MultiMapping[str]
    version: str = "1.1"

    @property
    def path(self) -> str:
        """The path, percent-decoded as UTF-8, without the query."""
        return unquote(self._relative.partition("?")[0]) or "/"

    @property
    def query(self) -> str:
        """What follows the first ``?``, as sent."""
        return self._relative.partition("?")[2]

    @property
    def shown(self) -> str:
        """The target for logs and errors: without the query, which may hold a token.

        Nor with the user and password that a target with a scheme may have.
        """
        shown = self.target.partition("?")[0]
        return shown if shown.startswith("/") else _USER.sub("://", shown, count=1)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.method} {self.shown} {_shown(self.headers)}>"

    @property
    def _relative(self) -> str:
        return relative(self.target)


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Response:
    """A response: a head and, unless it is a 101, a small body.

    A ``str`` body is sent as UTF-8 and declared ``text/plain`` unless ``headers``
    say otherwise.
    """

    status: int
    body: bytes
    headers: MultiMapping[str]
    reason: str

    def __init__(
        self,
        status: int,
        body: str | bytes = b"",
        headers: Headers | None = None,
        reason: str | None = None,
    ) -> None:
        if not 100 <= status <= 999:
            raise ValueError(f"status {status!r} is not an HTTP status, which has three digits")
        fields = CIMultiDict(headers or ())
        if isinstance(body, str):
            body = body.encode()
            fields.setdefault("Content-Type", "text/plain; charset=utf-8")
        keep = object.__setattr__  # a frozen dataclass cannot assign to its own fields
        keep(self, "status", status)
        keep(self, "body", body)
        keep(self, "headers", CIMultiDictProxy(fields))
        keep(self, "reason", REASONS.get(status, "") if reason is None else reason)

    def __repr__(self) -> str:
        return f"<Response {self.status} {self.reason} {_shown(self.headers)}>"

    def __reduce__(self) -> tuple[type[Response], tuple[object, ...]]:
        # A CIMultiDictProxy cannot be pickled; a list of its items can.
        return Response, (self.status, self.body, list(self.headers.items()), self.reason)
