"""uvicorn as a process of its own, started as its users start it."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trustme

from tests.adapters.conftest import ROOT, Site, said, stop

APP = "tests.adapters.asgi_site:app"
CLASS = "koko.uvicorn:Protocol"
RUNNING = re.compile(r"Uvicorn running on (?:https?://127\.0\.0\.1:)?(\S+)")


@contextmanager
def started(
    log: Path,
    *arguments: str,
    folder: Path = ROOT,
    wait_for: re.Pattern[str] = RUNNING,
    **environment: str,
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run Python with these arguments in a folder; yield the process and what was waited for."""
    with log.open("w") as complaints:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env={**os.environ, **environment, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"},
            stdout=complaints,
            stderr=complaints,
        )
    try:
        yield process, said(process, log, wait_for)
    finally:
        stop(process)


@contextmanager
def serving(
    log: Path, *options: str, tls: ssl.SSLContext | None = None, ws: str = CLASS, **env: str
) -> Iterator[Site]:
    """Run the site in uvicorn with these options."""
    command = ["-m", "uvicorn", APP, "--port", "0", "--ws", ws, *options]
    with started(log, *command, **env) as (_, port):
        yield Site("uvicorn", int(port), tls, log)


def with_tls(authority: trustme.CA, folder: Path) -> tuple[list[str], ssl.SSLContext]:
    """Return uvicorn's options for TLS, and what a client needs."""
    issued = authority.issue_cert("localhost", "127.0.0.1")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(str(certificate))
    issued.private_key_pem.write_to_path(str(key))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return ["--ssl-certfile", str(certificate), "--ssl-keyfile", str(key)], context
