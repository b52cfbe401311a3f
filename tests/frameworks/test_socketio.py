"""Socket.IO on Koko: its server in uvicorn, with its own clients in Python and in a browser."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.conftest import PATIENCE, ROOT
from tests.examples.browser import Browser
from tests.frameworks.served import HERE, Served, serving
from tests.pages import written

pytestmark = [
    pytest.mark.once,
    pytest.mark.integration("uvicorn", "socketio", "fastapi", "aiohttp", "requests", "websocket"),
]
CLIENT = "socket.io-client@4"
NPM = ROOT / "build" / "npm"


@pytest.fixture(scope="module")
def javascript() -> Path:
    """Socket.IO's client for browsers, fetched by npm once."""
    found = NPM / "package" / "dist" / "socket.io.min.js"
    if not found.exists():
        NPM.mkdir(parents=True, exist_ok=True)
        pack = ["npm", "pack", "--silent", CLIENT, "--pack-destination", str(NPM)]
        name = subprocess.run(pack, check=True, capture_output=True, text=True).stdout.strip()
        with tarfile.open(NPM / name) as archive:
            archive.extractall(NPM, filter="data")
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("socketio")
    written("socketio.md", folder)
    with serving(folder, "main:app", log=folder / "log") as served:
        yield served


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    log = tmp_path_factory.mktemp("socketio") / "log"
    with serving(HERE, "socketio_site:app", log=log) as served:
        yield served


Connect = Callable[..., Any]
WEBSOCKET, UPGRADED = ["websocket"], ["polling", "websocket"]


# Threads


@pytest.fixture
def connect(site: Served) -> Iterator[Connect]:
    import socketio

    clients = []

    def connect(**options: Any) -> Any:
        client = socketio.Client(reconnection=False)
        clients.append(client)
        client.connect(site.url("", "http"), wait_timeout=PATIENCE, **options)
        return client

    yield connect
    for client in clients:
        client.disconnect()
        client.wait()


@pytest.mark.parametrize("transports", [WEBSOCKET, UPGRADED], ids="->".join)
def test_acknowledgements_carry_text_and_bytes(connect: Connect, transports: list[str]) -> None:
    client = connect(transports=transports)
    assert client.call("how", timeout=PATIENCE) == "websocket"
    said = ("café", {"octets": bytes(100_000)}, [1, None])
    assert client.call("echo", said, timeout=PATIENCE) == said


def test_the_server_asks_and_the_client_answers(connect: Connect) -> None:
    client = connect(transports=WEBSOCKET)
    client.on("question", lambda question: f"{question} ada")
    assert client.call("asked", timeout=PATIENCE) == "your name? ada"


def test_either_side_ends_it(site: Served, connect: Connect) -> None:
    connect(transports=WEBSOCKET).disconnect()
    site.comes(
        "/ends", "client disconnect", "transport close"
    )  # the client's Close may overtake its word
    client = connect(transports=WEBSOCKET)
    client.emit("leave")
    client.wait()
    site.comes("/ends", "server disconnect")


# asyncio


def test_a_namespace_on_asyncio(site: Served) -> None:
    import socketio

    async def main() -> None:
        hears, shouts = [socketio.AsyncClient(reconnection=False) for _ in range(2)]
        heard: asyncio.Queue[str] = asyncio.Queue()
        hears.on("heard", heard.put, namespace="/public")
        for client, transports in ((hears, UPGRADED), (shouts, WEBSOCKET)):
            await client.connect(
                site.url("", "http"), namespaces=["/public"], transports=transports
            )
            assert client.transport() == "websocket"
        await shouts.emit("shout", "hello", namespace="/public")
        async with asyncio.timeout(PATIENCE):
            assert await heard.get() == "HELLO"
        for client in (hears, shouts):
            await client.disconnect()

    asyncio.run(main())


# The page


def test_the_client_of_the_page(page: Served, tmp_path: Path) -> None:
    written("socketio.md", tmp_path, "client.py")
    file = tmp_path / "client.py"
    file.write_text(file.read_text().replace("localhost:8000", f"127.0.0.1:{page.port}"))
    done = subprocess.run([sys.executable, file], check=True, capture_output=True, text=True)
    said = ["said", {"name": "bob", "text": "hello"}]
    assert done.stdout == f"welcome to the kitchen\n{said}\n"


@pytest.mark.integration(programs=("npm",))
@pytest.mark.parametrize("transports", [WEBSOCKET, UPGRADED], ids="->".join)
def test_the_page_in_a_browser(javascript: Path, tmp_path: Path, transports: list[str]) -> None:
    written("socketio.md", tmp_path)
    shutil.copy(javascript, tmp_path)
    html = tmp_path / "index.html"
    text = html.read_text().replace("https://cdn.socket.io/4.8.4/", "/")
    text = text.replace('["websocket"]', json.dumps(transports))
    html.write_text(text.replace("const socket", "var socket"))
    main = tmp_path / "main.py"
    served = '{"/": "index.html", "/socket.io.min.js": "socket.io.min.js"}'
    main.write_text(main.read_text().replace('{"/": "index.html"}', served))
    with serving(tmp_path, "main:app", log=tmp_path / "log") as site, Browser() as browser:
        ada, bob = [browser.open(site.url(f"/?name={name}", "http")) for name in ("ada", "bob")]
        for window in (ada, bob):
            window.wait_for("document.title === 'welcome to the kitchen'")
            window.wait_for("socket.io.engine.transport.name === 'websocket'")
        ada.type("input", "<b>hello</b>")
        for window in (ada, bob):
            window.wait_for("document.body.innerText.includes('ada: <b>hello</b>')")
        nobody = browser.open(site.url("/", "http"))
        nobody.wait_for("document.title === 'who are you?'")
