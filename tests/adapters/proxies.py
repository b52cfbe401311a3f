"""Proxies of others in front of a server, each with its file under docs/proxies.

The files are what users copy: nothing is changed in them but ports, the certificate, and where a
process that is nobody's service may write.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

from compliance.ports import free_port

FILES = Path(__file__).parent.parent.parent / "docs" / "proxies"
HOST = "app.example"
PATIENCE = 10.0  # seconds after which a test has failed; nothing waits so long
STARTUP = 60.0  # and for a proxy to start or to end
SCRATCH = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]  # where nginx keeps large bodies


@dataclass
class Proxy:
    """A running proxy, and where it said what it had to say."""

    port: int
    log: Path


def program(name: str) -> str | None:
    """Return where a program is; daemons are out of the way of those who are not root."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def certificate(authority: trustme.CA, folder: Path) -> tuple[Path, Path]:
    """Write a certificate of the host with its key, and the key by itself."""
    issued = authority.issue_cert(HOST)
    whole, key = folder / "app.pem", folder / "app.key"
    issued.private_key_and_cert_chain_pem.write_to_path(str(whole))
    issued.private_key_pem.write_to_path(str(key))
    return whole, key


def written_for(
    name: str, port: int, to: int, pems: tuple[Path, Path], folder: Path, changed: dict[str, str]
) -> str:
    """Return a file as it is run here; ``changed`` are other words for some that are in it."""
    text = (FILES / name).read_text("utf-8")
    for old, new in changed.items():
        assert old in text, f"{name} has no {old!r}"
        text = text.replace(old, new)
    text = text.replace("/etc/ssl/app.example.pem", str(pems[0]))
    text = text.replace("/etc/ssl/app.example.key", str(pems[1]))
    text = text.replace("127.0.0.1:8765", f"127.0.0.1:{to}")
    text = re.sub(r"(listen |bind :|app\.example:)443\b", rf"\g<1>{port}", text)
    text = text.replace(f"listen {port}", f"listen 127.0.0.1:{port}")
    text = text.replace(f"bind :{port}", f"bind 127.0.0.1:{port}")
    scratch = "".join(f"{each}_temp_path {folder}/{each};" for each in SCRATCH)
    text = text.replace("\nhttp {", f"\nhttp {{ access_log off; {scratch}")
    if name == "Caddyfile":
        text = "{\n\tadmin off\n\tauto_https disable_redirects\n}\n" + text
    return text


def command(name: str, file: Path, folder: Path) -> list[str]:
    what = name.partition(".")[0].partition("-")[0]
    if what == "nginx":
        setting = f"daemon off; pid {folder}/pid; error_log stderr;"
        if os.geteuid() == 0:
            setting += " user root;"  # pytest's folders are nobody else's
        return [program("nginx") or "nginx", "-c", str(file), "-g", setting]
    if what == "haproxy":
        return [program("haproxy") or "haproxy", "-db", "-f", str(file)]
    caddy = program("caddy") or "caddy"
    return [caddy, "run", "--config", str(file), "--adapter", "caddyfile"]


@contextmanager
def running(
    name: str,
    to: int,
    authority: trustme.CA,
    folder: Path,
    changed: dict[str, str] | None = None,
) -> Iterator[Proxy]:
    """Run a proxy by its file, in front of a port."""
    port, log = free_port(), folder / "log"
    pems = certificate(authority, folder)
    text = written_for(name, port, to, pems, folder, changed or {})
    file = folder / name
    file.write_text(text)
    homes = dict.fromkeys(["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"], str(folder))
    with log.open("w") as complaints:
        process = subprocess.Popen(
            command(name, file, folder),
            env={**os.environ, **homes},
            stdout=complaints,
            stderr=complaints,
        )
    try:
        _wait_for(port, process, log)
        yield Proxy(port, log)
    finally:
        process.terminate()
        try:
            process.wait(STARTUP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up_at = time.monotonic() + STARTUP
    while True:
        assert process.poll() is None, f"it ended with {process.returncode}: {log.read_text()}"
        assert time.monotonic() < give_up_at, f"it never listened: {log.read_text()}"
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
