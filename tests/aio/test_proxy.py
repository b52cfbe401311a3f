"""Through proxies on real sockets: CONNECT, TLS to the proxy, SOCKS, refusals."""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from koko import ErrBadHandshake
from koko.aio import Server, dial
from tests.aio.conftest import echo, url

pytestmark = pytest.mark.usefixtures("loop_factory")

HERE = "127.0.0.1"


class Proxy:
    """A proxy of a few lines; ``asked`` is what its clients wanted."""

    def __init__(self, refusal: bytes = b"") -> None:
        self.asked: list[bytes] = []
        self.address = ""
        self._refusal = refusal

    async def http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head)
        if self._refusal:
            writer.write(self._refusal)
            writer.close()
            return
        host, _, port = head.split()[1].decode().rpartition(":")
        await relay(reader, writer, host, int(port), b"HTTP/1.1 200 Established\r\nVia: x\r\n\r\n")

    async def socks(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly((await reader.readexactly(2))[1])
        writer.write(b"\x05\x00")
        wish = await reader.readexactly(4)
        size = 4 if wish[3] == 1 else (await reader.readexactly(1))[0]
        address = await reader.readexactly(size)
        self.asked.append(address)
        host = socket.inet_ntoa(address) if wish[3] == 1 else address.decode()
        port = int.from_bytes(await reader.readexactly(2), "big")
        await relay(reader, writer, host, port, b"\x05\x00\x00\x01" + bytes(6))


async def relay(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int, hello: bytes
) -> None:
    async def pour(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while octets := await source.read(65536):
                sink.write(octets)
                await sink.drain()
        sink.close()

    onward_reader, onward_writer = await asyncio.open_connection(host, port)
    writer.write(hello)
    await asyncio.gather(pour(reader, onward_writer), pour(onward_reader, writer))


@asynccontextmanager
async def listening(
    proxy: Proxy, verb: str, context: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    server = await asyncio.start_server(getattr(proxy, verb), HERE, 0, ssl=context)
    async with server:
        yield f"{HERE}:{server.sockets[0].getsockname()[1]}"


async def converse(address: str, proxy: str, context: ssl.SSLContext | None = None) -> None:
    async with dial(address, proxy=proxy, ssl=context) as conn:
        for message in ("through", bytes(100_000)):
            await conn.send(message)
            assert await conn.recv() == message


async def test_connect_opens_the_way() -> None:
    proxy = Proxy()
    async with Server(echo, HERE) as server, listening(proxy, "http") as address:
        await converse(url(server), f"http://me:p%40ss@{address}")
        assert proxy.asked[0].startswith(
            b"CONNECT %s:%d HTTP/1.1\r\n" % (HERE.encode(), server.address[1])
        )
        assert b"Proxy-Authorization: Basic bWU6cEBzcw==\r\n" in proxy.asked[0]


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_tls_goes_through_a_proxy_that_may_speak_tls_itself(
    scheme: str, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    context = server_tls if scheme == "https" else None
    async with (
        Server(echo, HERE, ssl=server_tls) as server,
        listening(Proxy(), "http", context) as address,
    ):
        await converse(url(server, "wss"), f"{scheme}://{address}", client_tls)


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
async def test_python_socks_opens_the_way_through_a_socks_proxy(scheme: str) -> None:
    proxy = Proxy()
    async with Server(echo, HERE) as server, listening(proxy, "socks") as address:
        await converse(url(server), f"{scheme}://{address}")
        assert len(proxy.asked) == 1


async def test_proxy_that_refuses_is_quoted_without_its_password() -> None:
    proxy = Proxy(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
    async with listening(proxy, "http") as address:
        with pytest.raises(ErrBadHandshake, match="Who are you") as raised:
            await dial("ws://here.example", proxy=f"http://me:secret@{address}")
        assert raised.value.status == 407
        assert "secret" not in str(raised.value)


async def test_socks_proxy_without_the_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_socks", None)
    with pytest.raises(ImportError, match=r"pip install 'koko\[proxy\]'") as raised:
        await dial("ws://here.example", proxy="socks5://me:secret@127.0.0.1:1")
    assert "secret" not in str(raised.value)
