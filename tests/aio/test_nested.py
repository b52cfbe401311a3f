"""Loops that are run by what they run, as nest_asyncio has it in notebooks.

It patches asyncio for good, so each scenario is a process. A message that does not arrive is
an error there, and so is whatever the loop complains of.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

BEFORE = """
import asyncio, nest_asyncio, sys
from koko.aio import Conn, Server, dial

async def echo(conn):
    async for message in conn:
        await conn.send(message)

async def ask(conn, message):
    await conn.send(message)
    return await conn.recv(timeout=10)

complaints = []

def watched(loop):
    loop.set_exception_handler(lambda _, complaint: complaints.append(complaint))

def to(server):
    return dial(f"ws://127.0.0.1:{server.address[1]}", proxy=None)
"""

AFTER = """
async def watched_main():
    watched(asyncio.get_running_loop())
    await asyncio.wait_for(main(), 8)

asyncio.run(watched_main())
assert complaints == [], complaints
print("held")
"""

SCENARIOS = {
    "client": """
        nest_asyncio.apply()
        async def main():
            async with Server(echo, "127.0.0.1") as server, to(server) as conn:
                assert await ask(conn, "1") == "1"
                for message in "234":
                    assert asyncio.run(ask(conn, message)) == message
                assert await ask(conn, "5") == "5"
        """,
    "patched late": """
        async def main():
            async with Server(echo, "127.0.0.1") as server, to(server) as conn:
                assert await ask(conn, "1") == "1"
                await asyncio.sleep(0)
                nest_asyncio.apply()
                for message in "23":
                    assert asyncio.run(ask(conn, message)) == message
                    assert await ask(conn, "4") == "4"
        """,
    "handler": """
        nest_asyncio.apply()
        async def handler(conn):
            async for message in conn:
                asyncio.run(conn.send(message))
                answer = asyncio.run(conn.recv(timeout=10))
                await conn.send("got " + answer)
        async def main():
            async with Server(handler, "127.0.0.1") as server, to(server) as conn:
                for _ in range(2):
                    assert await ask(conn, "1") == "1"
                    assert await ask(conn, "2") == "got 2"
        """,
    "what is gathered leaves while others are waited for": """
        nest_asyncio.apply()
        async def main():
            heard = asyncio.Event()
            async def handler(conn):
                with conn.cork():
                    await conn.send("1")
                    await conn.send("2")
                assert await conn.recv() == "3"
                heard.set()
                await conn.wait_closed()
            async with Server(handler, "127.0.0.1") as server, to(server) as conn:
                assert await conn.recv() == "1"
                async def tell():
                    await conn.send("3")  # "2" is unread, so this waits for more
                    await asyncio.wait_for(heard.wait(), 10)
                asyncio.run(tell())
                assert await conn.recv() == "2"
        """,
    "TLS": """
        nest_asyncio.apply()
        import ssl, trustme
        authority = trustme.CA()
        ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(ours)
        theirs = ssl.create_default_context()
        authority.configure_trust(theirs)
        async def main():
            async with Server(echo, "127.0.0.1", ssl=ours) as server:
                where = f"wss://127.0.0.1:{server.address[1]}"
                async with dial(where, ssl=theirs, proxy=None) as conn:
                    assert await ask(conn, "1") == "1"
                    for message in "23":
                        assert asyncio.run(ask(conn, message)) == message
                    assert await ask(conn, "4") == "4"
        """,
}


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_messages_arrive_in_a_loop_that_is_run_by_what_it_runs(scenario: str) -> None:
    program = BEFORE + textwrap.dedent(scenario) + AFTER
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr[-2000:]) == ("held\n", "")
