"""Starlette on Koko: the application of its page."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from koko import CloseError
from tests.adapters.conftest import PATIENCE
from tests.frameworks.served import Served, serving
from tests.pages import written

pytestmark = [pytest.mark.once, pytest.mark.integration("uvicorn", "starlette")]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("starlette")
    written("starlette.md", folder)
    with serving(folder, "main:app", log=folder / "log", failures=1) as served:
        yield served


def test_an_endpoint_that_is_a_class(page: Served) -> None:
    conn = page.dial("/echo", subprotocols=["v2", "v1"])
    assert conn.subprotocol == "v1"
    conn.write_json(["café"])
    assert conn.read_json() == {"echo": ["café"]}
    conn.close(4123)
    page.comes("/ended", "4123")


def test_text_that_is_no_json_is_an_error_and_a_close_with_1003(page: Served) -> None:
    conn = page.dial("/echo")
    conn.send("{")
    with pytest.raises(CloseError) as end:
        conn.recv(PATIENCE)
    assert end.value.code == 1003


def test_an_endpoint_denies_sends_and_ends(page: Served) -> None:
    refused = page.refused("/market/prices")
    assert (refused.status, refused.response.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert page.refused("/market/elsewhere").status == 403
    conn = page.dial("/market/prices", headers={"Authorization": "Bearer ada"})
    assert [conn.recv(PATIENCE) for _ in range(3)] == ["1.10", "1.20", "1.15"]
    with pytest.raises(CloseError, match="that was all"):
        conn.recv(PATIENCE)


def test_the_test_of_the_page_passes(tmp_path: Path) -> None:
    written("starlette.md", tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_main.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
