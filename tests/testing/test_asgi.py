"""A client of an ASGI application without a port, on both faces."""

from __future__ import annotations

import asyncio
import functools
import gc
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

import koko.sync
from koko import CloseError, ErrBadHandshake
from koko.testing import aio, sync
from koko.testing._loop_thread import LoopThread
from tests.testing.apps import Failing, Site
from tests.testing.frozen import run_in_no_time


def test_the_application_starts_echoes_and_stops() -> None:
    async def main() -> None:
        site = Site()
        async with aio.asgi(site) as client:
            async with client.dial("/echo", subprotocols=["chat"]) as conn:
                for message in ("hello", b"\0", "x" * 1_000_000):
                    await conn.send(message)
                    assert await conn.recv() == message
                assert conn.subprotocol == "chat"
        check(site)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    def check(site: Site) -> None:
        assert site.told == [
            "lifespan.startup",
            {"type": "websocket.connect"},
            {"type": "websocket.disconnect", "code": 1000, "reason": ""},
            "lifespan.shutdown",
        ]

    asyncio.run(main())
    site = Site()
    with sync.asgi(site) as client, client.dial("/echo", subprotocols=["chat"]) as conn:
        conn.send("hello")
        assert conn.recv() == "hello"
        assert conn.subprotocol == "chat"
    check(site)
    assert "koko-asgi" not in {thread.name for thread in threading.enumerate()}


def test_the_scope_is_as_the_specification_has_it() -> None:
    async def main() -> None:
        site = Site()
        async with aio.asgi(site, client=("203.0.113.7", 9)) as client:
            headers = {"Cookie": "a=é"}
            conn = await client.dial("ws://app.example/sc%6fpe/?a=%20", headers=headers)
            with pytest.raises(CloseError) as closed:
                await conn.recv()
        assert (closed.value.code, closed.value.reason) == (4000, "bye")
        assert conn.response.headers.getall("X-Served-By") == ["a"]
        assert conn.response.headers.getall("Set-Cookie") == ["b=c"]
        scope = site.told[2]
        assert scope["type"] == "websocket"
        assert scope["asgi"] == {"version": "3.0", "spec_version": "2.4"}
        assert (scope["path"], scope["raw_path"]) == ("/scope/", b"/sc%6fpe/")
        assert (scope["query_string"], scope["root_path"]) == (b"a=%20", "")
        assert (scope["scheme"], scope["http_version"]) == ("ws", "1.1")
        assert (b"host", b"app.example") in scope["headers"]
        assert (b"cookie", "a=é".encode("latin-1")) in scope["headers"]
        assert scope["client"] == ("203.0.113.7", 9)
        assert scope["subprotocols"] == []
        assert scope["state"] == {"seats": 3}
        assert scope["extensions"] == {"websocket.http.response": {}}

    asyncio.run(main())


def test_a_refusal_is_the_applications_answer() -> None:
    with sync.asgi(Site()) as client:
        with pytest.raises(ErrBadHandshake) as error:
            client.dial("/reject")
        assert error.value.response.status == 403
        with pytest.raises(ErrBadHandshake) as error:
            client.dial("/deny")
        assert error.value.response.status == 401
        assert error.value.response.body == b"who are you?"
        assert error.value.response.headers["Content-Type"] == "text/html"


@pytest.mark.parametrize("path", ["/fail", "/fail_later"])
def test_what_the_application_raises_is_raised_at_the_end(path: str) -> None:
    async def main() -> None:
        with pytest.raises(LookupError, match="on purpose") as failed:
            async with aio.asgi(Site()) as client:
                conn = await client.dial(path)
                await conn.recv()
        seen = failed.value.__context__
        assert isinstance(seen, ErrBadHandshake if path == "/fail" else CloseError)

    asyncio.run(main())
    with pytest.raises(LookupError, match="on purpose"), sync.asgi(Site()) as client:
        with client.dial(path) as conn:
            conn.recv()


def test_a_cancellation_that_nobody_asked_for_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="its task was not cancelled"):
        with sync.asgi(Site()) as client, pytest.raises(ErrBadHandshake):
            client.dial("/cancel")


def test_an_application_that_says_nothing_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="returned without accepting"):
        with sync.asgi(Site()) as client:
            with pytest.raises(ErrBadHandshake, match="500"):
                client.dial("/leave")


def test_connections_are_told_that_the_server_stops() -> None:
    async def main() -> None:
        site = Site()
        async with aio.asgi(site) as client:
            conn = await client.dial("/silent")
        with pytest.raises(CloseError) as closed:
            await conn.recv()
        assert closed.value.code == 1012
        assert site.told[-2] == {"type": "websocket.disconnect", "code": 1012}

    asyncio.run(main())


def test_a_client_that_vanishes_is_told() -> None:
    site = Site()
    with sync.asgi(site) as client:
        client.dial("/silent").abort()
    assert site.told[-2]["code"] in (1005, 1012)


def test_an_application_that_only_sends_is_told_of_the_end() -> None:
    with sync.asgi(Site()) as client, client.dial("/feed") as conn:
        assert conn.recv() == "news"


@pytest.mark.once
def test_no_wait_lasts_for_ever() -> None:
    async def deaf() -> None:
        async with aio.asgi(Site(), timeout=3.0) as client:
            conn = await client.dial("/deaf")
            with pytest.raises(CloseError, match="open for 3 s, the limit of asgi"):
                await conn.recv()

    with pytest.raises(TimeoutError, match="went on for 3 s after its clients had gone: /deaf"):
        asyncio.run(deaf())
    with pytest.raises(TimeoutError, match="went on for 1 s .*/ponder") as late:
        with sync.asgi(Site(), timeout=3.0) as client:
            client.dial("/ponder", handshake_timeout=2.0)
    assert isinstance(late.value.__context__, TimeoutError)


BLOCKED = (
    "the application blocks its event loop at .*/tests/testing/apps.py:[0-9]+, "
    r"in {}\(\): self.released.wait\(\)"
)


@pytest.mark.once
def test_no_wait_lasts_for_ever_in_an_application_that_blocks_its_loop() -> None:
    raised: dict[str, BaseException] = {}

    def wait(name: str, verb: Callable[[], object]) -> None:
        try:
            while True:
                verb()
        except CloseError as error:
            raised[name] = error

    def verbs(conn: koko.sync.Conn) -> dict[str, Callable[[], object]]:
        return {"recv": conn.recv, "ping": conn.ping, "send": lambda: conn.send(bytes(100_000))}

    site = Site()
    blocked = BLOCKED.format("block")
    with pytest.raises(TimeoutError, match=blocked) as late:
        with sync.asgi(site, timeout=3.0) as client:
            conns = {name: client.dial("/block") for name in ("recv", "ping", "send")}
            threads = [
                threading.Thread(target=wait, args=(name, verbs(conn)[name]))
                for name, conn in conns.items()
            ]
            with client.dial("/block") as conn:
                conn.send("go")
                for thread in threads:
                    thread.start()
                conn.recv()
    for thread in threads:
        thread.join(10)
    assert raised.keys() == conns.keys()
    for error in (*raised.values(), late.value.__context__):
        assert isinstance(error, CloseError)
        assert re.search(blocked, str(error))

    release(site)


def release(site: Site) -> None:
    """Let a loop that was blocked come back to life, and wait for its end."""
    (loop,) = [thread for thread in threading.enumerate() if thread.name == "koko-asgi"]
    site.released.set()
    loop.join(10)
    assert not loop.is_alive()
    gc.collect()  # a transport that is left says so here


@pytest.mark.once
def test_a_handshake_that_finds_the_loop_blocked_says_where() -> None:
    site = Site()
    with pytest.raises(TimeoutError), sync.asgi(site, timeout=2.0) as client:
        with pytest.raises(TimeoutError, match="no answer.*; " + BLOCKED.format("block_early")):
            client.dial("/block_early")
        with pytest.raises(TimeoutError, match=BLOCKED.format("block_early")):
            client.dial("/echo")  # the loop does not even begin it
    release(site)


@pytest.mark.once
def test_a_loop_that_is_slow_is_not_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("koko.testing._loop_thread.LEAVE", 10.0)  # this machine may be slow, too

    async def work() -> str:
        time.sleep(0.8)
        return "done"

    with LoopThread(timeout=2.0) as loop:
        for _ in range(5):
            assert loop.run(work) == "done"
        assert loop.blocked() == ""


@pytest.mark.parametrize("app", [Failing("exits"), Site()])
def test_what_ends_the_loop_is_raised(app: Any) -> None:
    async def end() -> None:
        raise SystemExit("no configuration")

    with pytest.raises(SystemExit, match="no configuration"):
        with sync.asgi(app, timeout=None) as client:
            asyncio.run_coroutine_threadsafe(end(), client._loop._loop)
            client.dial("/ponder")


@pytest.mark.once
def test_a_task_of_the_application_that_does_not_end_is_named() -> None:
    tasks = []

    async def go_on() -> None:
        while not released.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.1)

    async def leave_a_task(scope: Any, receive: Any, send: Any) -> None:
        tasks.append(asyncio.create_task(go_on()))

    released = threading.Event()
    with pytest.raises(TimeoutError, match=r"did not end: .*go_on\(\) did not let itself be canc"):
        with sync.asgi(leave_a_task, timeout=2.0):
            pass
    released.set()


@pytest.mark.once
def test_a_loop_that_does_not_end_is_told() -> None:
    released = threading.Event()

    async def leave_a_thread(scope: Any, receive: Any, send: Any) -> None:
        asyncio.get_running_loop().run_in_executor(None, released.wait)

    with pytest.raises(TimeoutError, match="the application's event loop did not end"):
        with sync.asgi(leave_a_thread, timeout=2.0):
            pass
    released.set()


@pytest.mark.once
@pytest.mark.parametrize(
    ("way", "timeout", "error", "said"),
    [
        ("fails", 10.0, RuntimeError, "lifespan.startup.failed: no database"),
        ("fails and raises", 10.0, LookupError, "no database"),
        ("hangs", 0.2, TimeoutError, "did not finish its startup within 0.2 s"),
        ("hangs later", 3.0, TimeoutError, "did not finish its shutdown within 3 s"),
        ("exits", 10.0, SystemExit, "no configuration"),
        ("dies", 10.0, LookupError, "no database any more"),
        ("raises later", 10.0, LookupError, "no database any more"),
    ],
)
def test_a_lifespan_that_goes_wrong_is_an_error(
    way: str, timeout: float, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said), sync.asgi(Failing(way), timeout=timeout):
        pass

    async def main() -> None:
        async with aio.asgi(Failing(way), timeout=timeout):
            pass

    with pytest.raises(error, match=said):
        asyncio.run(main())


@pytest.mark.once
def test_a_lifespan_that_does_not_let_itself_be_cancelled_is_left() -> None:
    async def main() -> None:
        app = Failing("holds on")
        with pytest.raises(TimeoutError, match="did not finish its startup within 0.2 s"):
            async with aio.asgi(app, timeout=0.2):
                pass
        app.released.set()

    asyncio.run(main())


@pytest.mark.parametrize("way", ["none", "raises"])
def test_an_application_without_a_lifespan_is_served(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    with sync.asgi(Failing(way)) as client, client.dial("/") as conn:
        with pytest.raises(CloseError, match="1000"):
            conn.recv()
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_a_cancellation_and_an_interrupt_leave_the_block_as_they_are() -> None:
    async def main() -> None:
        async def block() -> None:
            async with aio.asgi(Site()) as client:
                conn = await client.dial("/fail_at_the_end")
                begun.set()
                await conn.wait_closed()

        begun = asyncio.Event()
        task = asyncio.create_task(block())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    with pytest.raises(KeyboardInterrupt), sync.asgi(Site()) as client:
        with client.dial("/fail_at_the_end"):
            raise KeyboardInterrupt


@pytest.mark.parametrize("path", ["/echo", "/silent", "/feed", "/answer_late"])
@pytest.mark.parametrize("inside", [True, False])
def test_a_block_that_failed_ends_at_once(path: str, inside: bool) -> None:
    async def main() -> None:
        with pytest.raises(LookupError):
            async with aio.asgi(Site()) as client:
                conn = await client.dial(path)
                for _ in range(100):
                    await conn.send(bytes(1000))
                if inside:
                    async with conn:
                        raise LookupError
                raise LookupError
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_in_no_time(main())


@pytest.mark.once
def test_an_application_that_does_not_notice_a_failed_test_has_a_second() -> None:
    with pytest.raises(TimeoutError, match="went on for 1 s .*/deaf") as late:
        with sync.asgi(Site(), timeout=1000.0) as client, client.dial("/deaf"):
            raise LookupError
    assert isinstance(late.value.__context__, LookupError)


def test_an_end_that_is_cancelled_leaves_no_task() -> None:
    async def main() -> None:
        async def block() -> None:
            async with aio.asgi(Site()) as client:
                await client.dial("/deaf")
                ending.set()

        ending = asyncio.Event()
        task = asyncio.create_task(block())
        await ending.wait()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_no_end_of_the_server_is_left_open() -> None:
    with sync.asgi(Site()) as client:
        conns = [client.dial("/echo") for _ in range(3)]
    gc.collect()  # a transport that is left says so here
    for conn in conns:
        with pytest.raises(CloseError, match="1012"):
            conn.recv()
        conn.close()


@pytest.mark.parametrize("error", [None, LookupError])
def test_a_connection_that_nobody_closed_gives_its_socket_back(error: Any) -> None:
    with suppress(LookupError), sync.asgi(Site()) as client:
        conn = client.dial("/echo")
        conn.send("unread")
        if error is not None:
            raise error
    del conn
    gc.collect()  # a socket that is left says so here


def test_nobody_dials_behind_the_end() -> None:
    async def main() -> None:
        async with aio.asgi(Site()) as client:
            pass
        with pytest.raises(RuntimeError, match="behind the end of the asgi"):
            await client.dial("/echo")

    asyncio.run(main())
    with sync.asgi(Site()) as client:
        pass
    with pytest.raises(RuntimeError, match="behind the end of the asgi"):
        client.dial("/echo")


NO_DESCRIPTOR = """
import os, resource
from koko.testing.sync import asgi
limit = os.dup(0)
os.close(limit)
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
try:
    asgi(print).__enter__()
except OSError as error:
    print(error.errno == 24)
"""


@pytest.mark.once
def test_a_loop_that_cannot_be_made_is_an_error() -> None:
    # In a process of its own: of a loop that is half made asyncio complains by itself.
    run = subprocess.run(
        [sys.executable, "-c", NO_DESCRIPTOR], stdout=subprocess.PIPE, text=True, timeout=60
    )
    assert run.stdout == "True\n"


@pytest.mark.parametrize("error", [ValueError, TypeError])
def test_a_timeout_is_a_number_of_seconds_or_none(error: type[Exception]) -> None:
    wrong: dict[type[Exception], list[Any]] = {
        ValueError: [0, 0.0, -1, float("nan"), float("inf")],
        TypeError: ["10", True, [1]],
    }

    async def check(timeout: Any) -> None:
        for block in (aio.asgi(Site(), timeout=timeout), aio.pair(timeout=timeout)):
            with pytest.raises(error, match="timeout="):
                async with block:
                    pass

    for timeout in wrong[error]:
        asyncio.run(check(timeout))
        for block in (sync.asgi(Site(), timeout=timeout), sync.pair(timeout=timeout)):
            with pytest.raises(error, match="timeout="), block:
                pass


def test_a_dial_without_a_limit_has_that_of_the_block() -> None:
    async def main() -> None:
        async with aio.asgi(Site(), timeout=2.0) as client:
            with pytest.raises(TimeoutError, match=r"within 2 s"):
                await client.dial("/ponder", handshake_timeout=None)

    with pytest.raises(TimeoutError, match="/ponder"):
        asyncio.run(main())
    with pytest.raises(TimeoutError, match="/ponder"), sync.asgi(Site(), timeout=2.0) as client:
        with pytest.raises(TimeoutError, match=r"within 2 s"):
            client.dial("/ponder", handshake_timeout=None)


class _Late:
    """Makes an application."""


def _wsgi(environ: Any, start_response: Any) -> Any:
    return []


def _asgi_2(scope: Any) -> Any:
    return Site()


@pytest.mark.parametrize(
    ("app", "said"),
    [
        ("main:app", "asgi.. got 'main:app' as app"),
        (_Late, "got _Late, .*; give the application that it makes"),
        (_asgi_2, "got _asgi_2, .*; applications of ASGI 2"),
        (_wsgi, "got _wsgi, .*; a WSGI application has no WebSockets"),
        (lambda scope, receive, send, more: None, "cannot be called with scope, receive and send$"),
        (lambda scope, receive, send: None, "the application <lambda>.. returned None"),
    ],
)
def test_what_is_no_application_is_told_so_at_once(app: Any, said: str) -> None:
    async def main() -> None:
        async with aio.asgi(app):
            pass

    with pytest.raises(TypeError, match=said):
        asyncio.run(main())
    with pytest.raises(TypeError, match=said), sync.asgi(app):
        pass


class _Endpoint:
    """An application that is a class, as Starlette's WebSocketEndpoint."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self.run = Site()(scope, receive, send)

    def __await__(self) -> Any:
        return self.run.__await__()


@pytest.mark.parametrize(
    "app", [_Endpoint, functools.partial(Site.__call__, Site()), Site().__call__]
)
def test_an_application_may_be_a_class_a_partial_or_a_method(app: Any) -> None:
    with sync.asgi(app) as client, client.dial("/echo") as conn:
        conn.send("hello")
        assert conn.recv() == "hello"


def test_every_error_of_the_application_is_told() -> None:
    with pytest.raises(LookupError, match="on purpose") as failed, sync.asgi(Site()) as client:
        for path in ("/fail", "/leave", "/leave"):
            with pytest.raises(ErrBadHandshake):
                client.dial(path)
    (note,) = failed.value.__notes__
    assert "as well: RuntimeError('the application returned without accepting" in note


def test_an_interrupt_in_a_group_leaves_the_block_as_it_is() -> None:
    with pytest.raises(BaseExceptionGroup), sync.asgi(Site()) as client:
        with client.dial("/fail_at_the_end"):
            raise BaseExceptionGroup("", [ValueError(), KeyboardInterrupt()])


def test_many_clients_at_once() -> None:
    def talk(client: sync.AsgiClient) -> None:
        with client.dial("/echo") as conn:
            conn.send("hello")
            assert conn.recv() == "hello"
            talked.append(conn)

    talked: list[koko.sync.Conn] = []
    with sync.asgi(Site()) as client:
        threads = [threading.Thread(target=talk, args=[client]) for _ in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert len(talked) == 100

    async def main() -> None:
        async with aio.asgi(Site()) as client, asyncio.TaskGroup() as group:
            for _ in range(100):
                group.create_task(talk_too(client))

    async def talk_too(client: aio.AsgiClient) -> None:
        async with client.dial("/echo") as conn:
            await conn.send("hello")
            assert await conn.recv() == "hello"

    asyncio.run(main())


def test_a_loop_whose_tasks_begin_at_once_will_do() -> None:
    async def main() -> None:
        eager: Any = getattr(asyncio, "eager_task_factory", None)  # of Python 3.12
        asyncio.get_running_loop().set_task_factory(eager)
        async with aio.asgi(Site()) as client, client.dial("/echo") as conn, aio.pair() as both:
            await conn.send("hello")
            assert await conn.recv() == "hello"
            await both.client.send("hello")
            assert await both.server.recv() == "hello"
            with pytest.raises(ErrBadHandshake):
                await client.dial("/reject")

    asyncio.run(main())


def test_options_are_those_of_dial() -> None:
    wrong: Any = {"timeout": 1}
    with sync.asgi(Site()) as client:
        with pytest.raises(TypeError, match=r"dial\(\) has no option 'timeout'"):
            client.dial("/echo", **wrong)
        with pytest.raises(ValueError, match="^'echo': a path begins with '/', as in '/chat'$"):
            client.dial("echo?token=secret")
        with pytest.raises(ValueError, match="nothing here speaks TLS"):
            client.dial("wss://localhost/echo")
        with client.dial("/echo", compression=True) as conn:
            assert conn.compression_level is not None
