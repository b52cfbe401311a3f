"""The table as a picture: one group of bars a row, shorter being better, Koko's in colour."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path

from report import Line, Result, number

WIDTH, COLUMN, GAP = 900, 430, 40
NAMES, BARS = 130, 200  # of a column: what stands left of the bars, and the longest bar
BAR, GROUP = 16, 46  # of a line, and of what a group has beside its lines
TOP = 70

SAYS = "1.50x: spends one and a half times what Koko does"
STYLE = """\
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 18px; font-weight: 600 }
.group { font-weight: 600 }
.quiet { fill: #656d76; font-size: 11px }
.peer { fill: #afb8c1 } .koko { fill: #1a7f64 } .limit { fill: #d8dee4 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .quiet { fill: #8d96a0 }
  .peer { fill: #57606a } .koko { fill: #3fb68f } .limit { fill: #32383f }
}"""


def write_svg(path: Path, results: list[Result], machine: str) -> None:
    """Draw all rows that have figures, in two columns."""
    shown = [each for each in results if any(line.value for line in each.lines)]
    body, height = _columns(shown)
    where, _, versions = machine.partition(", CPython")
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" aria-label="Koko beside its peers">',
        f"<style>{STYLE}</style>",
        _text(0, 22, "Koko beside its peers: what each spends, shorter is better", "title"),
        _text(0, 42, f"{where}, CPython{versions.partition(',')[0]}; {SAYS}", "quiet"),
    ]
    path.write_text("\n".join([*head, *body, "</svg>", ""]))


def _columns(results: list[Result]) -> tuple[list[str], int]:
    heights = [GROUP + BAR * len(each.lines) for each in results]
    left, right, half = TOP, TOP, TOP + sum(heights) / 2
    body: list[str] = []
    for each, height in zip(results, heights, strict=True):
        if left < half:
            body += _group(each, 0, left)
            left += height
        else:
            body += _group(each, COLUMN + GAP, right)
            right += height
    return body, max(left, right)


def _group(result: Result, x: int, y: int) -> Iterator[str]:
    row = result.row
    longest = max(line.value or 0 for line in result.lines)
    yield _text(x, y + 4, row.title, "group")
    yield _text(x, y + 18, row.what, "quiet")
    for at, line in enumerate(result.lines):
        yield from _bar(line, x, y + 26 + BAR * at, longest)


def _bar(line: Line, x: int, y: int, longest: float) -> Iterator[str]:
    label = line.entry.label
    yield _text(x, y + 11, label)
    if line.value is None:
        yield _text(x + NAMES, y + 11, "not measured", "quiet")
        return
    length = max(1, BARS * line.value / longest)
    yield (
        f'<rect class="{_class(line)}" x="{x + NAMES}" y="{y + 2}" '
        f'width="{length:.1f}" height="{BAR - 4}" rx="2"/>'
    )
    ahead = "" if line.ahead is None else f" · {line.ahead:.2f}x"
    yield _text(x + NAMES + length + 6, y + 11, number(line.value) + ahead, "quiet")


def _class(line: Line) -> str:
    who = line.entry.server.peer
    if line.entry.program[0] == "client":
        who = line.entry.label
    return who if who == "limit" else "koko" if who.startswith("koko") else "peer"


def _text(x: float, y: float, words: str, kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text{style} x="{x:.0f}" y="{y:.0f}">{escape(words)}</text>'
