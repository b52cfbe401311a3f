"""The results, as text for a terminal and as a table for the documentation."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import NamedTuple

from rows import Entry, Goal, Row

BEGIN, END = "<!-- figures: written by make bench -->", "<!-- end of figures -->"
PEERS = (
    *("uvloop", "isal", "picows", "aiofastnet", "websockets", "aiohttp", "socketify"),
    *("uvicorn", "wsproto", "fastapi"),
)


class Line(NamedTuple):
    """One entry with its figures, medians of the rounds; ``problem`` says why there are none."""

    entry: Entry
    figures: dict[str, float]
    value: float | None = None
    ahead: float | None = None
    problem: str = ""

    @property
    def outcome(self) -> str:
        """Whether Koko is as far ahead of this entry as its goal says."""
        goal = self.entry.goal
        if goal is None or self.ahead is None:
            return ""
        return "reached" if self.ahead >= goal.times else "not reached"


class Result(NamedTuple):
    """A row and what came of it."""

    row: Row
    lines: list[Line]


def conclude(row: Row, outcomes: dict[str, list[dict[str, float]] | str]) -> Result:
    """Take medians and compare."""
    lines: list[Line] = []
    for entry in row.entries:
        rounds = outcomes[entry.label]
        if isinstance(rounds, str):
            lines.append(Line(entry, {}, problem=rounds))
            continue
        figures = {name: median(each[name] for each in rounds) for name in rounds[0]}
        value = figures[row.figure]
        ours = lines[0].value if lines and not row.growth else None
        lines.append(Line(entry, figures, value, value / ours if ours else None))
    return Result(row, lines)


# In a terminal


def text(result: Result) -> str:
    """Return a row as lines of text, the figure that is compared first."""
    row = result.row
    return "\n".join([f"{row.title}   [{row.name}; {row.what}]", *_text_lines(result), ""])


def _text_lines(result: Result) -> Iterator[str]:
    for line in result.lines:
        if line.problem:
            yield f"  {line.entry.label:<20} {line.problem}"
            continue
        cells = _cells(line)
        width = (9, 11, 11, 9, 9, 10, 7)
        figures = " ".join(f"{cell:>{w}}" for cell, w in zip(cells, width, strict=False))
        yield f"  {line.entry.label:<20} {figures}  {cells.goal}".rstrip()


HEADING = " " * 23 + "   figure    user CPU  per second    p50 µs    p99 µs     wire B   ahead"


class Cells(NamedTuple):
    """A line in words."""

    value: str
    user: str
    per_s: str
    p50: str
    p99: str
    wire: str
    ahead: str
    goal: str


def _cells(line: Line) -> Cells:
    get = line.figures.get
    return Cells(
        number(line.value),
        number(get("user_us")),
        f"{get('per_s', 0):,.0f}" if "per_s" in line.figures else "",
        number(get("p50_us")),
        number(get("p99_us")),
        number(get("wire_bytes")),
        "" if line.ahead is None else f"{line.ahead:.2f}x",
        _goal(line.entry.goal, line.outcome),
    )


def number(value: float | None) -> str:
    """Write a figure with three significant digits or all it has before the point."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 1 else f"{value:.2f}"


def _goal(goal: Goal | None, outcome: str) -> str:
    return f"{goal}: {outcome}" if goal and outcome else str(goal or "")


# In the documentation


def markdown(results: list[Result], machine: str) -> str:
    """Return all rows as one table under the line that says where they were measured."""
    head = (
        "| | figure | user CPU | per second | p50 µs | p99 µs | wire B | ahead | to reach |\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|---|"
    )
    return "\n".join([machine, "", head, *(line for each in results for line in _table(each))])


def _table(result: Result) -> Iterator[str]:
    row = result.row
    yield f"| **{row.title}** | *{row.what}* | | | | | | | |"
    for line in result.lines:
        if line.problem:
            yield f"| {line.entry.label} | {line.problem} | | | | | | | |"
        else:
            yield f"| {line.entry.label} | {' | '.join(_cells(line))} |"


def write_markdown(path: Path, results: list[Result], machine: str) -> None:
    """Write the table between the two marks of a file, or as a file of its own."""
    table = f"{BEGIN}\n\n{markdown(results, machine)}\n\n{END}\n"
    page = path.read_text() if path.exists() else f"{BEGIN}{END}"
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path} has no place for the table: no line {BEGIN!r}, then {END!r}")
    path.write_text(before + table + after.lstrip("\n"))


# Where it was measured


def machine(file_limit: int) -> str:
    """Describe the machine, and what else affects figures."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    facts = [
        found[1] if found else platform.machine(),
        f"{len(os.sched_getaffinity(0))} cores",
        f"{platform.system()} {platform.release()}",
        f"{platform.python_implementation()} {platform.python_version()}",
        *_packages(),
        *_gorilla(),
        f"at most {file_limit:,} open files",
        f"load average {os.getloadavg()[0]:.1f} before",
    ]
    return f"{', '.join(facts)}."


def _packages() -> Iterator[str]:
    for name in PEERS:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            yield f"no {name}"


def _gorilla() -> Iterator[str]:
    if shutil.which("go"):
        said = subprocess.run(["go", "version"], capture_output=True, text=True).stdout.split()
        yield f"Go {said[2].removeprefix('go')}"
    if shutil.which("dpkg-query"):
        package = "golang-github-gorilla-websocket-dev"
        asked = ["dpkg-query", "-W", "-f", "${Version}", package]
        said = subprocess.run(asked, capture_output=True, text=True).stdout.split()
        yield from (f"gorilla {found}" for found in said)
