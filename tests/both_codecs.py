"""Run pytest on both codecs at once, and print what was said on one after the other.

python tests/both_codecs.py [PYTEST OPTIONS]

The tests wait more than they work, so the two share the cores well. Either has its codec in
``KOKO_CODEC``, and tests that know of it leave the other codec to the other pass. What says
nothing of the codec (marked ``once``) runs in the first.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

BUILT = any(Path("src/koko/core").glob("_native*.so"))
REQUIRE_ALL = os.environ.get("KOKO_REQUIRE_ALL", "") not in ("", "0")
NOTHING_WAS_CHOSEN = 5  # the exit code of pytest


def start(codec: str, said: IO[bytes] | None) -> subprocess.Popen[bytes]:
    """Start the tests on a codec; what they say goes to ``said``, or is seen at once."""
    colour = ["--color=yes"] if sys.stdout.isatty() else []
    cache = ["-o", f"cache_dir=.pytest_cache/{codec}"]
    once = {} if said is None else {"KOKO_ONCE_ELSEWHERE": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", *colour, *cache, *sys.argv[1:]],
        env={**os.environ, **once, "KOKO_CODEC": codec},
        stdout=said,
        stderr=None if said is None else subprocess.STDOUT,
    )


def run(codecs: list[str]) -> list[int]:
    """Run the tests on each codec and return pytest's exit codes."""
    with TemporaryFile() as said:
        running = [start(codec, said if codec != codecs[0] else None) for codec in codecs]
        signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C ends them, and they end us
        signal.signal(signal.SIGTERM, lambda *_: [each.terminate() for each in running])
        for codec, process in zip(codecs, running, strict=True):
            print(f"==> tests on the {codec} codec", flush=True)
            process.wait()
            if codec != codecs[0]:
                said.seek(0)
                shutil.copyfileobj(said, sys.stdout.buffer)
    return [process.returncode for process in running]


def main() -> bool:
    """Tell whether a test failed, or anything that must be here was missing."""
    if not BUILT:
        print("==> no native codec was built here (no C compiler?): tests on the pure codec only")
    codes = run(["native", "pure"] if BUILT else ["pure"])
    # A test may be chosen that is there for one codec only.
    passed = 0 in codes and set(codes) <= {0, NOTHING_WAS_CHOSEN}
    return not passed or (REQUIRE_ALL and not BUILT)


if __name__ == "__main__":
    sys.exit(main())
