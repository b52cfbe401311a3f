"""Views inside uWSGI, which tells the descriptor of a connection and nothing else."""

from __future__ import annotations

import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import pytest
import trustme

from compliance.ports import free_port
from koko import CloseError, ErrBadHandshake
from koko.sync import dial
from tests.adapters.conftest import PATIENCE, ROOT, said, stop

# ``uwsgi`` itself can be imported inside of it only.
pytestmark = [pytest.mark.once, pytest.mark.integration("uwsgidecorators", "flask")]
READY = re.compile(r"(spawned uWSGI worker 1 )")
THREADS = ["--threads", "2"]


@contextmanager
def uwsgi(
    log: Path, kind: str, *options: str, more: str = ""
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run the Flask site; give its address, and the process."""
    address = f"127.0.0.1:{free_port()}"
    command = [
        os.path.join(sys.prefix, "bin", "uwsgi"), kind, address + more, *options, "--master",
        "--die-on-term", "--virtualenv", sys.prefix, "--pythonpath", str(ROOT),
        "--wsgi", "tests.adapters.uwsgi_site",
    ]  # fmt: skip
    with log.open("w") as told:
        process = subprocess.Popen(command, cwd=ROOT, stdout=told, stderr=told)
    try:
        said(process, log, READY)
        yield address, process
    finally:
        stop(process)
    assert "Traceback" not in log.read_text()
    assert "Broken pipe" not in log.read_text()


def get(site: str) -> str:
    with build_opener(ProxyHandler({})).open(f"http://{site}/", timeout=PATIENCE) as answer:
        return str(answer.read().decode())


@pytest.mark.parametrize(
    "options",
    [
        ["--http-socket", *THREADS],
        ["--http-socket", "--enable-threads"],
        ["--http", "--http-websockets", *THREADS],
    ],
    ids=["threads", "one thread", "router"],
)
def test_ten_conversations_and_pages_are_served(options: list[str], tmp_path: Path) -> None:
    with uwsgi(tmp_path / "log", *options) as (site, _), ExitStack() as conns:
        talks = [
            conns.enter_context(dial(f"ws://{site}/talk/{number}", proxy=None))
            for number in range(10)
        ]
        for _ in range(2):
            for number, conn in enumerate(talks):
                conn.send("hello")
                assert str(conn.recv(PATIENCE)).endswith(f"/talk/{number}, None: hello")
            assert get(site)
        with dial(f"ws://{site}/free", proxy=None) as conn:
            conn.recv(PATIENCE)
            assert conn.ping(timeout=PATIENCE) > 0
        assert str(conn.ending) == "we closed with 1000 (normal); peer answered 1000"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_those_who_have_threads_of_their_own_are_told_goodbye(
    number: signal.Signals, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with uwsgi(log, "--http-socket", *THREADS) as (site, process), ExitStack() as conns:
        talks = [conns.enter_context(dial(f"ws://{site}/free", proxy=None)) for _ in range(3)]
        for conn in talks:
            conn.recv(PATIENCE)
        # While a request is under way, uWSGI does not call what is to be called at its end.
        said(process, log, re.compile("(?s)((?:GET /free => .*?){3})"))
        process.send_signal(number)
        for conn in talks:
            with pytest.raises(CloseError) as closed:
                conn.recv(PATIENCE)
            assert closed.value.code == 1001
        said(process, log, re.compile("(?s)((?:handler ended: we closed with 1001.*?){3})"))


def test_without_threads_it_is_told_to_add_them(tmp_path: Path) -> None:
    with uwsgi(tmp_path / "log", "--http-socket") as (site, _):
        with pytest.raises(ErrBadHandshake, match="add --enable-threads") as refused:
            dial(f"ws://{site}/free", proxy=None)
    assert refused.value.status == 500


def test_tls_that_it_ends_itself_is_refused(tmp_path: Path, authority: trustme.CA) -> None:
    pem, context = tmp_path / "pem", ssl.create_default_context()
    authority.configure_trust(context)
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pem))
    with uwsgi(tmp_path / "log", "--https-socket", *THREADS, more=f",{pem},{pem}") as (site, _):
        with pytest.raises(ErrBadHandshake, match="let a proxy end TLS") as refused:
            dial(f"wss://{site}/free", ssl=context, proxy=None)
    assert refused.value.status == 500
