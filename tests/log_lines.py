"""Every line that Koko's source can log, read from the source: logger, level and text.

The text has ``FIELD`` where a value stands. A call that cannot be read is an error here, so that
no line is left out in silence. A function that logs one of its own parameters is a helper, and
each call of it is a line.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

from tests.source import FIELD, ROOT, UNKNOWN, Function, Module, Source, assignments, flat, position

LEVELS = frozenset({"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"})
VERBS = {name.lower(): name for name in LEVELS} | {"exception": "ERROR", "log": ""}
SERVER = "koko.server"  # of a logger that is an attribute or an argument

# Whatever is called with a sentence that a line may end with: errors, Closes, ends of connections.
SAYS = {
    "Close",
    "CloseError",
    "ErrReadLimit",
    "HandshakeError",
    "ProtocolError",
    "ProxyHeaderError",
    "WrongKindError",
    "_abort",
    "_end",
    "_error",
    "_violation",
    "abort",
    "feed_eof",
}
# Rooms in which a function that returns a ``str`` returns such a sentence, and a constant is one.
SPEAKERS = (
    "koko.serving",
    "koko.core.keepalive",
    "koko.errors",
    "koko.upgrading",
    "koko.dial_steps",
)


class Line(NamedTuple):
    """One call that logs, and where it stands."""

    logger: str
    levels: frozenset[str]
    text: str
    where: str


class Lines:
    """The lines of a source: the whole of src/koko, or other files in its place."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._helpers: dict[tuple[str, str], tuple[ast.Call, Function]] = {}

    # Levels and loggers

    def levels(self, module: Module, node: ast.expr) -> frozenset[str]:
        """Return every level that an expression mentions, through names and calls."""
        found: set[str] = set()
        for each in ast.walk(node):
            if isinstance(each, ast.Attribute) and each.attr in LEVELS:
                found.add(each.attr)
            elif isinstance(each, ast.Call) and (called := self._source.called(module, each.func)):
                found |= {
                    name.attr
                    for name in ast.walk(called[1])
                    if isinstance(name, ast.Attribute) and name.attr in LEVELS
                }
            elif isinstance(each, ast.Name) and each.id != "logging":
                for there, value in self._source.values(module, each):
                    found |= self.levels(there, value)
                found |= self._given(module, each)
        return frozenset(found)

    def _given(self, module: Module, name: ast.Name) -> frozenset[str]:
        """Return the levels that a parameter is given, by callers in this file or by default."""
        function = module.function_of(name)
        if function is None or (at := position(function, name.id)) is None:
            return frozenset()
        defaults = function.args.defaults[at - len(function.args.args) :]
        given = defaults[:1] if len(function.args.args) - at <= len(function.args.defaults) else []
        for call in (node for node in ast.walk(module.tree) if isinstance(node, ast.Call)):
            if isinstance(call.func, ast.Attribute) and call.func.attr == function.name:
                given += call.args[at - 1 : at]
        return frozenset().union(*(self.levels(module, each) for each in given))

    def logger(self, module: Module, node: ast.expr) -> str:
        if isinstance(node, ast.Call):
            return str(node.args[0].value) if isinstance(node.args[0], ast.Constant) else SERVER
        for _, value in self._source.values(module, node):
            if isinstance(value, ast.Call):
                return self.logger(module, value)
        return SERVER

    # Lines

    def lines(self) -> set[Line]:
        """Return every line.

        Raises:
            AssertionError: a call logs what cannot be read here.
        """
        found = list(self._direct())  # and with it the helpers
        return {*found, *self._helped()}

    def _direct(self) -> Iterator[Line]:
        for module in self._source.modules.values():
            for call in (node for node in ast.walk(module.tree) if isinstance(node, ast.Call)):
                if isinstance(call.func, ast.Attribute):
                    yield from self._line(module, call, call.func)

    def _line(self, module: Module, call: ast.Call, verb: ast.Attribute) -> Iterator[Line]:
        if verb.attr == "call_exception_handler":
            yield from self._complaint(module, call)
        elif verb.attr == "warn" and ast.unparse(verb.value) == "warnings":
            category = frozenset({ast.unparse(call.args[1])})
            yield from self._each(module, "warnings", category, call, call.args[0])
        elif verb.attr in VERBS and is_logger(verb.value):
            text = call.args[verb.attr == "log"]
            function = module.function_of(call)
            if function and isinstance(text, ast.Name) and position(function, text.id) is not None:
                known = module.functions.get(function.name) is function
                assert known, f"{module.where(call)}: it cannot be seen who calls this"
                self._helpers[module.name, function.name] = call, function
                return
            level = VERBS[verb.attr]
            levels = frozenset({level}) if level else self.levels(module, call.args[0])
            yield from self._each(module, self.logger(module, verb.value), levels, call, text)

    def _complaint(self, module: Module, call: ast.Call) -> Iterator[Line]:
        """Yield what is told to the loop, which logs it where nobody has set a handler."""
        told: ast.expr | None = call.args[0]
        function = module.function_of(call)
        assert function is not None
        if isinstance(told, ast.Name) and position(function, told.id) is not None:
            return  # somebody else's, handed on
        if isinstance(told, ast.Name):
            told = dict(assignments(function.body))[told.id]
        assert isinstance(told, ast.Dict), module.where(call)
        named = zip(told.keys, told.values, strict=True)
        message = next(text for key, text in named if key and ast.unparse(key) == "'message'")
        yield from self._each(module, "asyncio", frozenset({"ERROR"}), call, message)

    def _helped(self) -> Iterator[Line]:
        for module in self._source.modules.values():
            for call in (node for node in ast.walk(module.tree) if isinstance(node, ast.Call)):
                called = self._source.called(module, call.func)
                if called is None or (called[0].name, called[1].name) not in self._helpers:
                    continue
                inner, function = self._helpers[called[0].name, called[1].name]
                level = argument(call, function, inner.args[0])
                levels = self.levels(module, level) if level else frozenset({"ERROR"})
                text = argument(call, function, inner.args[1])
                assert text is not None, module.where(call)
                logger = self.logger(module, call.args[0])
                yield from self._each(module, logger, levels, call, text)

    def _each(
        self, module: Module, logger: str, levels: frozenset[str], call: ast.Call, text: ast.expr
    ) -> Iterator[Line]:
        where = module.where(call)
        assert levels, f"{where}: no level can be read"
        for said in self._source.texts(module, text):
            if said == FIELD and (inner := [each for each in call.args if each is not text]):
                said = self._only(module, inner)  # "%s" with a sentence
            assert UNKNOWN not in said or re.search("[a-z]", said), f"{where}: what is logged here?"
            yield Line(logger, levels, flat(said), where)

    # What else is said

    def prints(self) -> Iterator[Line]:
        """Yield what commands print, but for what they were asked to show."""
        for module, call in self._source.calls():
            if isinstance(call.func, ast.Name) and call.func.id == "print":
                files = [ast.unparse(each.value) for each in call.keywords if each.arg == "file"]
                stream = files[0].removeprefix("sys.") if files else "stdout"
                for said in self._source.texts(module, call.args[0]):
                    if re.search("[a-z]", said):
                        yield Line("koko", frozenset({stream}), flat(said), module.where(call))

    def sentences(self) -> dict[str, str]:
        """Return what stands behind a field of a line, with where it is said."""
        found = {}
        for module, node in self._speakers():
            for said in self._source.texts(module, node):
                if re.search("[a-z]{2}", said):
                    found[flat(said).lstrip("; ")] = module.where(node)
        return found

    def _speakers(self) -> Iterator[tuple[Module, ast.expr]]:
        for module, call in self._source.calls():
            name = ast.unparse(call.func).rpartition(".")[2]
            # A status of 0 is an error of a client: it is raised, not logged.
            says = name in SAYS
            if says and "0" not in map(ast.unparse, call.args[:1]):
                yield from ((module, each) for each in call.args)
        for name in SPEAKERS:
            module = self._source.modules[name]
            if name == "koko.serving":
                yield from ((module, value) for value in module.assigned.values())
            for node in ast.walk(module.tree):
                if (
                    isinstance(node, Function)
                    and node.returns
                    and ast.unparse(node.returns) == "str"
                ):
                    returned = (each for each in ast.walk(node) if isinstance(each, ast.Return))
                    yield from ((module, each.value) for each in returned if each.value)

        yield from self._other_protocols()
        yield from self._advice()

    def _other_protocols(self) -> Iterator[tuple[Module, ast.expr]]:
        """Yield what is said of who speaks another protocol: (pattern, status, sentence)."""
        module = self._source.modules["koko.opening.head"]
        for name, table in assignments(list(module.tree.body)):
            if name == "_other_protocols" and isinstance(table, ast.Tuple):
                each = (row.elts for row in table.elts if isinstance(row, ast.Tuple))
                yield from (
                    (module, said) for _, status, said in each if ast.unparse(status) != "0"
                )

    def _advice(self) -> Iterator[tuple[Module, ast.expr]]:
        """Yield what the operator is advised of a request that is no upgrade."""
        module = self._source.modules["koko.opening.handshake"]
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).endswith(".advice"):
                yield module, node.value

    def _only(self, module: Module, arguments: list[ast.expr]) -> str:
        said = [
            text
            for each in arguments
            if isinstance(each, ast.Call)
            for text in self._source.texts(module, each)
        ]
        return said[0] if len(said) == 1 else FIELD


def is_logger(node: ast.expr) -> bool:
    """Tell whether an expression is a logger, by its name or by where it comes from."""
    if isinstance(node, ast.Call):
        return ast.unparse(node.func) == "logging.getLogger"
    name = ast.unparse(node).rpartition(".")[2].strip("_").lower()
    return name in ("log", "logger", "logging")


def argument(call: ast.Call, function: Function, parameter: ast.expr) -> ast.expr | None:
    """Return what a call gives for what a helper logs: a parameter, or a keyword with a default."""
    at = position(function, parameter.id) if isinstance(parameter, ast.Name) else None
    if at is not None and at < len(call.args):
        return call.args[at]
    name = parameter.id if isinstance(parameter, ast.Name) else "level"
    return next((each.value for each in call.keywords if each.arg == name), None)


def extensions() -> set[Line]:
    """Return the lines of the Cython sources, which ``ast`` cannot read."""
    files = sorted(ROOT.rglob("*.pyx"))
    return {line for path in files for line in scanned(path.read_text("utf-8"), path.name)}


def scanned(text: str, where: str) -> list[Line]:
    """Return the lines of a Cython file; one that logs by itself cannot be read here."""
    assert not re.search(r"\blog(ger|ging)?\b\s*[.(]|(?<!\.)\b(tell|complain)\(", text), where
    found = []
    for said, category in re.findall(r"warnings\.warn\(f?\"(.*?)\", (\w+)", text):
        found.append(Line("warnings", frozenset({category}), re.sub("{.*?}", FIELD, said), where))
    for said, name in re.findall(r"\"message\": (?:\"(.*?)\"|(\w+))", text):
        given = said or "".join(re.findall(rf"\b{name} = \"(.*?)\"", text)[:1])
        found.append(Line("asyncio", frozenset({"ERROR"}), given, where))
    calls = re.findall(r"warnings\.warn\(|call_exception_handler\(", text)
    assert len(calls) == len(found), f"{where}: a call cannot be read"
    return found
