"""A file in the browser, on threads: the page shows every change without being reloaded.

python examples/filewatch.py FILE       PORT=8080 in the environment; Ctrl-C stops

The page says which version of the file it shows when it opens its socket, the first time
and each time it comes back, so no change falls between the page and the socket.
"""

import os
import sys
from contextlib import suppress
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import parse_qs

from koko import Request, Response
from koko.sync import Conn, Server, serve

INTERVAL = 0.2  # seconds between two looks at the file
PAGE = Template(Path(__file__).with_suffix(".html").read_text("utf-8"))
FILE = Path(sys.argv[1] if len(sys.argv) == 2 else sys.exit(__doc__))


def watch(conn: Conn) -> None:
    """Push the file whenever it is not what the page shows."""
    shown = parse_qs(conn.request.query).get("shown", [""])[0]
    while True:
        if version() != shown:
            shown, contents = look()
            conn.write_json({"version": shown, "contents": contents})
        # A wait that answers pings meanwhile, and ends at once when the page goes away.
        with suppress(TimeoutError):
            conn.recv(timeout=INTERVAL)


def look() -> tuple[str, str]:
    """Return the file's version and contents, or what is wrong with it for both."""
    try:
        # In this order: a change in between shows as a new version at the next look.
        return version(), FILE.read_text("utf-8", "replace")
    except OSError as error:
        return version(), str(error)


def version() -> str:
    """Return what is another string after each change: when, how long and which file."""
    try:
        stat = FILE.stat()
    except OSError as error:
        return str(error)
    return f"{stat.st_mtime_ns}-{stat.st_size}-{stat.st_ino}"


def page(request: Request) -> Response:
    if request.path != "/":
        return Response(404, "here is only /\n")
    shown, contents = map(escape, look())
    html = PAGE.substitute(name=escape(FILE.name), version=shown, contents=contents)
    headers = {"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store"}
    return Response(200, html, headers)


def announce(server: Server) -> None:
    print("open http://{}:{}/".format(*server.address), flush=True)


port = int(os.environ.get("PORT", "8080"))
serve(watch, "127.0.0.1", port, http=page, read_limit=128, on_start=announce)
