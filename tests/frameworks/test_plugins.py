"""``koko.testing`` under the plugins that run asynchronous tests, each in a pytest of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.once,
    pytest.mark.integration("pytest_asyncio", "fastapi", "uvloop"),
]

INI = """
[pytest]
pythonpath = .
filterwarnings = error
"""
ASYNCIO = "asyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"


@pytest.mark.parametrize(
    ("tests", "ini", "other", "passed"),
    [
        ("with_pytest_asyncio.py", INI + ASYNCIO, "anyio", "6 passed, 1 xfailed"),
        ("with_anyio.py", INI, "asyncio", "6 passed, 2 xfailed"),
    ],
    ids=["pytest-asyncio", "anyio"],
)
def test_fixtures_hold_connections(
    tests: str, ini: str, other: str, passed: str, tmp_path: Path
) -> None:
    for file in (tests, "plugins_site.py"):
        shutil.copy(HERE / file, tmp_path)
    (tmp_path / "pytest.ini").write_text(ini)
    command = [sys.executable, "-m", "pytest", "-q", "-p", f"no:{other}", tests]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert passed in run.stdout, run.stdout + run.stderr
    assert run.returncode == 0
