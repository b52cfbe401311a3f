"""Lets a cookie jar of the standard library work with opening handshakes.

``http.cookiejar`` expects urllib's requests and responses; the classes here have the methods
that it calls, and no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from koko.http import Response
from koko.opening.target import Target

if TYPE_CHECKING:
    from http.cookiejar import CookieJar


def stored(jar: CookieJar, target: Target) -> str:
    """Return the value of ``Cookie`` for a target, empty for none."""
    request: Any = _CookieRequest(target)
    jar.add_cookie_header(request)
    return str(request.added.get("Cookie", ""))


def store(jar: CookieJar, target: Target, response: Response) -> None:
    """Keep the cookies of an answer."""
    if "Set-Cookie" in response.headers:
        exchange: Any = (_CookieResponse(response), _CookieRequest(target))
        jar.extract_cookies(*exchange)


class _CookieRequest:
    unverifiable = False

    def __init__(self, target: Target) -> None:
        self.type = "https" if target.secure else "http"
        self.host = target.host_header
        self.origin_req_host = target.host
        self._resource = target.resource
        self.added: dict[str, str] = {}

    def get_full_url(self) -> str:
        return f"{self.type}://{self.host}{self._resource}"

    def has_header(self, name: str) -> bool:
        return False

    def add_unredirected_header(self, name: str, value: str) -> None:
        self.added[name] = value


class _CookieResponse:
    def __init__(self, response: Response) -> None:
        self._headers = response.headers

    def info(self) -> _CookieResponse:
        return self

    def get_all(self, name: str, default: list[str]) -> list[str]:
        return self._headers.getall(name, default)
