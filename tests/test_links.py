"""Every link of a page to this project leads to a file that exists, and to a heading of it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.once
ROOT = Path(__file__).parents[1]
FOLDERS = ("", "docs", "bench", "examples", "compliance", "fuzz", "fuzz/sanitize", "tests")
PAGES = sorted(page for folder in FOLDERS for page in (ROOT / folder).glob("*.md"))
LINK = re.compile(r"\]\(([^)#: ]*)(?:#([^) ]+))?\)")
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the names that GitHub gives to the headings of a page."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)", CODE.sub("", page.read_text("utf-8")), re.MULTILINE):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        found.add(name if name not in found else f"{name}-1")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    astray = []
    for file, heading in LINK.findall(CODE.sub("", page.read_text("utf-8"))):
        there = page.parent / file if file else page
        if not there.exists() or (heading and heading not in anchors(there)):
            astray.append(f"{file}#{heading}" if heading else file)
    assert astray == []


def test_no_page_is_forgotten() -> None:
    known = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    assert {ROOT / page for page in known} <= set(PAGES)
