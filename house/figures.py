"""The house in figures: functions, files, classes and what they inherit, fields, circles.

``python -m house.figures [ROOT]`` counts another checkout as well.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

from house.imports import SOURCE, circles, graph

LARGEST = 8

# def, cdef and cpdef; what merely declares a C type or a value has no bracket and colon.
CYTHON_FUNCTION = re.compile(r"^([ \t]*)(?:async +)?(?:def|cdef|cpdef)\b[^=:#]*\b(\w+) *\(")
CYTHON_CLASS = re.compile(r"^[ \t]*(?:cdef +)?class +(\w+)(?:\(([\w., ]+)\))?:")


@dataclass
class Class:
    """A class, and what stands in its own body."""

    name: str
    file: str
    bases: list[str]
    fields: set[str] = field(default_factory=set)
    methods: set[str] = field(default_factory=set)


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


# Functions


def python_functions(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the length and the name of each function, docstring and signature included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.end_lineno - node.lineno + 1, node.name


def cython_functions(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the same of a ``.pyx``, by its indentation."""
    lines = lines_of(path)
    for start, line in enumerate(lines):
        found = CYTHON_FUNCTION.match(line)
        if found:
            body = _after_signature(lines, start)
            if body is not None:
                yield _end(lines, body, len(found[1])) - start, found[2]


def _after_signature(lines: list[str], start: int) -> int | None:
    """Return the line after the one that ends in a colon; None: it only declares."""
    open_brackets = 0
    for at in range(start, len(lines)):
        code = lines[at].partition("#")[0].rstrip()
        open_brackets += code.count("(") - code.count(")")
        if open_brackets == 0:
            return at + 1 if code.endswith(":") else None
    return None


def _end(lines: list[str], start: int, indent: int) -> int:
    end = start
    for at in range(start, len(lines)):
        if lines[at].strip():
            if len(lines[at]) - len(lines[at].lstrip()) <= indent:
                break
            end = at + 1
    return end


# Classes


def python_classes(path: Path, file: str) -> Iterator[Class]:
    """Yield each class with the fields that it declares or gives to itself."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            found = Class(node.name, file, [ast.unparse(base) for base in node.bases])
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    found.methods.add(inner.name)
                    found.fields |= set(_given(inner))
                elif isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
                    found.fields.add(inner.target.id)
            yield found


def _given(function: ast.AST) -> Iterator[str]:
    """Yield the names of ``self`` that a method assigns."""
    for node in ast.walk(function):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        ):
            yield node.attr


def cython_classes(path: Path, file: str) -> Iterator[Class]:
    """Yield each class of a ``.pyx`` with its bases only: its fields are in C."""
    for line in lines_of(path):
        found = CYTHON_CLASS.match(line)
        if found:
            bases = [base.strip() for base in (found[2] or "").split(",") if base.strip()]
            yield Class(found[1], file, bases)


def with_bases(one: Class, ours: list[Class]) -> Class:
    """Return a class with what it inherits from classes of ours."""
    whole = Class(one.name, one.file, one.bases, set(one.fields), set(one.methods))
    for base in bases_of_ours(one, ours):
        above = with_bases(base, ours)
        whole.fields |= above.fields
        whole.methods |= above.methods
    return whole


def bases_of_ours(one: Class, ours: list[Class]) -> list[Class]:
    """Return the bases that are classes of Koko."""
    found = (_named(base, one, ours) for base in one.bases)
    return [base for base in found if base is not None]


def _named(base: str, heir: Class, ours: list[Class]) -> Class | None:
    """Return the class that is called so: the nearest, since both faces have the same names."""
    module, _, name = re.sub(r"\[.*", "", base).rpartition(".")
    if (module, name) == ("", "Protocol"):  # typing's, though a class of ours has its name
        return None
    those = [each for each in ours if each.name == name and each is not heir]
    if module:
        those = [each for each in those if Path(each.file).stem == module]
    return max(those, key=lambda each: _in_common(each.file, heir.file), default=None)


def _in_common(file: str, other: str) -> int:
    return (file == other) + (Path(file).parent == Path(other).parent)


# What is printed


def figures(source: Path) -> Iterator[str]:
    """Yield the lines of the report."""
    files = {
        kind: sorted(path for end in kind.split("/") for path in source.rglob(f"*{end}"))
        for kind in (".py", ".pyx/.pxd")
    }
    yield f"{'':10} {'files':>6} {'lines':>6} {'functions':>10} {'median':>7} {'p90':>5} {'max':>5}"
    for kind, paths in files.items():
        count = python_functions if kind == ".py" else cython_functions
        yield _row(kind, paths, [each for path in paths for each in count(path)])
    yield ""
    for kind, paths in files.items():
        yield f"longest {kind}: " + ", ".join(
            f"{path.relative_to(source)} {len(lines_of(path))}"
            for path in sorted(paths, key=lambda path: -len(lines_of(path)))[:LARGEST]
        )
    yield from _classes(source, files)
    found = circles(graph(source))
    yield f"\ncircles: {len(found)}, of {sum(map(len, found))} modules"
    yield from ("  " + ", ".join(circle) for circle in found)


def _row(kind: str, paths: list[Path], functions: list[tuple[int, str]]) -> str:
    lengths = [length for length, _ in functions]
    lines = sum(len(lines_of(path)) for path in paths)
    return (
        f"{kind:10} {len(paths):6} {lines:6} {len(lengths):10} {median(lengths):7.0f} "
        f"{quantiles(lengths, n=10)[-1]:5.0f} {max(lengths):5}"
    )


def _classes(source: Path, files: dict[str, list[Path]]) -> Iterator[str]:
    found = [
        each
        for paths in files.values()
        for path in paths
        if path.suffix != ".pxd"  # it declares what the .pyx has
        for each in (python_classes if path.suffix == ".py" else cython_classes)(
            path, str(path.relative_to(source))
        )
    ]
    heirs = [each for each in found if bases_of_ours(each, found) and each.file != "errors.py"]
    yield f"\nclasses: {len(found)}; with a base of our own (errors aside): {len(heirs)}"
    yield from (f"  {each.file}: {each.name}({', '.join(each.bases)})" for each in heirs)
    yield "\nlargest classes, with what they inherit: fields, methods"
    whole = sorted((with_bases(each, found) for each in found), key=lambda each: -len(each.fields))
    for each in whole[:LARGEST]:
        yield f"  {each.file}: {each.name} {len(each.fields)}, {len(each.methods)}"


if __name__ == "__main__":
    root = Path(sys.argv[1]) / "src" / "koko" if len(sys.argv) > 1 else SOURCE
    print("\n".join(figures(root)))
