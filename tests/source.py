"""What the source of Koko says: expressions followed to the texts that they may become.

Nothing is imported or run: names are looked up in functions, modules and imports, f-strings are
put together, and a ``FIELD`` stands where only a run would know the value.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import koko

ROOT = Path(koko.__file__).parent
FIELD = "\0"
UNKNOWN = "\1"  # an expression that cannot be followed

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Module:
    """One file, parsed."""

    name: str
    tree: ast.Module

    @cached_property
    def parents(self) -> dict[ast.AST, ast.AST]:
        nodes = ast.walk(self.tree)
        return {child: node for node in nodes for child in ast.iter_child_nodes(node)}

    @cached_property
    def functions(self) -> dict[str, Function]:
        found = (node for node in self.tree.body if isinstance(node, Function))
        return {node.name: node for node in found}

    @cached_property
    def assigned(self) -> dict[str, ast.expr]:
        """What is given a value at the top of the module."""
        plain = (ast.Assign, ast.AnnAssign)
        return dict(assignments([node for node in self.tree.body if isinstance(node, plain)]))

    @cached_property
    def imported(self) -> dict[str, tuple[str, str]]:
        """By the name used here, the module and the name there; of a module no name."""
        found = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("koko"):
                for name in node.names:
                    found[name.asname or name.name] = (str(node.module), name.name)
        return found

    def function_of(self, node: ast.AST) -> Function | None:
        while (parent := self.parents.get(node)) is not None:
            if isinstance(parent, Function):
                return parent
            node = parent
        return None

    def where(self, node: ast.expr) -> str:
        return f"{self.name}:{node.lineno}"


def assignments(body: Sequence[ast.AST]) -> Iterator[tuple[str, ast.expr]]:
    """Yield each name that is given a value, with the expression."""
    for statement in (node for each in body for node in ast.walk(each)):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            if statement.value is not None:
                yield statement.target.id, statement.value
        elif isinstance(statement, ast.AugAssign | ast.NamedExpr):
            yield from pairs(statement.target, statement.value)
        elif isinstance(statement, ast.Assign):
            for target in statement.targets:
                yield from pairs(target, statement.value)


def pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        for each, its in zip(target.elts, value.elts, strict=True):
            yield from pairs(each, its)
    elif isinstance(target, ast.Tuple):  # unpacked: which element, is in the slice
        for number, each in enumerate(target.elts):
            element = ast.Subscript(value, ast.Constant(number), ast.Load())
            yield from pairs(each, element)


class Source:
    """The whole of src/koko, or other files in its place."""

    def __init__(self, files: dict[str, str]) -> None:
        self.modules = {name: Module(name, ast.parse(text)) for name, text in files.items()}
        self._resolving: list[tuple[str, str]] = []

    def calls(self) -> Iterator[tuple[Module, ast.Call]]:
        for module in self.modules.values():
            for node in ast.walk(module.tree):
                if isinstance(node, ast.Call):
                    yield module, node

    # What a name stands for

    def called(self, module: Module, function: ast.expr) -> tuple[Module, Function] | None:
        """Return the function of ours that is called, where it stands at the top of a module."""
        other: Module | None = module
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
            name = function.attr
            other = self.modules.get(".".join(module.imported.get(function.value.id, ("", ""))))
        elif isinstance(function, ast.Name):
            name = function.id
            if name not in module.functions:
                there, name = module.imported.get(name, ("", ""))
                other = self.modules.get(there)
        else:
            return None
        return (other, other.functions[name]) if other and name in other.functions else None

    def values(self, module: Module, name: ast.expr) -> list[tuple[Module, ast.expr]]:
        """Return the expressions that a name was given, here or where it was imported from."""
        if isinstance(name, ast.Attribute) and isinstance(name.value, ast.Name):
            other = self.modules.get(".".join(module.imported.get(name.value.id, ("", ""))))
            return [(other, other.assigned[name.attr])] if other else []
        if not isinstance(name, ast.Name):
            return []
        function = module.function_of(name)
        local = [
            value for to, value in assignments(function.body if function else []) if to == name.id
        ]
        if local:
            return [(module, value) for value in local]
        if name.id in module.assigned:
            return [(module, module.assigned[name.id])]
        there, original = module.imported.get(name.id, ("", ""))
        other = self.modules.get(there)
        return [(other, other.assigned[original])] if other and original in other.assigned else []

    # Texts

    def texts(self, module: Module, node: ast.expr, element: int | None = None) -> set[str]:
        """Return what an expression may say, of a tuple its ``element``."""
        if isinstance(node, ast.Constant):
            text = template(node.value) if isinstance(node.value, str) else FIELD
            return set() if node.value is None else {text}
        if isinstance(node, ast.JoinedStr):
            pieces = (self._piece(module, piece) for piece in node.values)
            return {"".join(each) for each in product(*pieces)}
        if isinstance(node, ast.IfExp):
            sides = (node.body, node.orelse)
            return set().union(*(self.texts(module, side, element) for side in sides))
        if isinstance(node, ast.Tuple) and element is not None:
            return self.texts(module, node.elts[element])
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            return self.texts(module, node.value, node.slice.value)  # type: ignore[arg-type]
        if isinstance(node, ast.Call) and (found := self.called(module, node.func)):
            return self._returned(*found, element)
        return self._named(module, node, element)

    def _returned(self, module: Module, function: Function, element: int | None) -> set[str]:
        if function.name == "written":  # an address
            return {FIELD}
        returned = [each.value for each in ast.walk(function) if isinstance(each, ast.Return)]
        return set().union(*(self.texts(module, each, element) for each in returned if each))

    def _named(self, module: Module, name: ast.expr, element: int | None) -> set[str]:
        resolving = (module.name, ast.unparse(name))
        if resolving in self._resolving:  # one that is made of itself
            return {UNKNOWN}
        self._resolving.append(resolving)
        known = self.values(module, name)
        said = [self.texts(there, value, element) for there, value in known]
        self._resolving.pop()
        return set().union(*said) if said else {UNKNOWN}

    def _piece(self, module: Module, piece: ast.expr) -> set[str]:
        if isinstance(piece, ast.Constant):
            return {str(piece.value)}
        assert isinstance(piece, ast.FormattedValue)
        if not isinstance(piece.value, ast.Name):
            return {FIELD}
        said = self.texts(module, piece.value)
        quoted = piece.conversion == ord("r")
        return {repr(each) if quoted and each.isprintable() else each for each in said}


def template(text: str) -> str:
    return re.sub(r"%(\.\d)?[sdrgf]|\{(!r)?\}", FIELD, text)


def flat(text: str) -> str:
    """Return a text with one field where several meet, and no space that a page would lose."""
    return re.sub(f"[{FIELD}{UNKNOWN}]+", FIELD, " ".join(text.split()))


def position(function: Function, name: str) -> int | None:
    names = [each.arg for each in function.args.args]
    return names.index(name) if name in names else None


def python() -> Source:
    files = sorted(ROOT.rglob("*.py"))
    names = {
        path: ".".join(("koko", *path.relative_to(ROOT).with_suffix("").parts)) for path in files
    }
    return Source(
        {name.removesuffix(".__init__"): path.read_text("utf-8") for path, name in names.items()}
    )
