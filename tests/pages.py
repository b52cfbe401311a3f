"""The pages of docs/ as what a reader does: files to write, commands to type."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
A_FILE = re.compile(
    r"```(?:python\n# |html\n<!-- )([\w/.]+\.(?:py|html))(, at the end)?(?: -->)?\n(.*?)```",
    re.DOTALL,
)
A_COMMAND = re.compile(r"```sh\n(.*?)```", re.DOTALL)


def written(page: str, folder: Path, *names: str) -> None:
    """Write the files of a page into a folder: all of them, or those named."""
    for name, at_the_end, text in A_FILE.findall((DOCS / page).read_text("utf-8")):
        if not names or name in names:
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text((file.read_text() if at_the_end else "") + text)


def commands(page: str) -> list[str]:
    """Return what a page has its reader type, block by block."""
    return [block.strip() for block in A_COMMAND.findall((DOCS / page).read_text("utf-8"))]
