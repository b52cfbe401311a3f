"""TCP keeps no small write back, on either end, however the connection came to be."""

from __future__ import annotations

import socket
import ssl
from typing import Any

import pytest
import trustme

from koko.aio import Conn, Server, dial

pytestmark = pytest.mark.usefixtures("loop_factory")

HERE = "127.0.0.1"


def is_hasty(conn: Conn) -> bool:
    sock = conn.transport.get_extra_info("socket")
    return bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert(HERE).configure_cert(server)
    authority.configure_trust(client)
    return server, client


@pytest.mark.parametrize("given", [False, True], ids=["by name", "by socket"])
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
async def test_both_ends_send_small_writes_at_once(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], secure: bool, given: bool
) -> None:
    hasty: list[bool] = []

    async def note(conn: Conn) -> None:
        hasty.append(is_hasty(conn))

    where: dict[str, Any] = {"host": HERE}
    if given:
        where = {"sock": socket.create_server((HERE, 0))}
    server_tls, client_tls = contexts if secure else (None, None)
    async with Server(note, ssl=server_tls, **where) as server:
        port = server.address[1]
        sock = None
        if given:
            sock = socket.create_connection((HERE, port))
            sock.setblocking(False)
        url = f"{'wss' if secure else 'ws'}://{HERE}:{port}/"
        async with dial(url, ssl=client_tls, proxy=None, sock=sock) as conn:
            hasty.append(is_hasty(conn))
            await conn.wait_closed(10)
    assert hasty == [True, True]


@pytest.mark.parametrize("host", [None, "", [HERE, None], ["localhost", HERE]])
async def test_a_server_listens_on_whatever_names_it_is_given(host: Any) -> None:
    async def hello(conn: Conn) -> None:
        await conn.send("hello")

    async with Server(hello, host) as server:
        async with dial(f"ws://{HERE}:{server.address[1]}/", proxy=None) as conn:
            assert await conn.recv(timeout=10) == "hello"
