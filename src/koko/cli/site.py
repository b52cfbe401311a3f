"""What ``koko demo`` serves: the page, and its WebSockets.

The page is self-contained and may load nothing: its Content-Security-Policy names the
hashes of its own script and style. WebSockets from other sites are refused by the
default origin check.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable
from importlib.resources import files

from koko import Request, Response
from koko.aio import Conn
from koko.cli.chat import Room
from koko.cli.with_aio import echo


def visitor() -> Callable[[Conn], Awaitable[None]]:
    """Return the handler behind the page, with a chat room of its own."""
    rooms = {"/chat": Room().visit, "/echo": echo}

    async def visit(conn: Conn) -> None:
        room = rooms.get(conn.request.path)
        if room is None:
            await conn.close(1008, "the paths are /chat and /echo")
        else:
            await room(conn)

    return visit


# The page


def http() -> Callable[[Request], Response]:
    """Return the callback that answers everything that is not a WebSocket."""
    page = files("koko.cli").joinpath("demo.html").read_text("utf-8")
    headers = _page_headers(page)

    def answer(request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return Response(405, f"{request.method} is not GET or HEAD\n", {"Allow": "GET, HEAD"})
        if request.path == "/":
            return Response(200, page, headers)
        if request.path == "/health":
            return Response(200, "ok\n")
        return Response(404, "the paths are /, /health and the WebSockets /chat and /echo\n")

    return answer


def _page_headers(page: str) -> dict[str, str]:
    script, style = (_hashes(page, tag) for tag in ("script", "style"))
    policy = (
        f"default-src 'none'; script-src {script}; style-src {style}; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": policy,
        # A browser gives an isolated page a clock that is fine enough for a loopback echo.
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Embedder-Policy": "require-corp",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }


def _hashes(page: str, tag: str) -> str:
    blocks = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    digests = (hashlib.sha256(block.encode()).digest() for block in blocks)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
