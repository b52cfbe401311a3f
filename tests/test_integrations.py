"""docs/integrations.md has every test inside the servers and frameworks of others, and no other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from house.integrations import NAMED, OF_NPM, PAGE, PROGRAMS, ROOT, renewed

pytestmark = pytest.mark.once

FOLDERS = ("adapters", "frameworks", "first_hours")
# Packages that something on the page needs, but that nobody comes to Koko with.
MEANS = {"h11", "h2", "zttp", "wsproto", "httpx2"}


def page() -> str:
    return PAGE.read_text("utf-8")


def asked_for() -> set[str]:
    """Return the packages of the extra ``integrations``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]["integrations"]
    return {re.split(r"[\[<>=;]", requirement)[0] for requirement in extra}


def test_every_test_file_is_in_a_row_and_every_row_names_files() -> None:
    tests = Path(__file__).parent
    there = {f"{folder}/{f.name}" for folder in FOLDERS for f in (tests / folder).glob("test_*.py")}
    assert set(re.findall(r"`(\w+/test_\w+\.py)`", page())) == there


def test_every_package_that_is_installed_for_it_has_its_version() -> None:
    named = {name for name, _ in NAMED.findall(page())} - {*PROGRAMS, *OF_NPM}
    assert named == asked_for() - MEANS


def test_the_versions_are_those_installed_and_nothing_else_is_changed() -> None:
    old = NAMED.sub(r"`\1` 0.0", page())
    new = renewed(old)
    assert "`uvicorn` 0.0" in old
    assert NAMED.sub(r"`\1` 0.0", new) == old
    assert renewed(new) == new


def test_every_row_says_a_result() -> None:
    rows = [line for line in page().splitlines() if line.startswith("| ") and "test_" in line]
    assert len(rows) > 20
    assert [row for row in rows if not re.search(r"[A-Z][^|]+ \|$", row)] == []
