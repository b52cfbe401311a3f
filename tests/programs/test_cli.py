"""``koko`` and ``koko serve``: what scripts rely on, as they see it, from outside."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
import trustme

from koko import CloseError, ErrBadHandshake, aio
from koko.cli import main, with_aio, with_sync
from koko.sync import dial
from tests.programs.command import KOKO, PATIENCE, answering, complaint, koko, url
from tests.programs.served import Served, served

FACES = pytest.mark.parametrize("face", ["aio", "sync"])
Serve = Callable[..., Served]


@pytest.fixture(scope="module")
def serve() -> Iterator[Serve]:
    """Return what serves with the options given; tests that ask for the same share a server."""
    with ExitStack() as running:
        yield cache(lambda *options: running.enter_context(served(*options)))


# koko


def test_version_names_codec_loop_tls_and_deflate() -> None:
    done = koko("--version")
    said = (
        r"koko \S+ \(codec: (native|pure), loop: (uvloop \S+|asyncio), "
        r"TLS: (aiofastnet \S+|the loop), deflate: (isal \S+|zlib)\)\n"
        r"(the native codec is not used: .+\n)?"
    )
    assert done.returncode == 0
    assert re.fullmatch(said, done.stdout.decode())


@pytest.mark.once
def test_koko_without_a_command_shows_how_it_is_used() -> None:
    done = koko()
    assert done.returncode == 2
    assert b"usage: koko" in done.stderr


# koko serve


@pytest.mark.once
@FACES
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_closes_every_connection_with_1001_and_exits_0(face: str, number: int) -> None:
    with served("--face", face) as server, ExitStack() as open_ones:
        conns = [open_ones.enter_context(dial(url(server), proxy=None)) for _ in range(3)]
        for conn in conns:
            conn.ping(timeout=PATIENCE)
        server.process.send_signal(number)
        for conn in conns:
            with pytest.raises(CloseError) as closed:
                conn.recv(timeout=PATIENCE)
            assert closed.value.code == 1001
        assert server.process.wait(PATIENCE) == 0


@FACES
def test_echo_sends_text_and_binary_back(face: str, serve: Serve) -> None:
    with dial(url(serve("--face", face)), proxy=None) as conn:
        for message in ("grüße", b"\x00\xff", "", b""):
            conn.send(message)
            assert conn.recv(timeout=PATIENCE) == message


@pytest.mark.once
@FACES
def test_broadcast_reaches_every_connection_the_sender_too(face: str) -> None:
    with served("--face", face, verb="broadcast") as server, ExitStack() as open_ones:
        conns = [open_ones.enter_context(dial(url(server), proxy=None)) for _ in range(3)]
        for conn in conns:
            conn.send(b"here")  # heard by itself: then it is known
            while conn.recv(timeout=PATIENCE) != b"here":
                pass
        conns[0].send("to everybody")
        for conn in conns:
            while (heard := conn.recv(timeout=PATIENCE)) == b"here":
                pass
            assert heard == "to everybody"


def test_one_who_does_not_read_does_not_stop_a_broadcast_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(with_sync, "PATIENCE", 0.1)
    with (
        answering(with_sync.Audience().broadcast) as address,
        dial(address, proxy=None) as deaf,
        dial(address, proxy=None) as talks,
    ):
        for _ in range(16):
            talks.send(bytes(1 << 20))
            assert len(talks.recv(timeout=PATIENCE)) == 1 << 20
        deaf.abort()


def test_one_who_does_not_read_does_not_stop_a_broadcast_of_tasks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(with_aio, "PATIENCE", 0.1)

    async def talk() -> None:
        async with aio.Server(with_aio.Audience().broadcast, "127.0.0.1", 0) as server:
            address = "ws://{}:{}/".format(*server.address)
            deaf = await aio.dial(address, proxy=None)
            async with aio.dial(address, proxy=None) as talks:
                for _ in range(16):
                    await talks.send(bytes(1 << 20))
                    assert len(await talks.recv(timeout=PATIENCE)) == 1 << 20
            deaf.abort()

    asyncio.run(talk())


@pytest.mark.once
@FACES
def test_message_past_the_read_limit_is_closed_with_1009(face: str) -> None:
    with served("--face", face, "--read-limit", "10") as server:
        with dial(url(server), proxy=None) as conn:
            conn.send("ten bytes.")
            assert conn.recv(timeout=PATIENCE) == "ten bytes."
            conn.send("eleven bytes")
            with pytest.raises(CloseError) as closed:
                conn.recv(timeout=PATIENCE)
        assert closed.value.code == 1009


@pytest.mark.once
@FACES
@pytest.mark.parametrize(
    ("options", "origin"),
    [
        ((), None),
        (("--origin", "http://a.example"), None),
        (("--origin", "http://a.example", "--origin", "http://b.example"), "http://b.example"),
        (("--origin", "*"), "http://elsewhere.example"),
    ],
)
def test_origin_that_was_named_is_let_in(
    face: str, options: tuple[str, ...], origin: str | None, serve: Serve
) -> None:
    headers = {"Origin": origin} if origin else {}
    with dial(url(serve("--face", face, *options)), headers=headers, proxy=None) as conn:
        assert conn.response.status == 101


@pytest.mark.once
@FACES
@pytest.mark.parametrize("options", [(), ("--origin", "http://a.example")])
def test_origin_that_was_not_named_is_refused(
    face: str, options: tuple[str, ...], serve: Serve
) -> None:
    headers = {"Origin": "http://elsewhere.example"}
    with pytest.raises(ErrBadHandshake) as refusal:
        dial(url(serve("--face", face, *options)), headers=headers, proxy=None)
    assert refusal.value.status == 403


@pytest.mark.once
@FACES
@pytest.mark.parametrize(
    "options", [(), ("--trusted-proxy", "::1", "--trusted-proxy", "127.0.0.1")]
)
def test_a_proxy_that_is_trusted_says_which_host_was_asked_for(
    face: str, options: tuple[str, ...], serve: Serve
) -> None:
    headers = {"Origin": "https://app.example", "X-Forwarded-Host": "app.example"}
    with ExitStack() as stack:
        if not options:
            stack.enter_context(pytest.raises(ErrBadHandshake, match="403"))
        dial(url(serve("--face", face, *options)), headers=headers, proxy=None).close()


@FACES
@pytest.mark.parametrize("options", [(), ("--compression",)])
def test_compression_is_agreed_on_when_asked_for(
    face: str, options: tuple[str, ...], serve: Serve
) -> None:
    with dial(url(serve("--face", face, *options)), compression=True, proxy=None) as conn:
        assert ("Sec-WebSocket-Extensions" in conn.response.headers) == bool(options)
        conn.send("a" * 5000)
        assert conn.recv(timeout=PATIENCE) == "a" * 5000


@pytest.mark.once
@FACES
def test_certificate_makes_it_wss(face: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    certificate.cert_chain_pems[0].write_to_path(chain)
    certificate.private_key_pem.write_to_path(key)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with served("--face", face, "--certfile", str(chain), "--keyfile", str(key)) as server:
        with dial(url(server, "wss"), ssl=context, proxy=None) as conn:
            conn.send("hello")
            assert conn.recv(timeout=PATIENCE) == "hello"
        trusting = koko("dial", "--insecure", url(server, "wss"), stdin="hello\n")
        assert (trusting.returncode, trusting.stdout) == (0, b"hello\n")
        assert "certificate verify failed" in complaint(koko("dial", url(server, "wss")))


@pytest.mark.once
@FACES
def test_handshake_that_takes_too_long_is_dropped(face: str) -> None:
    with (
        served("--face", face, "--handshake-timeout", "0.1") as server,
        socket.create_connection((server.host, server.port)) as silent,
    ):
        silent.settimeout(PATIENCE)
        silent.sendall(b"GET / HTTP/1.1\r\n")
        assert silent.recv(1) == b""


@pytest.mark.once
@FACES
def test_silent_peer_is_pinged_after_the_ping_interval(face: str) -> None:
    class PingedError(Exception):
        """The server pinged."""

    def pinged(payload: bytes) -> None:
        raise PingedError

    with (
        served("--face", face, "--ping-interval", "0.1") as server,
        dial(url(server), proxy=None) as conn,
    ):
        conn.ping_handler = pinged
        with pytest.raises(PingedError):  # what a handler raises is raised to the receiver
            conn.recv(timeout=PATIENCE)


@pytest.mark.once
@FACES
@pytest.mark.parametrize("options", [(), ("--quiet",)])
def test_end_of_a_connection_is_one_log_line_unless_quiet(
    face: str, options: tuple[str, ...]
) -> None:
    command = [*KOKO, "serve", "echo", "--port", "0", "--face", face, *options]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().removeprefix("listening on ").strip()
        dial(address, proxy=None).close()
        server.terminate()
        said, logged = server.communicate(timeout=PATIENCE)
    assert (server.returncode, said) == (0, "")
    ends = [line for line in logged.splitlines() if re.search(r" /: .* closed with ", line)]
    assert len(ends) == (0 if options else 1), logged


@pytest.mark.once
@FACES
def test_port_in_use_is_one_sentence(face: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "in use" in complaint(koko("serve", "echo", "--port", port, "--face", face))


@pytest.mark.once
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--read-limit", "-1"), "read_limit=-1"),
        (("--handshake-timeout", "0"), "handshake_timeout=0"),
        (("--origin", "elsewhere.example"), "elsewhere.example"),
        (("--keyfile", "key.pem"), "--keyfile key.pem needs --certfile"),
        (("--certfile", "no-such-file.pem"), "no-such-file.pem"),
        (("--face", "sync", "--loop", "uvloop"), "threads need no event loop"),
    ],
)
def test_option_that_cannot_be_is_one_sentence(options: tuple[str, ...], sentence: str) -> None:
    assert sentence in complaint(koko("serve", "echo", "--port", "0", *options))


@pytest.mark.once
def test_uvloop_asked_for_and_missing_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert main(["serve", "echo", "--loop", "uvloop", "--quiet"]) == 1
    assert "pip install 'koko[speed]'" in capsys.readouterr().err
    assert with_aio.loop_factory("auto") is with_aio.loop_factory("asyncio")
