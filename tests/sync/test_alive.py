"""Who is alive, on threads: over real TCP and TLS, by the housekeeper's own rounds."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import pytest

from koko import CloseError
from koko.sync import Conn, Server, Upgrader, dial
from koko.sync.housekeeper import PERIOD
from tests.relay import Relay, relay
from tests.sync.conftest import PATIENCE, in_thread

Keepalive = dict[str, float | None]

KEPT: Keepalive = {"ping_interval": 0.5, "ping_timeout": 0.5}
DEAD = 1.0  # both together
# For a peer that must live, though it or the relay may get no turn of a busy machine for long.
SLOWLY: Keepalive = {"ping_interval": 1.0, "ping_timeout": 2.0}
SLOWLY_DEAD = 3.0
NEVER: Keepalive = {"ping_interval": None}
BIG, RATE = bytes(6_000_000), 900_000  # more than a system takes at once; 6.7 s

Tls = tuple[ssl.SSLContext, ssl.SSLContext]
Scene = Callable[[Conn, Conn, Relay], None]

KINDS = [("client", False), ("client", True), ("server", False), ("server", True)]


@pytest.fixture
def tls(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> Tls:
    return server_tls, client_tls


@contextmanager
def ends(
    who: str, tls: Tls | None, rate: float | None, keepalive: Keepalive
) -> Iterator[tuple[Conn, Conn, Relay]]:
    """Yield us, who keep the connection alive, the peer, and the relay between them."""
    served: SimpleQueue[Conn] = SimpleQueue()
    options: dict[str, Any] = {"read_limit": None, "close_timeout": 30}
    kept, other = {**options, **keepalive}, {**options, **NEVER}

    def handle(conn: Conn) -> None:
        served.put(conn)
        while not conn._driver.closed:  # and reads nothing that is another's
            time.sleep(0.01)

    upgrader = Upgrader(**(kept if who == "server" else other))
    with (
        Server(handle, "127.0.0.1", upgrader=upgrader, ssl=tls and tls[0]) as server,
        relay(server.address, rate) as between,
    ):
        url = f"{'wss' if tls else 'ws'}://127.0.0.1:{between.address[1]}/"
        options = other if who == "server" else kept
        client = dial(url, ssl=tls and tls[1], proxy=None, **options)
        both = client, served.get(timeout=PATIENCE)
        us, peer = both if who == "client" else both[::-1]
        try:
            yield us, peer, between
        finally:
            us.abort()
            peer.abort()


def on_every_kind(
    tls: Tls, scene: Scene, rate: float | None = None, keepalive: Keepalive = KEPT
) -> None:
    def play(who: str, secure: bool) -> None:
        try:
            with ends(who, tls if secure else None, rate, keepalive) as scenery:
                scene(*scenery)
        except BaseException as error:
            error.add_note(f"as {who}, {'TLS' if secure else 'plain'}")
            raise

    with ThreadPoolExecutor(len(KINDS)) as pool:
        for played in [pool.submit(play, *kind) for kind in KINDS]:
            played.result()


def test_peer_that_takes_a_large_message_slowly_is_alive(tls: Tls) -> None:
    def scene(us: Conn, peer: Conn, between: Relay) -> None:
        begun = time.monotonic()
        sending = in_thread(us.send, BIG)
        assert peer.recv(timeout=3 * PATIENCE) == BIG
        assert time.monotonic() - begun > 2 * SLOWLY_DEAD
        sending.result(PATIENCE)
        peer.send("all of it")
        assert us.recv(timeout=PATIENCE) == "all of it"

    on_every_kind(tls, scene, RATE, SLOWLY)


def test_dead_peer_is_noticed_in_time_by_receiver_pinger_and_writer_and_left_at_once(
    tls: Tls,
) -> None:
    opened = time.monotonic()

    def scene(us: Conn, peer: Conn, between: Relay) -> None:
        between.stop()
        waiting = [in_thread(us.recv), in_thread(us.ping), in_thread(us.send, BIG)]
        for told in waiting:
            error = told.exception(PATIENCE)
            assert isinstance(error, CloseError)
            assert error.code == 1006
        assert DEAD < time.monotonic() - opened < DEAD + 2 * PERIOD + PATIENCE
        begun = time.monotonic()
        us.close(timeout=6 * PATIENCE)
        assert time.monotonic() - begun < PATIENCE

    on_every_kind(tls, scene)


def test_peer_held_to_be_dead_finds_the_reason_when_it_wakes(tls: Tls) -> None:
    def scene(us: Conn, peer: Conn, between: Relay) -> None:
        between.stop()
        with pytest.raises(CloseError, match="no answer to a ping within 0.5 s, last heard"):
            us.recv(timeout=PATIENCE)
        us.wait_closed(timeout=PATIENCE)
        between.go_on()
        with pytest.raises(CloseError) as raised:
            peer.recv(timeout=PATIENCE)
        assert (raised.value.code, raised.value.reason) == (1011, "keepalive ping timeout")

    on_every_kind(tls, scene)


def test_close_that_nobody_answers_takes_its_timeout_on_every_kind(tls: Tls) -> None:
    def scene(us: Conn, peer: Conn, between: Relay) -> None:
        between.stop()
        begun = time.monotonic()
        us.close(timeout=0.3)
        assert 0.25 < time.monotonic() - begun < PATIENCE  # close_timeout is 30 s

    on_every_kind(tls, scene, keepalive=NEVER)
