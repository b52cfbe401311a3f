"""uvicorn's own WebSocket tests, run against ``koko.uvicorn:Protocol``.

    python compliance/uvicorn_tests.py [--version 0.54.0] [arguments of pytest]

The tests come with uvicorn's sdist, which is fetched once and unpacked under build/; nothing of
it is kept here. pytest loads this file as a plugin: each test that would run on both of uvicorn's
own WebSocket classes runs on ours. (Those of ``ws_max_size`` name a class themselves, and stay.)
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "uvicorn"
NEWEST = "0.54.0"
TESTS = "tests/protocols/test_websocket.py"

# Two ask by isinstance for uvicorn's own classes, on each HTTP protocol.
THEIR_OWN = "not test_server_keepalive_ping_pong and not test_server_keepalive_disabled"
# This one wants reading to stop at the first message that nobody has received. Ours reads up to
# 64 KiB ahead, or else it would not notice an end; it can be told not to.
READS_NOTHING_AHEAD = "test_close_resumes_reads_paused_on_an_unconsumed_message"


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: Any) -> None:
    """Put our class in the place of the list in uvicorn's conftest."""
    strict = metafunc.function.__name__ == READS_NOTHING_AHEAD
    for fixture in metafunc._arg2fixturedefs.get("ws_protocol_cls", ()):
        fixture.params = [f"{__name__}:reads_nothing_ahead" if strict else "koko.uvicorn:Protocol"]
        fixture.ids = ["koko"]
    # Their stand-in for a transport lacks what asyncio's have. A busy machine calls it: the wait
    # for a Close of no time at all is over there before the test looks.
    if stand_in := getattr(metafunc.module, "MockWriteTransport", None):
        stand_in.get_write_buffer_size = lambda _: 0
        stand_in.abort = stand_in.close


def __getattr__(name: str) -> Any:
    if name != "reads_nothing_ahead":
        raise AttributeError(name)
    from koko.uvicorn import Protocol

    return type(name, (Protocol,), {"read_ahead": 1})


def unpacked(version: str) -> Path:
    """Return where the sdist of a version is, fetched if need be."""
    found = BUILD / f"uvicorn-{version}"
    if not (found / TESTS).exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        wanted = [
            "--no-deps",
            "--no-binary",
            "uvicorn",
            "--dest",
            str(BUILD),
            f"uvicorn=={version}",
        ]
        subprocess.run([*pip, *wanted], check=True)
        with tarfile.open(next(BUILD.glob(f"uvicorn-{version}.tar.*"))) as sdist:
            sdist.extractall(BUILD, filter="data")
    return found


def main() -> int:
    """Run them."""
    parser = argparse.ArgumentParser(description="Run uvicorn's WebSocket tests on Koko.")
    parser.add_argument("--version", default=NEWEST)
    args, more = parser.parse_known_args()
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-o",
        "addopts=",
        "-p",
        Path(__file__).stem,
        "-p",
        "no:asyncio",  # their tests use anyio's; this one warns, and their warnings are errors
        "-k",
        THEIR_OWN,
    ]
    done = subprocess.run(
        [*command, *more, TESTS], cwd=unpacked(args.version), env={**os.environ, "PYTHONPATH": path}
    )
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
