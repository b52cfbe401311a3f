"""What a server and a connection say of themselves: in each state, on every kind of socket."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from koko import aio, sync
from koko.opening.address import written

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")


class Place(NamedTuple):
    """A bound socket, how to reach it, and what is said of it."""

    sock: socket.socket
    dial: Callable[[int], dict[str, Any]]
    address: tuple[str, int]
    name: object
    client: str  # how a client there is written


@contextmanager
def ipv4(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    sock = socket.create_server(("127.0.0.1", 0))
    where = sock.getsockname()
    yield Place(sock, lambda port: {"url": f"ws://127.0.0.1:{port}/"}, where, where, "127.0.0.1:")


@contextmanager
def ipv6(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    try:
        sock = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    name = sock.getsockname()
    yield Place(sock, lambda port: {"url": f"ws://[::1]:{port}/"}, name[:2], name, "[::1]:")


@contextmanager
def unix(name: str, told: object) -> Iterator[Place]:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(name)
    way = {"url": "ws://x/", "unix": name}
    yield Place(sock, lambda port: way, (name, 0), told, "a Unix socket")


def unix_path(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = str(tmp_path_factory.mktemp("u") / "s")
    return unix(path, path)


def unix_abstract(tmp_path_factory: pytest.TempPathFactory) -> Any:
    if sys.platform != "linux":
        pytest.skip("only Linux has such names")
    name = f"\0koko-{id(tmp_path_factory)}"
    return unix(name, name.encode())


@pytest.fixture(params=[ipv4, ipv6, unix_path, unix_abstract], ids=lambda kind: kind.__name__)
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    with request.param(tmp_path_factory) as place, place.sock:
        yield place


def check_open(place: Place, server: Any, ours: Any, theirs: Any) -> None:
    assert server.address == place.address
    assert server.sockets == (place.sock,)
    assert server.connections == {theirs}
    assert (ours.remote_address, theirs.local_address) == (place.name, place.name)
    assert ours.local_address == theirs.remote_address
    assert written(theirs.remote_address).startswith(place.client)
    assert (
        repr(ours) == f"<{ours.__module__.rpartition('.')[0]}.Conn open with {written(place.name)}>"
    )
    assert ours.ending is theirs.ending is None


def check_over(place: Place, server: Any, ours: Any) -> None:
    """Where it listened, and whom a connection was with, can still be said."""
    assert (server.address, server.sockets, server.connections) == (place.address, (), set())
    assert ours.remote_address == place.name
    assert written(ours.local_address).startswith(place.client)
    assert ours.ending.code == 1000


def test_of_threads(place: Place) -> None:
    server = sync.Server(sync.Conn.wait_closed, sock=place.sock)
    check_before(server)
    with server:
        way = place.dial(server.address[1])
        with sync.dial(way.pop("url"), proxy=None, **way) as ours:
            while not server.connections:
                pass
            check_open(place, server, ours, *server.connections)
    check_over(place, server, ours)


def test_of_asyncio(place: Place) -> None:
    async def main() -> None:
        server = aio.Server(aio.Conn.wait_closed, sock=place.sock)
        check_before(server)
        async with server:
            way = place.dial(server.address[1])
            async with aio.dial(way.pop("url"), proxy=None, **way) as ours:
                while not server.connections:
                    await asyncio.sleep(0)
                check_open(place, server, ours, *server.connections)
        check_over(place, server, ours)

    asyncio.run(main())


def check_before(server: Any) -> None:
    assert (server.sockets, server.connections) == ((), set())
    with pytest.raises(RuntimeError, match="no address until it is started"):
        server.address  # noqa: B018
