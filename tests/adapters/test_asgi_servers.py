"""``koko.adapters.asgi`` in the servers of others, as they come from the package index.

What differs between the servers is in tables; docs/asgi.md says the same.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from koko import CloseError, ErrBadHandshake, Kind
from koko.sync import Conn, dial
from tests.adapters.conftest import OWN, PATIENCE, STARTUP, Site
from tests.adapters.uvicorn_server import started

pytestmark = [
    pytest.mark.integration("fastapi", "hypercorn", "granian", "daphne", "gunicorn", "uvicorn")
]

APP = "tests.adapters.asgi_served:app"
UVICORN = ["uvicorn", APP, "--port", "0", "--ws"]
COMMANDS = {
    "hypercorn": ["hypercorn", APP, "--bind", "127.0.0.1:0", "--graceful-timeout", "1"],
    "granian": ["granian", "--interface", "asgi", "--host", "HOST", "--port", "PORT", APP],
    "daphne": ["daphne", "--bind", "127.0.0.1", "--port", "0", APP],
    "gunicorn": [
        *("gunicorn", APP, "--worker-class", "asgi", "--bind", "127.0.0.1:0"),
        *("--graceful-timeout", "1", "--worker-tmp-dir", "/dev/shm", "--no-control-socket"),
    ],
    "uvicorn": [*UVICORN, "websockets-sansio"],
    "koko": [*UVICORN, "koko.uvicorn:Protocol"],
}
LISTENS = re.compile(
    r"(?:[Rr]unning on|[Ll]istening (?:at:|on(?: TCP address)?)) \S*?(127\.[0-9.]+:\d+)"
)

NATIVE = "koko"  # uvicorn with Koko's class, where the connection is Koko's own
NO_DENIALS = ("daphne", "gunicorn")  # a client that is refused gets a 403 without a sentence
NO_HEADERS = ("daphne", "granian")  # on a 101
COMPRESS = ("hypercorn", "uvicorn", "koko")
NEVER_SLOW = ("daphne",)  # its send() waits for nobody

LEFT = "peer closed with 4002{}; we answered 4002"
# How a conversation ends for the application: the client closes with 4002 'later', or is gone.
THEIR_CLOSE = {
    "hypercorn": "connection lost; the server reports 1006, last heard ",
    "granian": LEFT.format(""),
    "daphne": LEFT.format(""),
    "gunicorn": LEFT.format(""),
    "uvicorn": LEFT.format(" 'later'"),
    "koko": LEFT.format(" 'later'"),
}
LOST = "connection lost; the server reports 1006, last heard a message "
THEIR_LOSS = {
    "hypercorn": LOST,
    "granian": "peer closed with 1005 (no status); we answered 1005",
    "daphne": LOST,
    "gunicorn": LOST,
    "uvicorn": "peer closed with 1005 (no status); we answered 1005",
    "koko": "connection lost; the peer's stream ended without a Close, last heard a message ",
}
# The application closes with 4001 'bye'.
OUR_CLOSE = {
    "hypercorn": "we closed with 4001 'bye'; the server reports 1000",
    "granian": "we closed with 4001 'bye'; the server reports 1005",
    "daphne": "we closed with 4001 'bye'; the server reports 4001",
    "gunicorn": "we closed with 4001 'bye'; the server reports 4001",
    "uvicorn": "we closed with 4001 'bye'; the server reports 4001 'bye'",
    "koko": "we closed with 4001 'bye'; peer answered 4001",
}
# What clients hear where the server is told to stop.
STOPPING = {"hypercorn": 1001, "uvicorn": 1012, "koko": 1012}  # the others: 1006, nothing


@contextmanager
def running(name: str, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], Site]]:
    """Run a server; yield its process, and it once it answers."""
    chosen = {"HOST": OWN, "PORT": str(free(OWN))}
    command = [chosen.get(word, word) for word in COMMANDS[name]]
    with started(log, "-m", *command, wait_for=LISTENS) as (process, where):
        host, port = where.rsplit(":", 1)
        site = Site(name, int(port), None, log, host)
        give_up_at = time.monotonic() + STARTUP
        while True:
            try:
                site.state()
                break
            except OSError:  # it says so before it does
                assert time.monotonic() < give_up_at, log.read_text()
                time.sleep(0.05)
        yield process, site


def free(host: str) -> int:
    with socket.create_server((host, 0)) as found:
        port: int = found.getsockname()[1]
        return port


@pytest.fixture(scope="module", params=COMMANDS)
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    with running(request.param, tmp_path_factory.mktemp("asgi") / "log") as (_, site):
        talk(site, "/echo").close()  # what is made once: one epoll for all that follow
        before = site.state()
        yield site
        give_up_at = time.monotonic() + PATIENCE
        while (told := site.state()["tasks"]) > before["tasks"]:
            assert time.monotonic() < give_up_at, f"it holds {told} tasks, not {before['tasks']}"
    said = site.log.read_text()
    raised = set(re.findall(r"^\w*(?:Error|Exception)\b.*", said, re.MULTILINE))
    assert {each for each in raised if "invalid close code 1008" not in each} <= {ON_PURPOSE}, said
    for complaint in ("Task was destroyed", "never retrieved", "never awaited", "unclosed"):
        assert complaint not in said


ON_PURPOSE = "LookupError: on purpose"


def talk(site: Site, path: str, **options: Any) -> Conn:
    return dial(site.url(path), proxy=None, **options)


def ended(site: Site, conn: Conn) -> CloseError:
    """Wait for the end of a connection and return it."""
    with pytest.raises(CloseError) as raised:
        while True:
            conn.recv(PATIENCE)
    return raised.value


def hears(site: Site, end: str) -> None:
    """Wait until the application was told of this end, the last one."""
    give_up_at = time.monotonic() + PATIENCE
    while not (told := site.state()["ends"])[-1:] or not told[-1].startswith(end):
        assert time.monotonic() < give_up_at, f"{site.name} told {told[-3:]}, expected {end!r}"


def test_messages_are_echoed(site: Site) -> None:
    messages = ["hello", "é" * 1000, bytes(1 << 20), b"", ""]
    if site.name == "daphne":
        messages = messages[:-2]  # it drops those without a byte
    with talk(site, "/echo", compression=True) as conn:
        assert ("Sec-WebSocket-Extensions" in conn.response.headers) is (site.name in COMPRESS)
        for message in messages:
            conn.send(message)
            assert conn.recv(PATIENCE) == message
        with conn.cork():
            for number in range(500):
                conn.send(str(number))
        assert [conn.recv(PATIENCE) for _ in range(500)] == [str(number) for number in range(500)]
    hears(site, {"hypercorn": THEIR_CLOSE["hypercorn"]}.get(site.name, "peer closed with 1000"))


def test_messages_are_read_and_written_in_parts(site: Site) -> None:
    with talk(site, "/parts") as conn:
        with conn.next_writer(Kind.TEXT) as writer:
            for _ in range(3):
                writer.write("a" * 10_000)
        assert conn.recv(PATIENCE) == "A" * 30_000


def test_the_client_is_known(site: Site) -> None:
    with talk(site, "/told?x=1") as conn:
        told = conn.read_json(PATIENCE)
        here, there = list(conn.local_address), list(conn.remote_address)
        assert told == {
            "path": "/told",
            "query": "x=1",
            "remote": here,
            "local": there,
            "native": site.name == NATIVE,
        }


def test_the_client_closes(site: Site) -> None:
    talk(site, "/echo").close(4002, "later")
    hears(site, THEIR_CLOSE[site.name])


def test_the_client_vanishes(site: Site) -> None:
    conn = talk(site, "/echo")
    conn.send("hello")
    assert conn.recv(PATIENCE) == "hello"
    conn.abort()
    hears(site, THEIR_LOSS[site.name])


def test_the_application_closes(site: Site) -> None:
    with talk(site, "/close") as conn:
        conn.send("go")
        end = ended(site, conn)
    assert end.received == (4001, "" if site.name == "daphne" else "bye")
    hears(site, OUR_CLOSE[site.name])


def test_a_handler_fails(site: Site) -> None:
    with talk(site, "/fail") as conn:
        conn.send("go")
        assert ended(site, conn).code == (1000 if site.name == "daphne" else 1011)
    assert "handler of <koko." in site.log.read_text()


def test_a_message_above_the_read_limit_is_refused(site: Site) -> None:
    with talk(site, "/echo") as conn:
        conn.send(bytes((1 << 20) + 1))
        assert ended(site, conn).code == (1006 if site.name == "daphne" else 1009)
    limit = "peer sent a message of at least 1048577 bytes, read_limit=1048576"
    hears(site, "connection lost" if site.name == "daphne" else limit)  # it has the same limit


def test_a_page_of_another_origin_is_refused(site: Site) -> None:
    with pytest.raises(ErrBadHandshake) as refused:
        talk(site, "/echo", headers={"Origin": "https://evil.example"})
    assert refused.value.response.status == 403
    if site.name not in NO_DENIALS:
        assert b"origin 'https://evil.example' is not the host" in refused.value.response.body
    assert "/echo: 403: origin 'https://evil.example' is not the host" in site.log.read_text()


def test_a_client_that_reads_nothing_is_slow(site: Site) -> None:
    with talk(site, "/flood") as conn:
        never = site.name in NEVER_SLOW
        conn.send(str(PATIENCE if never else 0.5))
        hears(site, "never slow" if never else "slow")
        conn.abort()


# Inside an endpoint of FastAPI


def test_an_endpoint_has_a_connection(site: Site) -> None:
    with talk(site, "/rooms/7", subprotocols=["soap", "chat"]) as conn:
        assert conn.subprotocol == "chat"
        if site.name not in NO_HEADERS:
            assert conn.response.headers["x-extra"] == "cafe"
        assert conn.recv(PATIENCE) == f"in 7, {site.name != 'daphne'}: chat"
        conn.send("close")
        assert ended(site, conn).code == 4004
    hears(site, "DISCONNECTED, DISCONNECTED")


@pytest.mark.parametrize("accept", [False, True])
def test_an_endpoint_ends_as_starlette_means(site: Site, accept: bool) -> None:
    path = f"/rooms/7?accept={accept}"
    for said, code in (("leave", 1000), ("websocket exception", 4003), ("error", 1011)):
        with talk(site, path, subprotocols=["chat"]) as conn:
            assert conn.subprotocol == "chat"
            conn.recv(PATIENCE)
            conn.send(said)
            expected = 1000 if site.name == "daphne" and code == 1011 else code
            assert ended(site, conn).code == expected, said


@pytest.mark.parametrize("accept", [False, True])
def test_an_endpoint_refuses(site: Site, accept: bool) -> None:
    evil = {"Origin": "https://evil.example"}
    if accept:
        with talk(site, "/rooms/7?accept=1", subprotocols=["chat"], headers=evil) as conn:
            # Starlette closes with 1008, which daphne does not send: it says that it has failed.
            assert ended(site, conn).code == (1011 if site.name == "daphne" else 1008)
        return
    with pytest.raises(ErrBadHandshake) as refused:
        talk(site, "/rooms/7", headers=evil)
    assert refused.value.response.status == 403
    if site.name not in NO_DENIALS:
        assert json.loads(refused.value.response.body)["detail"].startswith("origin 'https://evil")


# The server is told to stop


@pytest.mark.parametrize("name", COMMANDS)
def test_a_server_that_is_told_to_stop_leaves_nothing(name: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running(name, log) as (process, site):
        conns = [talk(site, path) for path in ("/echo", "/echo", "/told", "/rooms/7")]
        for conn in conns[2:]:
            conn.recv(PATIENCE)
        process.send_signal(signal.SIGTERM)
        for conn in conns:
            assert ended(site, conn).code == STOPPING.get(name, 1006)
            conn.close()
        process.wait(STARTUP)
    said = log.read_text()
    for complaint in ("Task was destroyed", "never retrieved", "/src/koko/", "unclosed"):
        assert complaint not in said, said
