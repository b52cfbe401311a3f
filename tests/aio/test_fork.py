"""A child of fork that lives on: the parent's connections and ports are the parent's."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

# A server and a client in one loop, over TLS or not; both are inherited by a child that waits for
# its end of a pipe to be closed before it goes.
PROGRAM = """
import asyncio, gc, os, ssl, warnings
import uvloop
from koko.aio import Server, dial
from koko.errors import CloseError

warnings.simplefilter("ignore")
{loop_factory}
SECURE = {secure}

async def echo(conn):
    async for message in conn:
        await conn.send(message)

def contexts():
    if not SECURE:
        return None, None
    import trustme
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    client = ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    return server, client

def lives_on(do):
    ours, theirs = os.pipe()
    begun, begins = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(theirs)
        os.write(begins, b"!")  # what it does at its beginning is done
        said = do()
        os.read(ours, 1)
        os._exit(said)
    os.close(ours)
    os.read(begun, 1)
    return child, theirs

def over(child, theirs):
    os.close(theirs)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

async def tell(story):
    for_server, for_client = contexts()
    server = Server(echo, "127.0.0.1", ssl=for_server)
    await server.start()
    host, port = server.address
    to = f"ws{{'s' * SECURE}}://{{host}}:{{port}}/"
    conn = await dial(to, ssl=for_client, proxy=None)
    await conn.send("x")
    assert await conn.recv() == "x"
    await story(server, conn, host, port, to, for_client)

{stories}
with asyncio.Runner(loop_factory=factory) as runner:
    for name, story in STORIES.items():
        runner.run(tell(story))
        print("held:", name)
"""

STORIES = {
    "an end of ours reaches the peer while the child has copies": """
    child = lives_on(lambda: 0)
    (theirs,) = server.connections
    theirs.transport.close()
    try:
        await conn.recv(timeout=10)
    except CloseError:
        pass
    await server.close()
    over(*child)
""",
    "the port is free while the child has copies": """
    child = lives_on(lambda: 0)
    await conn.close()
    await server.close()
    try:
        await asyncio.open_connection(host, port)
    except ConnectionRefusedError:
        pass
    else:
        raise AssertionError("somebody listens")
    again = Server(echo, host, port)
    await again.start()
    await again.close()
    over(*child)
""",
    "who has shaken no hands yet hears the end while the child has copies": """
    reader, writer = await asyncio.open_connection(host, port)
    while not (server._clients.handshakes or server._acceptor._connecting):
        await asyncio.sleep(0)
    child = lives_on(lambda: 0)
    await conn.close()
    await server.close()
    said = await asyncio.wait_for(reader.read(), 3)
    assert said == b"" if SECURE else said.startswith(b"HTTP/1.1 503 "), said
    writer.close()
    over(*child)
""",
    "whatever the child does with them, the parent's go on": """
    def meddle():
        for each in (conn, *server.connections):
            try:
                each.send("x").send(None)
            except CloseError as error:
                assert "belongs to the parent process" in str(error), error
            else:
                return 1
            each.abort()
        for sock in server.sockets:
            assert sock.fileno() >= 0
        gc.collect()
        return 0
    child = lives_on(meddle)
    for _ in range(3):
        await conn.send("y")
        assert await conn.recv(timeout=10) == "y"
    async with dial(to, ssl=for_client, proxy=None) as other:
        await other.send("z")
        assert await other.recv(timeout=10) == "z"
    assert over(*child) == 0
    await conn.send("y")
    assert await conn.recv(timeout=10) == "y"
    await conn.close()
    await server.close()
""",
}
LOOPS = {
    "asyncio": "factory = asyncio.SelectorEventLoop",
    "uvloop": "factory = uvloop.new_event_loop",
}


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("loop", LOOPS)
def test_with_a_child_that_inherits_them(loop: str, secure: bool) -> None:
    stories = ["STORIES = {}"]
    for name, story in STORIES.items():
        stories.append(f"async def story(server, conn, host, port, to, for_client):{story}")
        stories.append(f"STORIES[{name!r}] = story")
    program = PROGRAM.format(loop_factory=LOOPS[loop], secure=secure, stories="\n".join(stories))
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    held = [f"held: {name}" for name in STORIES]
    assert run.stdout.splitlines() == held, run.stdout + run.stderr
