"""The walls of the house: a module imports only from rows above its own.

Reads the imports of every module; what only a type checker imports does not count.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

SOURCE = Path(__file__).parent.parent / "src" / "koko"

ROWS = (
    ("errors", "http", "message", "misuse", "native"),
    ("core", "opening"),
    ("__init__",),  # the names that belong to neither face
    (
        "dial_progress",
        "dialing",
        "upgrading",
        "hijacking",
        "hung_up",
        "broadcasting",
        "listening",
        "places",
        "reconnecting",
        "serving",
        "send_queue",
    ),
    ("sync", "aio"),
    ("adapters",),
    ("cli", "__main__"),
)
ROW = {room: row for row, rooms in enumerate(ROWS) for room in rooms}

PURE = {"socket", "ssl", "threading", "asyncio", "time", "select", "selectors", "subprocess"}
FORBIDDEN = {
    "errors": PURE,
    "http": PURE,
    "message": PURE,
    "misuse": PURE,
    "native": PURE,
    "core": PURE,
    "opening": PURE,
    "dial_progress": PURE,
    "dialing": PURE,
    "upgrading": PURE,
    "hijacking": PURE - {"socket", "ssl"},  # it moves sockets, and waits for nothing
    "hung_up": PURE - {"select"},  # it asks the system, and waits for nothing
    "send_queue": PURE - {"socket"},  # it asks the system, and waits for nothing
    "broadcasting": PURE,
    "listening": PURE - {"socket"},  # it binds, and waits for nothing
    "places": PURE,
    "reconnecting": PURE,
    "serving": PURE,
    "sync": {"asyncio"},
    "aio": set(),
    "adapters": set(),
    "cli": set(),
    "__init__": PURE,
    "__main__": PURE,
}


def room_of(path: Path) -> str:
    """Return the room of the house that a file belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Yield the full name of each module, or name in a module, that a file imports."""
    package = ["koko", *path.relative_to(SOURCE).parts[:-1]]
    if path.suffix == ".pyx":
        yield from re.findall(r"^\s*(?:from|c?import) +([\w.]+)", path.read_text(), re.MULTILINE)
    else:
        yield from imported(ast.parse(path.read_text()), package)


def imported(node: ast.AST, package: list[str]) -> Iterator[str]:
    """Yield what this piece of a module in ``package`` imports when it runs."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package[: len(package) - node.level + 1] if node.level else []
        module = ".".join([*above, *([node.module] if node.module else [])])
        yield from (f"{module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        for child in node.orelse:
            yield from imported(child, package)
    else:
        for child in ast.iter_child_nodes(node):
            yield from imported(child, package)


MODULES = sorted([*SOURCE.rglob("*.py"), *SOURCE.rglob("*.pyx")])
each_module = pytest.mark.parametrize(
    "path", MODULES, ids=lambda path: str(path.relative_to(SOURCE))
)


def rooms(path: Path) -> set[str]:
    """Return the rooms that a file imports from."""
    ours = [name.split(".") for name in imports(path) if name.split(".")[0] == "koko"]
    return {parts[1] if len(parts) > 1 and parts[1] in ROW else "__init__" for parts in ours}


@each_module
def test_every_module_imports_only_from_rows_above_its_own(path):
    own = room_of(path)
    below = {room for room in rooms(path) if ROW[room] > ROW[own]}
    assert not below, f"{own} is above {below}"


@each_module
def test_frames_and_handshakes_know_nothing_of_each_other(path):
    if room_of(path) in ("core", "opening"):
        assert not {"core", "opening"} - {room_of(path)} & rooms(path)


@each_module
def test_the_faces_know_nothing_of_each_other(path):
    if room_of(path) in ("sync", "aio"):
        assert not {"sync", "aio"} - {room_of(path)} & rooms(path)


@each_module
def test_no_module_imports_what_its_room_must_not_know(path):
    known = {name.split(".")[0] for name in imports(path)}
    assert not known & FORBIDDEN[room_of(path)]


def test_every_room_stands_in_a_row():
    assert {room_of(path) for path in MODULES} <= set(ROW)


def test_every_form_of_import_is_seen():
    tree = ast.parse(
        "import a.b, c\n"
        "from d import e as f\n"
        "from . import g\n"
        "from .h import i\n"
        "from ..j import k\n"
        "def late():\n    import l\n"
        "try:\n    import m\nexcept ImportError:\n    import n\n"
        "if TYPE_CHECKING:\n    import o\nelse:\n    import p\n"
    )
    assert list(imported(tree, ["koko", "core"])) == [
        "a.b", "c", "d.e", "koko.core.g", "koko.core.h.i", "koko.j.k", "l", "m", "n", "p",
    ]  # fmt: skip
