"""The page for operators and the source hold the same lines: none is missing, none is left over."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from koko.errors import NAMES
from koko.sync import Conn, Server, dial
from tests.log_lines import Line, Lines, extensions, scanned
from tests.source import FIELD, Source, python

pytestmark = pytest.mark.once

PAGE = Path(__file__).parent.parent / "docs" / "operating.md"
A_FIELD = "(?:[A-Z]+|…)"  # in a line, as the page writes it; in a sentence it may be an example
LOUDNESS = r"\b(?:DEBUG|INFO|WARNING|ERROR|CRITICAL|\w+Warning|stdout|stderr)\b"


class Row(NamedTuple):
    """A row of a table: the logger of its section, and its cells by what stands above them."""

    logger: str
    cells: dict[str, str]

    @property
    def spans(self) -> list[str]:
        """What is shown in its column of lines, or of sentences."""
        shown = self.cells.get("line") or self.cells.get("sentence") or ""
        return [" ".join(span.split()).lstrip("; ") for span in re.findall("`([^`]+)`", shown)]


def rows(page: str) -> Iterator[Row]:
    logger, heads = "", list[str]()
    for line in page.splitlines():
        if line.startswith("#") or re.match("(The logger|Python's|The command) ", line):
            logger = "".join(re.findall("`([a-z.]+)`", line)[:1])
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            heads = []
        elif not heads:
            heads = cells
        elif not line.startswith("|--"):
            yield Row(logger, dict(zip(heads, cells, strict=True)))


def pattern(text: str, field: str) -> re.Pattern[str]:
    return re.compile(field.join(map(re.escape, text.split(FIELD))))


def described(row: Row, line: Line, level: str) -> bool:
    """Tell whether a row is of this line."""
    spans = [span for span in row.spans if pattern(line.text, A_FIELD).fullmatch(span)]
    return bool(spans) and row.logger == line.logger and level in row.cells[heading(row)]


def heading(row: Row) -> str:
    return "level" if "level" in row.cells else "stream"


def of_lines(page: str) -> list[Row]:
    return [row for row in rows(page) if "line" in row.cells]


def unequal(page: str, lines: set[Line]) -> list[str]:
    """Return what only one of them has: lines without a row, rows without a line."""
    known = of_lines(page)
    each = [(line, level) for line in lines for level in line.levels]
    lacking = [
        f"no row: {level} {line.text.replace(FIELD, '…')!r} of {line.where}"
        for line, level in each
        if not any(described(row, line, level) for row in known)
    ]
    left = [
        f"no line: {level} {span!r}"
        for row in known
        for span in row.spans
        for level in re.findall(LOUDNESS, row.cells[heading(row)])
        if not any(
            described(row._replace(cells={**row.cells, "line": f"`{span}`"}), line, wanted)
            for line, wanted in each
            if wanted == level
        )
    ]
    return sorted({*lacking, *left})


def unsaid(page: str, sentences: dict[str, str]) -> list[str]:
    """Return the same of sentences: those without a row, rows that nobody says."""
    spans = [span for row in rows(page) if "sentence" in row.cells for span in row.spans]
    codes = (cell for row in rows(page) if "code" in row.cells for cell in row.cells.values())
    shown = [span for cell in codes for span in re.findall("`([^`]+)`", cell)]
    shown += [span for row in of_lines(page) for span in row.spans]
    ends = [span.rpartition(": ")[2] for span in (*spans, *shown)]  # one may follow another
    known = {text: pattern(text, ".+?") for text in sentences}
    lacking = [
        f"no row: {text.replace(FIELD, '…')!r} of {sentences[text]}"
        for text, found in known.items()
        if not any(found.fullmatch(span) for span in (*spans, *shown, *ends))
    ]
    left = [span for span in spans if not any(each.fullmatch(span) for each in known.values())]
    return [*lacking, *(f"nobody says {span!r}" for span in left)]


@cache
def koko() -> Lines:
    return Lines(python())


@cache
def all_lines() -> set[Line]:
    return {*koko().lines(), *koko().prints(), *extensions()}


@cache
def page() -> str:
    return PAGE.read_text("utf-8")


def test_every_line_of_the_log_is_on_the_page_and_every_row_is_in_the_source() -> None:
    assert len(all_lines()) > 40
    complaints = unequal(page(), all_lines())
    assert not complaints, "\n".join(complaints)


def test_every_sentence_behind_a_field_is_on_the_page_and_every_row_is_said() -> None:
    assert len(koko().sentences()) > 60
    complaints = unsaid(page(), koko().sentences())
    assert not complaints, "\n".join(complaints)


def lines_of(text: str) -> set[Line]:
    return Lines(Source({"koko.new": text})).lines()


LOGS = "import logging\nlogger = logging.getLogger('koko.new')\n"


@pytest.mark.parametrize(
    ("text", "level", "said"),
    [
        ("logger.info('new %s', 1)", "INFO", "new …"),
        ("def f(self): self._logger.exception('new')", "ERROR", "new"),
        ("NEW = 'new %d'\nlogger.warning(NEW, 1)", "WARNING", "new …"),
        ("def f(a): logger.log(logging.DEBUG, f'new {a}')", "DEBUG", "new …"),
        ("def say(level, text): logger.log(level, text)\nsay(logging.INFO, 'new')", "INFO", "new"),
        ("def f(self): self.loop.call_exception_handler({'message': 'new'})", "ERROR", "new"),
        ("import warnings\nwarnings.warn('new', UserWarning)", "UserWarning", "new"),
    ],
)
def test_a_line_that_is_not_on_the_page_is_seen(text: str, level: str, said: str) -> None:
    complaints = unequal(page(), {*all_lines(), *lines_of(LOGS + text)})
    assert [each.partition(" of koko.new")[0] for each in complaints] == [
        f"no row: {level} {said!r}"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "class C:\n    def say(self, text): logger.info(text)",  # who calls it is not seen
        "def f(level): logger.log(level, 'new')",
        "def f(): logger.info(whatever())",
    ],
)
def test_a_call_that_cannot_be_read_is_an_error(text: str) -> None:
    with pytest.raises(AssertionError):
        lines_of(LOGS + text)


def test_a_line_in_cython_is_seen() -> None:
    (line,) = scanned('loop.call_exception_handler({"message": "new", "exception": e})', "new.pyx")
    assert unequal(page(), {*all_lines(), line}) == ["no row: ERROR 'new' of new.pyx"]
    for text in ("logger.info('new')", "tell(self.logger, 10, 'new')", "warnings.warn(new)"):
        with pytest.raises(AssertionError):
            scanned(text, "new.pyx")


def test_a_row_that_is_not_in_the_source_is_seen() -> None:
    row = "| INFO | `closing: waiting up to SECONDS s for COUNT connections: ADDRESSES` |"
    assert row in page()
    for stale, said in (("waited", "INFO 'closing: waited"), ("WARNING", "WARNING 'closing")):
        changed = row.replace("waiting" if stale == "waited" else "INFO", stale)
        complaints = unequal(page().replace(row, f"{row} Wait. | Wait. |\n{changed}"), all_lines())
        assert [each for each in complaints if each.startswith(f"no line: {said}")] == complaints
        assert complaints


def test_a_sentence_that_is_only_in_one_of_them_is_seen() -> None:
    sentences = {**koko().sentences(), "the client sneezed": "koko.new:1"}
    assert unsaid(page(), sentences) == ["no row: 'the client sneezed' of koko.new:1"]
    less = {text: where for text, where in koko().sentences().items() if text != "we dropped it"}
    assert unsaid(page(), less) == ["nobody says 'we dropped it'"]


def test_every_close_code_and_every_section_that_is_linked_to_is_there() -> None:
    codes = [row.cells["code"] for row in rows(page()) if "it says" in row.cells]
    assert [code for code in NAMES if str(code) not in " ".join(codes)] == []
    headings = re.findall("^#+ (.*)$", page(), re.MULTILINE)
    anchors = {re.sub("[^a-z0-9 ]", "", each.lower()).replace(" ", "-") for each in headings}
    assert {*re.findall(r"\]\(#([^)]+)\)", page())} <= anchors


# The snippet for Unix sockets


@pytest.fixture
def unix_socket() -> Callable[[str], socket.socket]:
    (snippet,) = (
        code
        for code in re.findall("```python\n(.*?)```", page(), re.DOTALL)
        if "def unix_socket" in code
    )
    names: dict[str, Any] = {}
    exec(snippet, names)
    return names["unix_socket"]  # type: ignore[no-any-return]


def echo(conn: Conn) -> None:
    for message in conn:
        conn.send(message)


def test_a_stale_file_is_removed_and_a_living_server_is_left_alone(
    unix_socket: Callable[[str], socket.socket], tmp_path: Path
) -> None:
    path = str(tmp_path / "app.sock")
    for _ in range(2):  # the second finds the file of the first, which is over
        with Server(echo, sock=unix_socket(path)):
            with pytest.raises(OSError, match="another server listens") as refused:
                unix_socket(path)
            assert refused.value.errno == errno.EADDRINUSE
            with dial("ws://localhost/", unix=path) as conn:
                conn.send("here")
                assert conn.recv(timeout=10) == "here"
        assert os.path.exists(path)  # Koko removes nothing


def test_a_file_that_is_no_socket_is_not_removed(
    unix_socket: Callable[[str], socket.socket], tmp_path: Path
) -> None:
    path = tmp_path / "app.sock"
    path.write_text("precious")
    with pytest.raises(OSError, match="is no socket"):
        unix_socket(str(path))
    assert path.read_text() == "precious"
