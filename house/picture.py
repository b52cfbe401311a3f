"""Draws ``docs/house.svg``: the rooms in their rows, the files in each, and who imports whom.

``python -m house.picture`` writes it; the same sources give the same bytes. Boxes and rows
come from the plan, arrows and files from the sources. Where an arrow would only say what two
others say already, it is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path

from house.imports import Graph, graph, modules, reachable
from house.plan import MODULES, ROOMS, depth, parts

PICTURE = Path(__file__).parent.parent / "docs" / "house.svg"

WIDTH = 1000
PAD, GAP = 14, 34  # inside a box, and between two rows of them, where the arrows are
CHIP, CHIP_GAP, GLYPH = 22, 6, 6.65  # a file's height, what is between two, and a letter's width
TITLE = 42  # of a box: its name and what it is
TOP = 64

Line = tuple[str, list[str]]  # what a row of files is, and the files

STYLE = """\
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 18px; font-weight: 600 }
.room { font-size: 14px; font-weight: 600 }
.quiet { fill: #59636e; font-size: 12px; font-weight: 400 }
.says { text-anchor: end }
.file { font: 11px ui-monospace, "DejaVu Sans Mono", monospace }
.box { stroke-width: 1 }
.chip { fill: #ffffff; stroke: #d1d9e0 }
.native { stroke: #8c6d1f; stroke-dasharray: 3 2 }
.arrow { stroke: #818b98; stroke-width: 1.5; fill: none }
.tip { fill: #818b98 }
.outside { fill: #f6f8fa; stroke: #c8d1da }
.face { fill: #eaf2fd; stroke: #a9c7ef }
.policy { fill: #f3effb; stroke: #c9b8ea }
.pure { fill: #e8f5ef; stroke: #9fd0bb }
.noun { fill: #fbf5e6; stroke: #e0cf9f }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .quiet { fill: #9198a1 }
  .chip { fill: #0d1117; stroke: #3d444d } .native { stroke: #c9a544 }
  .arrow { stroke: #7d8590 } .tip { fill: #7d8590 }
  .outside { fill: #161b22; stroke: #3d444d } .face { fill: #12233d; stroke: #2f5488 }
  .policy { fill: #221a38; stroke: #54428a } .pure { fill: #0f2a20; stroke: #2c6b52 }
  .noun { fill: #2a2412; stroke: #6b5a25 }
}"""


@dataclass
class Box:
    """A part of the house: a folder, or the single files of a row."""

    name: str
    says: str
    look: str
    left: int
    right: int
    row: int
    lines: list[Line]
    top: int = 0
    height: int = 0


def boxes() -> list[Box]:
    """Return the boxes as they stand, the top row first."""
    half, third = WIDTH // 2, WIDTH * 3 // 5
    plan = [
        [
            (
                "cli",
                "the command: koko serve, dial, demo; uvicorn.py: a name for --ws",
                "outside",
                0,
                third + 12,
            ),
            ("testing", "for the tests of applications", "outside", third + 36, WIDTH),
        ],
        [("adapters", "Koko inside the servers of others", "outside", 0, WIDTH)],
        [
            ("sync", "for threads: waits, and decides nothing", "face", 0, half - 12),
            ("aio", "for asyncio: the same names, awaited", "face", half + 12, WIDTH),
        ],
        [("policies", "what both faces decide alike, without waiting", "policy", 0, WIDTH)],
        [("koko", "__init__.py: the names that belong to neither face", "noun", 250, 750)],
        [
            ("core", "an open connection, without I/O", "pure", 0, third - 12),
            ("opening", "how it comes to be open: HTTP, without I/O", "pure", third + 12, WIDTH),
        ],
        [("nouns", "data and errors that every room knows", "noun", 0, WIDTH)],
    ]
    top = TOP
    drawn: list[Box] = []
    for row, those in enumerate(plan):
        own = [Box(*box, row, list(_lines(box[0], row, box[4] - box[3]))) for box in those]
        height = TITLE - 6 + max(len(box.lines) for box in own) * (CHIP + CHIP_GAP) + CHIP_GAP
        for box in own:
            box.top, box.height = top, height
        top += height + GAP
        drawn += own
    return drawn


def _lines(name: str, row: int, width: int) -> Iterator[Line]:
    """Yield the files of a box by the rows of the plan; a folder's ``__init__`` goes without."""
    if name == "cli":  # so few that one line shows them
        yield "", [file for files in MODULES[name].values() for file in files if file != name]
    elif name in MODULES:
        for says, row_of_files in MODULES[name].items():
            if files := [file for file in row_of_files if file != name]:
                fits = _length(files) + GLYPH * len(says) < width - 3 * PAD
                yield says if fits else "", files
    elif name != "koko":
        rooms = [room for room in list(ROOMS.values())[row] if room not in MODULES]
        yield from (("", line) for line in _wrapped(rooms, width - 2 * PAD))


def _wrapped(files: list[str], width: int) -> list[list[str]]:
    """Return the files in lines that fit."""
    lines: list[list[str]] = [[]]
    for file in files:
        if lines[-1] and _length([*lines[-1], file]) > width:
            lines.append([])
        lines[-1].append(file)
    return lines


def _length(files: list[str]) -> float:
    return sum(_chip(file) + CHIP_GAP for file in files) - CHIP_GAP


def _chip(file: str) -> int:
    return round(len(file) * GLYPH + 14)


# Arrows


def arrows(drawn: list[Box], edges: Graph) -> list[tuple[Box, Box]]:
    """Return which box imports from which, without what follows from other arrows."""
    known = {box.name: box for box in drawn}
    between: Graph = {name: set() for name in known}
    for module, others in edges.items():
        here = _box_of(module, known)
        between[here] |= {_box_of(other, known) for other in others} - {here}
    return [
        (known[here], known[there])
        for here, others in between.items()
        for there in sorted(others)
        if not any(there in reachable(other, between) for other in others)
    ]


def _box_of(module: str, known: dict[str, Box]) -> str:
    room = parts(module)[0]
    if room in known:
        return room
    row = depth(room, ROOMS)
    return next(name for name, box in known.items() if box.row == row)


def _arrow(here: Box, there: Box, drawn: list[Box]) -> str:
    """Draw an arrow straight down, past what stands between the two."""
    between = [box for box in drawn if here.row < box.row < there.row]
    at = _free(max(here.left, there.left), min(here.right, there.right), between)
    start, end = here.top + here.height, there.top - 2
    return (
        f'<path class="arrow" d="M{at} {start}V{end - 7}"/>'
        f'<path class="tip" d="M{at - 5} {end - 8}h10l-5 8z"/>'
    )


def _free(left: int, right: int, between: list[Box]) -> int:
    """Return the middle of the widest stretch that no box stands in."""
    edges = sorted({left, right, *(x for box in between for x in (box.left, box.right))})
    spans = [
        (end - start, (start + end) // 2)
        for start, end in pairwise(edges)
        if left <= start
        and end <= right
        and not any(box.left < end and start < box.right for box in between)
    ]
    return max(spans)[1]


# The drawing


def svg() -> str:
    """Return the whole picture."""
    drawn = boxes()
    natives = {
        parts(name)[1]
        for name, paths in modules().items()
        if any(path.suffix == ".pyx" for path in paths)
    }
    height = max(box.top + box.height for box in drawn) + 2
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 -4 {WIDTH + 16} {height + 8}" '
        f'width="{WIDTH + 16}" height="{height + 8}" role="img" '
        'aria-label="The rooms of Koko, and which imports which">',
        f"<style>{STYLE}</style>",
        _text(0, 18, "The house of Koko", "title"),
        _text(
            0,
            40,
            "Arrows are imports, and all go down; what another arrow leads to has none of its own. "
            "In a box, too, files import downwards only.",
            "quiet",
        ),
        *_legend(),
    ]
    for here, there in arrows(drawn, graph()):
        body.append(_arrow(here, there, drawn))
    for box in drawn:
        body += _drawn(box, natives)
    return "\n".join([*body, "</svg>", ""])


def _legend() -> Iterator[str]:
    yield from _file(WIDTH - 210, 4, "file", native=False)
    yield _text(WIDTH - 164, 19, ".py", "quiet")
    yield from _file(WIDTH - 136, 4, "file", native=True)
    yield _text(WIDTH - 90, 19, ".pyx, optional", "quiet")


def _drawn(box: Box, natives: set[str]) -> Iterator[str]:
    yield (
        f'<rect class="box {box.look}" x="{box.left}" y="{box.top}" '
        f'width="{box.right - box.left}" height="{box.height}" rx="8"/>'
    )
    yield (
        f'<text class="room" x="{box.left + PAD}" y="{box.top + 26}">{_title(box)}'
        f'<tspan class="quiet" dx="10">{escape(box.says)}</tspan></text>'
    )
    for number, (says, files) in enumerate(box.lines):
        x, y = float(box.left + PAD), box.top + TITLE + number * (CHIP + CHIP_GAP)
        for file in files:
            yield from _file(x, y, file, native=file in natives)
            x += _chip(file) + CHIP_GAP
        if says:
            yield _text(box.right - PAD, y + 15, says, "quiet says")


def _title(box: Box) -> str:
    return f"{box.name}/" if box.name in MODULES else box.name


def _file(x: float, y: int, name: str, native: bool) -> Iterator[str]:
    look = "chip native" if native else "chip"
    yield (
        f'<rect class="{look}" x="{x:.0f}" y="{y}" width="{_chip(name)}" height="{CHIP}" rx="4"/>'
    )
    yield _text(x + 7, y + 15, name, "file")


def _text(x: float, y: float, words: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.0f}" y="{y:.0f}">{escape(words)}</text>'


if __name__ == "__main__":
    PICTURE.write_text(svg())
    print(f"wrote {PICTURE}")
