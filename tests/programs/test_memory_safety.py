"""Nothing that a program may do with our objects crashes the interpreter; tried in processes.

What is native trusts its own attributes, so an object of ours is made whole or not at all,
and whatever is given to one is looked at before it is believed.
"""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from koko import aio, sync

HEAD = """
import asyncio, contextlib, gc, warnings
from koko import aio, sync
warnings.simplefilter("ignore")

async def echo(conn):
    async for message in conn:
        await conn.send(message)

@contextlib.asynccontextmanager
async def connected():
    async with aio.Server(echo, "127.0.0.1") as server:
        conn = await aio.dial("ws://127.0.0.1:%d" % server.address[1], proxy=None)
        try:
            yield conn
        finally:
            with contextlib.suppress(BaseException):  # misused before
                conn.abort()

def deaf():
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
"""

# Every name of an object of ours is read, called with all sorts of things, set and deleted.
EVERY_NAME = """
JUNK = (), (None,), (0,), (-1,), (1 << 40,), (b"",), (b"junk",), ("x",), (object(),), (None,) * 3
NOT_OURS = {"__class__", "__dict__", "__init_subclass__", "__subclasshook__"}

def everything(make):
    for name in sorted(set(dir(make())) - NOT_OURS):
        for args in JUNK:
            with contextlib.suppress(BaseException):
                value = getattr(make(), name)
                value = value(*args)
                value.close()
        for junk in JUNK[1:]:
            with contextlib.suppress(BaseException):
                setattr(make(), name, *junk)
        with contextlib.suppress(BaseException):
            delattr(make(), name)
    gc.collect()

def misuse(thing):
    everything(lambda: thing)
    kind = type(thing)
    for make in (lambda: kind.__new__(kind), kind):
        with contextlib.suppress(TypeError):
            everything(make)
"""

THINGS = {
    "conn": "conn",
    "protocol": "conn.transport.get_protocol()",
    "transport": "conn.transport",
    "waiter": "conn._protocol.waiter",
    "receiving": "conn.recv()",
    "iterating": "conn.__anext__()",
    "sending": "conn.send('x')",
    "inbox": "conn._core.inbox",
    "decoder": "conn._core.inbox.decoder",
    "encoder": "conn._core.outbox.encoder",
}

MISUSED = """
async def main():
    async with connected() as conn:
        deaf()
        thing = {thing}
        misuse(thing)
        with contextlib.suppress(BaseException):
            await asyncio.wait_for(conn.recv(), 0.01)
asyncio.run(main())
"""

MOMENTS = {
    "the task that our read wakes gives the transport to another": """
async def main():
    async with aio.Server(echo, "127.0.0.1") as server:
        conn = await aio.dial("ws://127.0.0.1:%d" % server.address[1], proxy=None)
        await conn.send("x")
        await conn.recv()
        transport = conn.transport
        transport.set_protocol(asyncio.Protocol())
        del conn
        await asyncio.sleep(0)
        transport.abort()
asyncio.run(main())
""",
    "a handler gives the transport to another": """
async def main():
    async with connected() as conn:
        conn.pong_handler = lambda _: conn.transport.set_protocol(asyncio.Protocol())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(conn.ping(), 0.1)
asyncio.run(main())
""",
    "a broadcast to what is no connection": """
async def main():
    for nobody in (None, object(), 0):
        with contextlib.suppress(TypeError, AttributeError):
            await aio.broadcast([nobody], "x")
    with contextlib.suppress(TypeError, AttributeError):
        await aio.broadcast([aio.Conn.__new__(aio.Conn)], "x")
asyncio.run(main())
""",
    "a thread's connection that was never made": """
for verb in ("recv", "close", "abort", "ping"):
    with contextlib.suppress(AttributeError, TypeError):
        getattr(sync.Conn.__new__(sync.Conn), verb)()
with contextlib.suppress(AttributeError, TypeError):
    sync.broadcast([sync.Conn.__new__(sync.Conn)], "x")
""",
    "a thread's connection whose every name is misused": EVERY_NAME
    + """
with sync.Server(lambda conn: conn.wait_closed(), "127.0.0.1") as server:
    conn = sync.dial("ws://127.0.0.1:%d" % server.address[1], proxy=None)
    driver = conn._driver
    conn.abort()
    misuse(driver)
""",
    "more was read than there is room for": """
async def main():
    async with connected() as conn:
        protocol = conn._protocol
        for size in (-1, 1, 1 << 18, 1 << 40):
            with contextlib.suppress(ValueError, AttributeError):
                protocol.buffer_updated(size)
asyncio.run(main())
""",
    "a flush of what was gathered and is not there": """
async def main():
    async with connected() as conn:
        with conn.cork(), contextlib.suppress(IndexError):
            conn._protocol.sent()
asyncio.run(main())
""",
    "objects that the collector has cleared are met again": """
async def main():
    async with connected() as conn:
        conn.circle = [conn, conn.recv(), conn.transport]
    met = []
    def meet(*_):
        for thing in gc.get_objects():
            if type(thing).__module__.startswith("koko."):
                met.append(thing)
    warnings.simplefilter("always")
    warnings.showwarning = meet
    never_sent = conn.send("x")
    conn.circle.append(never_sent)
    del conn, never_sent
    gc.collect()
    for thing in met:
        for name in dir(thing):
            with contextlib.suppress(BaseException):
                getattr(thing, name)()
asyncio.run(main())
""",
}


# Each in a namespace of its own, in one process: what is said last is what crashed it.
EACH = """
import gc
for name, program in PROGRAMS.items():
    print(name, flush=True)
    exec(program, {})
    gc.collect()
"""


def survives(programs: dict[str, str]) -> None:
    env = {**os.environ, "PYTHONFAULTHANDLER": "1"}
    whole = {name: HEAD + program for name, program in programs.items()}
    command = [sys.executable, "-c", f"PROGRAMS = {whole!r}{EACH}"]
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr
    assert set(programs) <= set(run.stdout.splitlines())


@pytest.mark.once
def test_nothing_crashes_at_any_of_these_moments() -> None:
    survives(MOMENTS)


@pytest.mark.once
def test_no_name_of_ours_crashes_whatever_it_is_given() -> None:
    survives({name: EVERY_NAME + MISUSED.format(thing=thing) for name, thing in THINGS.items()})


@pytest.mark.parametrize("face", [aio, sync])
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_connection_can_be_neither_copied_nor_pickled(
    face: Any, duplicate: Callable[[object], object]
) -> None:
    async def both() -> None:
        async with aio.Server(lambda conn: conn.wait_closed(), "127.0.0.1") as server:
            url = f"ws://127.0.0.1:{server.address[1]}"
            if face is aio:
                conn: Any = await aio.dial(url, proxy=None)
            else:
                conn = await asyncio.to_thread(sync.dial, url, proxy=None)
            with pytest.raises(TypeError, match="a connection can be neither copied nor pickled"):
                duplicate(conn)
            conn.abort()

    asyncio.run(both())
