"""A dial whose time is over says in which stage: a case for each stage, all of a face at once.

They run side by side because all they do is wait; what each is told has a test of its own.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import uvloop

from koko import ErrBadHandshake
from koko.http import Request
from tests.dialing.conftest import (
    FACES,
    HERE,
    Face,
    face_of,
    full_queue,
    read_request,
    says,
    script,
)
from tests.sync.conftest import PATIENCE, in_thread

pytestmark = pytest.mark.once  # nothing is open here that has a codec

WITHIN = 4.0  # seconds; all cases of a face share them, on a machine that may be busy
MOVED = says("HTTP/1.1 302 Found\nLocation: /there?token=s3cret\nContent-Length: 0\n\n")
TUNNEL = says("HTTP/1.1 200 OK\n\n")
HALF = b"HTTP/1.1 101 Swi"
SECRET = "me:s3cret@"
QUERY = "?token=s3cret"


class Case(NamedTuple):
    """A dial that comes only so far: its URL and options, and what its error says of it."""

    url: str
    options: dict[str, Any]
    lacking: str


class Places:
    """The servers of the cases, each of which gets stuck in its own way."""

    def __init__(self, stack: ExitStack, tls: ssl.SSLContext, face: str, folder: Path) -> None:
        self._enter, self._exit = stack.enter_context, stack.callback
        self.tls, self.face = tls, face
        self.unix = str(folder / "full")

    def silent(self) -> str:
        """Accept in the system's queue, and never say a word."""
        listener = self._enter(socket.create_server((HERE, 0)))
        return f"{HERE}:{listener.getsockname()[1]}"

    def full(self) -> str:
        return f"{HERE}:{self._enter(full_queue())[1]}"

    def script(self, *answers: Any) -> str:
        return f"{HERE}:{self._enter(script(*answers)).port}"

    def dripping(self, *lines: bytes) -> str:
        """Send these lines and then an ``x`` after the other, for as long as anyone listens."""

        def drip() -> None:
            with listener.accept()[0] as sock, suppress(ConnectionError):
                read_request(sock)
                sock.sendall(b"\r\n".join(lines))
                sock.settimeout(WITHIN / 20)
                while sock.send(b"x"):
                    with suppress(TimeoutError):
                        if not sock.recv(1):
                            return

        listener = self._enter(socket.create_server((HERE, 0)))
        done = in_thread(drip)
        self._exit(done.result, PATIENCE)
        return f"{HERE}:{listener.getsockname()[1]}"

    def full_unix(self) -> str:
        return str(self._enter(full_queue(socket.AF_UNIX, self.unix)))


def late(answer: bytes, share: float) -> Callable[[Request], bytes]:
    def wait(request: Request) -> bytes:
        time.sleep(WITHIN * share)
        return answer

    return wait


def proxied(places: Places, proxy: str, url: str = "ws://there.example/") -> tuple[str, Any]:
    scheme, where = proxy.split("://")
    options = {"proxy": f"{scheme}://{SECRET}{where}", "ssl": places.tls}
    return url.replace("//", f"//{SECRET}") + QUERY, options


# One case a stage, in the order of a dial


def name(places: Places) -> Case:
    return Case("ws://slow.example/", {}, "the name 'slow.example' was not resolved")


def one_address(places: Places) -> Case:
    where = places.full()
    return Case(f"ws://{where}/", {}, f"the TCP connection to {where} was not accepted")


def two_addresses(places: Places) -> Case:
    full, dead = places.full(), "[::1]:9"
    lacking = f"TCP connections to {dead} ({{}}) and {full} were not accepted"
    return Case(f"ws://two.example:{full.split(':')[1]}/", {}, lacking)


def unix(places: Places) -> Case:
    where = places.full_unix()
    lacking = f"the Unix socket '{where}' did not accept a connection"
    return Case("ws://there.example/", {"unix": where}, lacking)


def net_dial(places: Places) -> Case:
    def in_threads(host: str, port: int, timeout: float) -> Any:
        time.sleep(timeout)
        raise TimeoutError

    async def in_tasks(host: str, port: int, timeout: float) -> Any:
        await asyncio.sleep(PATIENCE)

    slow = in_threads if places.face == "sync" else in_tasks
    return Case(
        "ws://there.example/", {"net_dial": slow}, "net_dial did not return a socket in time"
    )


def late_net_dial(places: Places) -> Case:
    host, port = places.silent().split(":")

    def in_threads(_: str, __: int, timeout: float) -> Any:
        time.sleep(timeout)
        return socket.create_connection((host, int(port)))

    in_tasks = net_dial(places)  # nobody can be late there: it is cancelled
    return (
        in_tasks._replace(options={"net_dial": in_threads}) if places.face == "sync" else in_tasks
    )


def tls(places: Places) -> Case:
    url = f"wss://{places.silent()}/"
    return Case(url, {"ssl": places.tls}, f"the TLS handshake with {HERE} did not finish")


def answer(places: Places) -> Case:
    return Case(f"ws://{places.silent()}/", {}, "no answer to the request came")


def half_an_answer(places: Places) -> Case:
    lacking = "no answer to the request came, only the beginning of one"
    return Case(f"ws://{places.script(HALF)}/", {}, lacking)


def dripping_head(places: Places) -> Case:
    lacking = "no answer to the request came, only the beginning of one"
    return Case(f"ws://{places.dripping(b'HTTP/1.1 200 OK', b'X: ')}/", {}, lacking)


def name_of_a_proxy(places: Places) -> Case:
    proxy = "http://slow.example:1"
    lacking = f"the proxy {proxy} was not reached: the name 'slow.example' was not resolved"
    return Case(*proxied(places, proxy), lacking)


def proxy(places: Places) -> Case:
    where = places.full()
    reason = f"the TCP connection to {where} was not accepted"
    return Case(
        *proxied(places, f"http://{where}"), f"the proxy http://{where} was not reached: {reason}"
    )


def tls_with_a_proxy(places: Places) -> Case:
    proxy = f"https://{places.silent()}"
    lacking = f"the proxy {proxy} was not reached: the TLS handshake with {HERE} did not finish"
    return Case(*proxied(places, proxy), lacking)


def answer_of_a_proxy(places: Places) -> Case:
    proxy = f"http://{places.silent()}"
    return Case(*proxied(places, proxy), f"no answer from the proxy {proxy} came")


def half_an_answer_of_a_proxy(places: Places) -> Case:
    proxy = f"http://{places.script(HALF)}"
    lacking = f"no answer from the proxy {proxy} came, only the beginning of one"
    return Case(*proxied(places, proxy), lacking)


def socks(places: Places) -> Case:
    proxy = f"socks5h://{places.silent()}"
    return Case(*proxied(places, proxy), f"no answer from the proxy {proxy} came")


def name_for_a_socks_proxy(places: Places) -> Case:
    way = proxied(places, f"socks5://{places.silent()}", "ws://slow.example/")
    return Case(*way, "the name 'slow.example' was not resolved")


def a_socks_proxy(places: Places) -> Case:
    where = places.full()
    reason = f"the TCP connection to {where} was not accepted"
    lacking = f"the proxy socks5h://{where} was not reached: {reason}"
    return Case(*proxied(places, f"socks5h://{where}"), lacking)


def tls_behind_a_proxy(places: Places) -> Case:
    way = proxied(places, f"http://{places.script(TUNNEL)}", "wss://there.example/")
    return Case(*way, "the TLS handshake with there.example did not finish")


def answer_behind_a_proxy(places: Places) -> Case:
    way = proxied(places, f"http://{places.script(TUNNEL)}")
    return Case(*way, "no answer to the request came")


def answer_after_a_redirect(places: Places) -> Case:
    # Each leg alone would be in time.
    where = places.script(late(MOVED, 0.2), late(MOVED, 0.85))
    lacking = f"after a redirect to ws://{where}/there, no answer to the request came"
    return Case(f"ws://{where}/", {}, lacking)


def connection_after_a_redirect(places: Places) -> Case:
    there = places.full()
    moved = MOVED.replace(b"/there", f"ws://{SECRET}{there}/there".encode())
    reason = f"the TCP connection to {there} was not accepted"
    lacking = f"after a redirect to ws://{there}/there, {reason}"
    return Case(f"ws://{places.script(moved)}/", {}, lacking)


STAGES = (
    name,
    one_address,
    two_addresses,
    unix,
    net_dial,
    late_net_dial,
    tls,
    answer,
    half_an_answer,
    dripping_head,
    name_of_a_proxy,
    proxy,
    tls_with_a_proxy,
    answer_of_a_proxy,
    half_an_answer_of_a_proxy,
    socks,
    name_for_a_socks_proxy,
    a_socks_proxy,
    tls_behind_a_proxy,
    answer_behind_a_proxy,
    answer_after_a_redirect,
    connection_after_a_redirect,
)


# Of a refusal there is more to say than that the rest of it did not come


def endless_refusal(places: Places) -> Case:
    refusal = says("HTTP/1.1 401 Unauthorized\nContent-Length: 800\n\nno entry")
    return Case(f"ws://{places.script(refusal)}/", {}, "no entry")


def dripping_refusal(places: Places) -> Case:
    return Case(f"ws://{places.dripping(b'HTTP/1.1 403 No', b'', b'x')}/", {}, "xx")


CASES = (*STAGES, endless_refusal, dripping_refusal)


@contextmanager
def names() -> Iterator[None]:
    """Resolve ``slow.example`` never, ``two.example`` to an address that refuses and another."""
    real, over = socket.getaddrinfo, Future[Any]()

    def two(port: int) -> list[Any]:
        tcp = socket.SOCK_STREAM, socket.IPPROTO_TCP, ""
        return [(socket.AF_INET6, *tcp, ("::1", 9, 0, 0)), (socket.AF_INET, *tcp, (HERE, port))]

    def blocking(host: str, port: int, *args: Any, **keywords: Any) -> Any:
        if host.endswith(".example") and not keywords.get("flags"):
            return over.result() if host.startswith("slow") else two(port)
        return real(host, port, *args, **keywords)

    async def of_uvloop(self: Any, host: str, port: int, **keywords: Any) -> Any:
        if host.startswith("slow"):
            await asyncio.sleep(PATIENCE)
        return two(port) if host.startswith("two") else real(host, port, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", blocking)
        patch.setattr(uvloop.Loop, "getaddrinfo", of_uvloop)
        yield
        over.set_result([])


Told = dict[str, tuple[Case, Any, float]]


@pytest.fixture(scope="module", params=FACES)
def told(
    request: pytest.FixtureRequest,
    client_tls: ssl.SSLContext,
    tmp_path_factory: pytest.TempPathFactory,
) -> Told:
    """Dial all cases at once; for each, what came of it and after how many seconds."""
    with ExitStack() as stack, face_of(request.param) as face:
        places = Places(stack, client_tls, face.name, tmp_path_factory.mktemp("u"))
        cases = [make(places) for make in CASES]
        with names():
            found = dial_all(face, cases)
        face.turn()
    return {make.__name__: told for make, told in zip(CASES, found, strict=True)}


def dial_all(face: Face, cases: list[Case]) -> list[tuple[Case, Any, float]]:
    async def dial_in_task(case: Case) -> tuple[Case, Any, float]:
        began = time.monotonic()
        try:
            return case, await opening(case), 0.0
        except Exception as error:
            return case, error, time.monotonic() - began

    def dial_in_thread(case: Case) -> tuple[Case, Any, float]:
        began = time.monotonic()
        try:
            return case, opening(case), 0.0
        except Exception as error:
            return case, error, time.monotonic() - began

    def opening(case: Case) -> Any:
        return face.dialer(**case.options, handshake_timeout=WITHIN).dial(case.url)

    async def in_tasks() -> list[tuple[Case, Any, float]]:
        return await asyncio.gather(*map(dial_in_task, cases))

    if face.name != "sync":
        return face.wait(in_tasks())  # type: ignore[no-any-return]
    running = [in_thread(dial_in_thread, case) for case in cases]
    return [each.result(WITHIN + PATIENCE) for each in running]


@pytest.mark.parametrize("stage", [case.__name__ for case in STAGES])
def test_a_timeout_names_the_stage_it_came_in(told: Told, stage: str) -> None:
    case, error, lasted = told[stage]
    shown = case.url.replace(SECRET, "").replace(QUERY, "")
    sentence = f"the handshake with {shown} did not finish within {WITHIN:g} s: {case.lacking}"
    assert type(error) is TimeoutError
    assert re.sub(r"(?<=:9 )\(.*?\)", "({})", str(error)) == sentence
    assert WITHIN * 0.9 < lasted < PATIENCE  # the clock of uvloop stands still in a turn


@pytest.mark.parametrize("refusal", ["endless_refusal", "dripping_refusal"])
def test_of_a_refusal_that_never_ends_what_came_in_time_is_shown(told: Told, refusal: str) -> None:
    case, error, lasted = told[refusal]
    assert isinstance(error, ErrBadHandshake)
    assert error.response.body.decode().startswith(case.lacking)
    assert WITHIN * 0.9 < lasted < PATIENCE


def test_what_reconnect_logs_names_the_stage(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    options = {"proxy": None, "handshake_timeout": WITHIN, "retry": lambda error: False}
    with socket.create_server((HERE, 0)) as listener:  # which never says a word
        where = f"ws://{HERE}:{listener.getsockname()[1]}/"
        conns = face.module.reconnect(where.replace("//", f"//{SECRET}") + QUERY, **options)
        caplog.set_level(logging.DEBUG)
        with pytest.raises(TimeoutError):
            face.wait(next(conns) if face.name == "sync" else anext(conns))
    told = [record.getMessage() for record in caplog.records if record.name == "koko.client"]
    stage = f"the handshake with {where} did not finish within {WITHIN:g} s: "
    stage += "no answer to the request came"
    assert told == [f"{where}: {stage}; another try would not help"]
    assert "s3cret" not in caplog.text


def test_each_step_through_a_proxy_is_told_to_the_log_and_no_secret_is(
    face: Face, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "koko.dialing")

    def tunnel_and_refuse() -> None:
        with listener.accept()[0] as sock:
            for answer in (TUNNEL, says("HTTP/1.1 403 Forbidden\nContent-Length: 0\n\n")):
                read_request(sock)
                sock.sendall(answer)

    with socket.create_server((HERE, 0)) as listener:
        played, proxy = in_thread(tunnel_and_refuse), f"{HERE}:{listener.getsockname()[1]}"
        where, through = "ws://there.example/", f"http://{proxy}"
        options = {"proxy": through.replace("//", f"//{SECRET}")}
        with pytest.raises(ErrBadHandshake):
            face.dial(where.replace("//", f"//{SECRET}") + QUERY, **options)
        face.turn()
        played.result(PATIENCE)
    told = [record.getMessage() for record in caplog.records if record.name == "koko.dialing"]
    way, resolving, connecting, _, asking_proxy, asking, answered = told
    assert way == f"{where}: through {through}"
    assert resolving == f"{where}: resolving '{HERE}'"
    assert connecting == f"{where}: connecting to {proxy}"
    assert asking_proxy == f"{where}: asking the proxy {through} for a tunnel"
    assert asking == f"{where}: sending the request"
    assert answered == f"{where}: answered 403 Forbidden"
    assert "s3cret" not in caplog.text
