"""The versions in docs/integrations.md: those that are installed here.

``python -m house.integrations`` writes them into the page, where each stands behind its name.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "integrations.md"
OF_NPM = {"socket.io-client": ROOT / "build" / "npm" / "package" / "package.json"}
PROGRAMS = {"nginx": "-v", "haproxy": "-v", "caddy": "version", "chromium": "--version"}
WITH_DAEMONS = f"{os.environ.get('PATH', '')}:/usr/sbin"
NAMED = re.compile(r"`([\w.-]+)` (\d[\w.]*)")


def of_program(name: str) -> str | None:
    """Return what a program says of itself."""
    path = shutil.which(name, path=WITH_DAEMONS)
    if path is None:
        return None
    said = subprocess.run([path, PROGRAMS[name]], capture_output=True, text=True)
    found = re.search(r"\d+(?:\.\d+)+", said.stdout + said.stderr)
    return found and found[0]


def installed(name: str) -> str | None:
    """Return the version of this name that is here, if it is."""
    if name in PROGRAMS:
        return of_program(name)
    if name in OF_NPM:
        file = OF_NPM[name]
        return str(json.loads(file.read_text())["version"]) if file.exists() else None
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def renewed(page: str) -> str:
    """Return the page with the versions that are here; what is not keeps its own."""
    return NAMED.sub(lambda found: f"`{found[1]}` {installed(found[1]) or found[2]}", page)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text("utf-8")), "utf-8")
