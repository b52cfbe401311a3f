"""A first hour: a chat is added to a Flask application under gunicorn, then to two of its workers.

With two workers and nothing else a message reaches the visitors of one, as the page says. With
the hub of the page it reaches all.
"""

from __future__ import annotations

import itertools
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Self
from urllib.request import ProxyHandler, build_opener

from compliance.ports import free_port
from koko.sync import Conn, dial
from tests.adapters.conftest import PATIENCE
from tests.first_hours.reader import Reader

EXISTING = """
from flask import Flask

app = Flask(__name__)


@app.get("/")
def index():
    return "the shop"
"""


HUB_COMES = 60.0  # seconds in which a worker, which tries less and less often, finds its hub
AT_ONCE = re.compile("()")


def main() -> None:
    with Reader("flask.md") as reader:
        reader.types("pip install flask gunicorn koko")
        (reader.folder / "app.py").write_text(EXISTING)
        reader.writes("chat.py", "gunicorn.conf.py")
        with reader.starts("gunicorn --bind 127.0.0.1:8000 chat:app") as site, Room(site) as room:
            assert page(site) == "the shop"
            room.grow()
            assert room.reached() == len(room)
        with reader.starts("gunicorn --workers 2 chat:app") as site, Room(site) as room:
            room.grow_until_both_workers_have_some()
            print(f"{room.reached()} of {len(room)} hear it: those of one worker")
        reader.writes("hub.py", "several.py")
        reader.moves("8765", f"{free_port()}", "hub.py", "several.py")
        with reader.starts("gunicorn --workers 2 several:app") as site, Room(site) as room:
            room.grow_until_both_workers_have_some()
            with reader.starts("python hub.py", AT_ONCE):
                give_up_at = time.monotonic() + HUB_COMES
                while room.reached() < len(room):
                    assert time.monotonic() < give_up_at, "the hub reaches one worker only"
                print("all hear it")


class Room:
    """The visitors of one room."""

    def __init__(self, site: str) -> None:
        self._url = f"ws://{site}/chat/kitchen"
        self._conns: list[Conn] = []
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for conn in self._conns:
            conn.abort()

    def __len__(self) -> int:
        return len(self._conns)

    def grow(self) -> None:
        """Let ten more in, at once; each is there when it hears itself."""
        with ThreadPoolExecutor(10) as pool:
            new = [*pool.map(lambda _: dial(self._url, proxy=None), range(10))]
        self._conns += new
        for conn in new:
            self._says(conn)

    def grow_until_both_workers_have_some(self) -> None:
        give_up_at = time.monotonic() + PATIENCE
        self.grow()
        while self.reached() == len(self):
            assert time.monotonic() < give_up_at, "one worker has all visitors"
            self.grow()

    def reached(self) -> int:
        """Return how many hear what the first one says.

        What anybody says next comes behind it: who hears that and not the other, never will.
        """
        first, *others = self._conns
        said = f"{next(self._numbers)} to all"
        first.send(said)
        self._says(first)  # by now its worker has told all of its own
        return 1 + sum(said in self._says(conn) for conn in others)

    def _says(self, conn: Conn) -> list[str]:
        """Have one say something; return what it hears until it hears that."""
        said, heard = f"{next(self._numbers)} to itself", list[str]()
        conn.send(said)
        while said not in heard:
            heard.append(str(conn.recv(PATIENCE)))
        return heard


def page(site: str) -> str:
    opener = build_opener(ProxyHandler({}))
    with opener.open(f"http://{site}/", timeout=PATIENCE) as answer:
        return str(answer.read().decode())


if __name__ == "__main__":
    main()
