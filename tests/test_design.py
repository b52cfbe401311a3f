"""The page for contributors names what is there: every file and function on it exists.

And every source file is on it, so that whoever adds or renames one comes by the page. What
``docs/defaults.md`` says is compared with the options themselves.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from koko.aio import Server
from koko.core.options import ConnectionOptions
from koko.dialing import Dialer
from koko.reconnecting import Backoff
from koko.upgrading import Upgrader

pytestmark = pytest.mark.once

HOUSE = Path(__file__).parent.parent
SOURCE = HOUSE / "src" / "koko"
PAGE = (HOUSE / "docs" / "design.md").read_text("utf-8")

FACES = ("sync", "aio")  # a bare name may be that of a file on each

A_FILE = r"`([\w./]+\.(?:pyx?|pxd))`"
A_FOLDER = r"`(\w+/(?:\w+/)?)`"
A_FUNCTION = r"`([A-Z]\w*\.\w+|\w+)`"  # of a class, or a name

# What the page says of code, and no source of ours defines.
NOT_OURS = {
    *("SSLSocket", "CancelledError", "SystemExit", "KeyboardInterrupt", "ValueError"),
    *("call_soon", "finally", "is_client", "Host", "break", "isal", "KOKO_CODEC"),
    "ssl_shutdown_timeout",
}


def section(title: str) -> str:
    """Return what stands under a heading, up to the next one of its depth."""
    depth = title.partition(" ")[0]
    (found,) = re.findall(rf"^{re.escape(title)}\n(.*?)(?=^{depth} |\Z)", PAGE, re.M | re.S)
    return str(found)


def rows(title: str) -> Iterator[list[str]]:
    """Yield the rows of the table under a heading, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    for line in lines[2:]:
        yield [cell.strip() for cell in line.strip("|").split("|")]


def path_of(name: str) -> Path | None:
    """Return where a file is that the page names: in the sources, or below the root."""
    return next((at for at in (SOURCE / name, HOUSE / name) if at.is_file()), None)


def defined(path: Path) -> set[str]:
    """Return the names that a file gives to anything: classes, functions, fields, arguments."""
    text = path.read_text("utf-8")
    if path.suffix != ".py":
        return set(re.findall(r"^\s*(?:cp?def|def|class)\b.*?(\w+)\s*[(:]", text, re.M))
    tree = ast.parse(text)
    names = set(_given(tree))
    for kind in ast.walk(tree):
        if isinstance(kind, ast.ClassDef):
            names |= {f"{kind.name}.{name}" for name in _given(kind)}
    return names


def _given(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name) | ast.FunctionDef(name) | ast.AsyncFunctionDef(name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name
            case ast.arg(arg=name):
                yield name


EVERYWHERE = set().union(*map(defined, SOURCE.rglob("*.py")))


# Files


def test_every_file_is_in_the_table_of_files():
    named = [
        f"{folder}/{name}".removeprefix("./")
        for folders, files in rows("## The files")
        for folder in folders.split(", ")
        for name in re.findall(A_FILE, files)
    ]
    there = [
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py*")
        if path.suffix in (".py", ".pyx") and path.name != "__init__.py"
    ]
    assert sorted(named) == sorted(there), "docs/design.md: the table of files"


def test_every_file_that_the_page_names_exists():
    table = section("## The files").partition("\n\nTests")[0]
    named = set(re.findall(A_FILE, PAGE.replace(table, "")))
    gone = {
        name
        for name in named
        if path_of(name) is None and not any((SOURCE / face / name).is_file() for face in FACES)
    }
    assert not gone


def test_every_folder_that_the_page_names_exists():
    named = set(re.findall(A_FOLDER, PAGE))
    assert [name for name in named if not (HOUSE / name).is_dir()] == []


# Functions


@pytest.mark.parametrize("row", [*rows("## Where is ...?")], ids=lambda row: row[0])
def test_what_is_asked_for_is_in_the_files_beside_it(row):
    _, files, names = row
    # Of twins the one in Python counts: another test compares the two.
    paths = [path_of(name) for name in re.findall(A_FILE, files) if name.endswith(".py")]
    assert paths
    known = set().union(*(defined(path) for path in paths if path is not None))
    asked = set(re.findall(A_FUNCTION, names))
    assert asked
    assert asked <= known


def test_each_step_of_a_message_is_in_the_file_beside_it():
    steps = re.findall(
        r"`(\w+(?:\.\w+)?)`\s+in\s+`([\w/]+\.py)`", section("## One message, there and back")
    )
    assert len(steps) > 10
    for function, name in steps:
        path = path_of(name)
        assert path is not None, name
        assert function in defined(path), f"{function} in {name}"


def test_every_function_that_the_page_names_exists():
    named = set(re.findall(A_FUNCTION, PAGE))
    plan = set().union(
        *map(defined, [HOUSE / "house" / "plan.py", HOUSE / "tests" / "test_walls.py"])
    )
    natives = set().union(*map(defined, SOURCE.rglob("*.pyx")))
    assert named - EVERYWHERE - plan - natives - NOT_OURS == set()


def test_every_entry_of_what_is_not_ours_is_still_said():
    assert {name for name in NOT_OURS if f"`{name}`" not in PAGE} == set()


# Links


@pytest.mark.parametrize("page", sorted((HOUSE / "docs").glob("*.md")), ids=lambda page: page.name)
def test_every_link_of_a_page_leads_to_a_file(page):
    links = re.findall(r"\]\(([^):#]+)[^):]*\)", page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


# Defaults


def defaults() -> dict[str, Any]:
    """Return the default of each option that has one."""
    options: dict[str, Any] = {"max_connections": Server.__init__.__kwdefaults__["max_connections"]}
    for kind in (ConnectionOptions, Upgrader, Dialer, Backoff):
        for option in fields(kind):
            if option.default is not MISSING:
                options[option.name] = option.default
    return options


DEFAULTS = re.findall(
    r"^\| `(\w+)` \| (\w+) \|", (HOUSE / "docs" / "defaults.md").read_text("utf-8"), re.M
)


@pytest.mark.parametrize(("option", "said"), DEFAULTS)
def test_the_default_of_an_option_is_the_one_on_the_page(option, said):
    assert defaults()[option] == ast.literal_eval(said)


def test_the_page_of_defaults_has_every_option_of_a_connection():
    assert {option.name for option in fields(ConnectionOptions)} <= {name for name, _ in DEFAULTS}
