"""A reader of a page of docs/, in a folder of their own: writes its files, types its commands.

What is typed stands on the page, to the letter. Only the environment is ours: packages are
installed already, and servers choose a free port.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from tests.adapters.conftest import said, stop
from tests.pages import commands, written

ADDRESS = re.compile(r"(?:Uvicorn running on|Listening at:) http://(127\.0\.0\.1:\d+)")
ENVIRONMENT = {
    "PIP_NO_INDEX": "1",  # all is here: a name that is not would be an error
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "UVICORN_PORT": "0",
    "GUNICORN_CMD_ARGS": "--bind 127.0.0.1:0",
    "PYTHONUNBUFFERED": "1",
    "NO_COLOR": "1",
}


class Reader:
    def __init__(self, page: str) -> None:
        self._page = page
        lines = [line for block in commands(page) for line in block.splitlines()]
        self._commands = {re.sub(r"\s+(&|#.*)$", "", line) for line in lines}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._environment = {**os.environ, **ENVIRONMENT, "PATH": path}

    def __enter__(self) -> Self:
        self._made = TemporaryDirectory()
        self.folder = Path(self._made.name)
        return self

    def __exit__(self, *error: object) -> None:
        self._made.cleanup()

    def writes(self, *names: str) -> None:
        written(self._page, self.folder, *names)
        for name in names:
            assert (self.folder / name).exists(), f"docs/{self._page} has no file {name}"
            print(f"wrote {name}")

    def moves(self, written: str, chosen: str, *names: str) -> None:
        """Put another port than the page's into its files."""
        for name in names:
            file = self.folder / name
            assert written in file.read_text()
            file.write_text(file.read_text().replace(written, chosen))

    def types(self, command: str) -> None:
        """Type a command and wait for its end."""
        self._show(command)
        subprocess.run(command, shell=True, check=True, cwd=self.folder, env=self._environment)

    @contextmanager
    def starts(self, command: str, says: re.Pattern[str] = ADDRESS) -> Iterator[str]:
        """Type a command that serves, yield what it says and end it."""
        self._show(command)
        log = self.folder / f"{command.replace('/', ' ')}.log"
        with log.open("w") as told:
            process = subprocess.Popen(
                f"exec {command}",
                shell=True,
                cwd=self.folder,
                env=self._environment,
                stdout=told,
                stderr=told,
                start_new_session=True,  # our own Ctrl-C is not theirs
            )
        try:
            yield said(process, log, says)
        finally:
            try:
                stop(process)
            finally:
                print(log.read_text())
        assert "Traceback" not in log.read_text()

    def _show(self, command: str) -> None:
        assert command in self._commands, f"docs/{self._page} does not say {command!r}"
        print(f"$ {command}", flush=True)
