"""Which module of Koko imports which, read from the sources and never run.

Every import counts: relative ones, those inside a function, those that only a type checker
sees, and what a ``.pyx`` or a ``.pxd`` cimports. What ``importlib`` is told by name is not an
import here: with it the command and the codecs choose.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "koko"

# from a.b import c, d | from a.b cimport (c, d) | import a.b, c | cimport a.b as c
CYTHON_FROM = re.compile(r"^[ \t]*from +([\w.]+) +c?import +(\([^)]*\)|[^\n#]+)", re.MULTILINE)
CYTHON_IMPORT = re.compile(r"^[ \t]*c?import +([\w., ]+)", re.MULTILINE)

Graph = dict[str, set[str]]


def modules(source: Path = SOURCE) -> dict[str, list[Path]]:
    """Return the files of each module: one, or a ``.pyx`` and its ``.pxd``."""
    found: dict[str, list[Path]] = {}
    for path in sorted(path for kind in ("py", "pyx", "pxd") for path in source.rglob(f"*.{kind}")):
        parts = ["koko", *path.relative_to(source).with_suffix("").parts]
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.setdefault(name, []).append(path)
    return dict(sorted(found.items()))


def imported_names(path: Path, package: list[str]) -> Iterator[str]:
    """Yield the full name of each module, or name in a module, that a file imports."""
    if path.suffix == ".py":
        yield from in_python(path.read_text(), package)
    else:
        yield from in_cython(path.read_text(), package)


def in_python(text: str, package: list[str]) -> Iterator[str]:
    """Yield what a module of ``package`` imports, wherever in it that stands."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = absolute("." * node.level + (node.module or ""), package)
            yield from (f"{module}.{alias.name}" for alias in node.names)


def in_cython(text: str, package: list[str]) -> Iterator[str]:
    """Yield what a ``.pyx`` or ``.pxd`` of ``package`` imports and cimports."""
    for module, names in CYTHON_FROM.findall(text):
        for name in re.sub(r"#.*|[()\\]", " ", names).split(","):
            if name.strip():
                yield f"{absolute(module, package)}.{name.split()[0]}"
    for names in CYTHON_IMPORT.findall(text):
        yield from (name.split()[0] for name in names.split(",") if name.strip())


def absolute(module: str, package: list[str]) -> str:
    """Return the full name of what a module of ``package`` calls ``module``."""
    name = module.lstrip(".")
    level = len(module) - len(name)
    above = package[: len(package) - level + 1] if level else []
    return ".".join([*above, *([name] if name else [])])


def names_of(module: str, files: list[Path]) -> set[str]:
    """Return everything that a module imports, of Koko and of others."""
    is_package = files[0].stem == "__init__"
    package = module.split(".") if is_package else module.split(".")[:-1]
    return {name for path in files for name in imported_names(path, package)}


def graph(source: Path = SOURCE) -> Graph:
    """Return which modules of Koko each of them imports."""
    known = modules(source)
    edges: Graph = {}
    for module, files in known.items():
        owners = (owner(name, known) for name in names_of(module, files))
        edges[module] = {other for other in owners if other is not None and other != module}
    return edges


def owner(name: str, known: Mapping[str, object]) -> str | None:
    """Return the module that a full name is, or is found in, if it is one of Koko's."""
    for module in (name, name.rpartition(".")[0]):
        if module in known:
            return module
    return None


def circles(edges: Graph) -> list[list[str]]:
    """Return the groups of modules in which each can be reached from each other one."""
    reached = {module: reachable(module, edges) for module in edges}
    groups = {
        frozenset(other for other in reached[module] if module in reached[other])
        for module in edges
        if module in reached[module]
    }
    return sorted(sorted(group) for group in groups)


def reachable(start: str, edges: Graph) -> set[str]:
    """Return what ``start`` imports, directly or through others; itself only in a circle."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = edges[waiting.pop()] - found
        found |= new
        waiting += new
    return found
