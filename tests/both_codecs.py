"""Run pytest on both codecs at once, and print what was said on one after the other.

python tests/both_codecs.py MARKS [PYTEST OPTIONS]

The tests wait more than they work, so the passes share the cores well: one for each codec, in
``KOKO_CODEC``, and one for the tests that say nothing of it (marked ``once``). A fixture that
goes through the codecs takes them from the pass it runs in.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

BUILT = any(Path("src/koko/core").glob("_native*.so"))
REQUIRE_ALL = os.environ.get("KOKO_REQUIRE_ALL", "") not in ("", "0")
NOTHING_WAS_CHOSEN = 5  # the exit code of pytest


def start(codec: str, marks: str, said: IO[bytes] | None) -> subprocess.Popen[bytes]:
    """Start one pass; what it says goes to ``said``, or is seen at once."""
    which = f"({marks}) and {'not ' if codec else ''}once"
    colour = ["--color=yes"] if sys.stdout.isatty() else []
    cache = ["-o", f"cache_dir=.pytest_cache/{codec or 'once'}"]
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-m", which, *colour, *cache, *sys.argv[2:]],
        env={**os.environ, "KOKO_CODEC": codec},
        stdout=said,
        stderr=None if said is None else subprocess.STDOUT,
    )


def run(passes: dict[str, str]) -> list[int]:
    """Run the tests of each pass, a codec and a title, and return pytest's exit codes."""
    with ExitStack() as kept:
        logs = [None, *(kept.enter_context(TemporaryFile()) for _ in range(len(passes) - 1))]
        running = [start(codec, sys.argv[1], log) for codec, log in zip(passes, logs, strict=True)]
        signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C ends them, and they end us
        signal.signal(signal.SIGTERM, lambda *_: [each.terminate() for each in running])
        for title, process, log in zip(passes.values(), running, logs, strict=True):
            print(f"==> {title}", flush=True)
            process.wait()
            if log is not None:
                log.seek(0)
                shutil.copyfileobj(log, sys.stdout.buffer)
    return [process.returncode for process in running]


def main() -> bool:
    """Tell whether a test failed, or anything that must be here was missing."""
    passes = {
        "native": "tests on the native codec",
        "pure": "tests on the pure codec",
        "": "tests that say nothing of the codec",
    }
    if not BUILT:
        del passes["native"]
        print("==> no native codec was built here (no C compiler?): tests on the pure codec only")
    codes = run(passes)
    # What was chosen by hand may be in one pass only.
    passed = 0 in codes and set(codes) <= {0, NOTHING_WAS_CHOSEN}
    return not passed or (REQUIRE_ALL and not BUILT)


if __name__ == "__main__":
    sys.exit(main())
