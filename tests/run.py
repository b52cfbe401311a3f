"""Run the tests on both codecs, several pytests side by side, and print what each said in turn.

python tests/run.py MARKS [PYTEST OPTIONS] [FILES]

Many tests wait rather than work, so more processes run than there are cores, those that take
longest first. Each has one share of the tests and one codec, in ``KOKO_CODEC``; a fixture that
goes through the codecs takes it from there. Tests marked ``once`` say nothing of the codec:
they run with none chosen.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

BUILT = any(Path("src/koko/core").glob("_native*.so"))
REQUIRE_ALL = os.environ.get("KOKO_REQUIRE_ALL", "") not in ("", "0")
NOTHING_WAS_CHOSEN = 5  # the exit code of pytest
CODECS = {"": "no codec in particular", "native": "the native codec", "pure": "the pure codec"}
SHARES = [["tests/programs"], ["tests/examples"], ["tests/aio"], ["tests/sync", "tests/dialing"]]
AT_ONCE = 3  # processes for each core


def is_path(argument: str) -> bool:
    return Path(argument.partition("::")[0]).exists()


def shares(named: list[str]) -> list[list[str]]:
    """Divide the tests among processes; of those named by hand each is a share."""
    if named:
        return [[path] for path in named]
    taken = {Path(path) for share in SHARES for path in share}
    rest = {test.parent for test in Path("tests").glob("*/test_*.py")} - taken
    return [*SHARES, [*map(str, sorted(rest)), *map(str, sorted(Path("tests").glob("test_*.py")))]]


def in_order(codecs: list[str], shares: list[list[str]]) -> list[tuple[str, list[str]]]:
    """Pair codecs and shares, the longest first: what starts programs runs once for the most."""
    pairs = [(codec, share) for share in shares for codec in codecs]
    programs = (["tests/programs"], ["tests/examples"])
    return sorted(pairs, key=lambda pair: (pair[0] != "") is (pair[1] in programs))


class Runner:
    """Runs pytest after pytest, and ends those that run when it is told to."""

    def __init__(self, marks: str, options: list[str]) -> None:
        self._marks = marks
        self._options = options
        self._running: list[subprocess.Popen[bytes]] = []
        self._stopped = False

    def run(self, codec: str, share: list[str], said: IO[bytes]) -> int:
        """Run one share of the tests on one codec and return pytest's exit code."""
        which = f"({self._marks}) and {'not ' if codec else ''}once"
        colour = ["--color=yes"] if sys.stdout.isatty() else []
        cache = f"cache_dir=.pytest_cache/{codec or 'once'}-{'-'.join(share[:1]).replace('/', '-')}"
        if self._stopped:
            return NOTHING_WAS_CHOSEN
        pytest = [sys.executable, "-m", "pytest", "-q", "-m", which, "-o", cache, *colour]
        process = subprocess.Popen(
            [*pytest, *self._options, *share],
            env={**os.environ, "KOKO_CODEC": codec},
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        self._running.append(process)
        return process.wait()

    def stop(self, *_: object) -> None:
        """End those that run; they say how far they came."""
        self._stopped = True
        for process in self._running:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)


def run(marks: str, options: list[str], codecs: list[str]) -> dict[str, int]:
    """Run the tests, print what each process said and return their exit codes."""
    named = [argument for argument in options if is_path(argument)]
    options = [argument for argument in options if not is_path(argument)]
    runner, codes = Runner(marks, options), dict[str, int]()
    signal.signal(signal.SIGINT, runner.stop)
    signal.signal(signal.SIGTERM, runner.stop)
    with ThreadPoolExecutor(AT_ONCE * (os.cpu_count() or 1)) as pool, ExitStack() as kept:
        running = []
        for codec, share in in_order(codecs, shares(named)):
            log = kept.enter_context(TemporaryFile())
            names = " ".join(share[:2]) + (" ..." if len(share) > 2 else "")
            title = f"{names or 'tests'}, on {CODECS[codec]}"
            running.append((title, log, pool.submit(runner.run, codec, share, log)))
        for title, log, done in running:
            codes[title] = done.result()
            if codes[title] != NOTHING_WAS_CHOSEN:
                print(f"==> {title}", flush=True)
                log.seek(0)
                shutil.copyfileobj(log, sys.stdout.buffer)
    return codes


def main() -> bool:
    """Tell whether a test failed, or anything that must be here was missing."""
    began, codecs = time.monotonic(), list(CODECS)
    if not BUILT:
        codecs.remove("native")
        print("==> no native codec was built here (no C compiler?): tests on the pure codec only")
    codes = run(sys.argv[1], sys.argv[2:], codecs)
    failed = [title for title, code in codes.items() if code not in (0, NOTHING_WAS_CHOSEN)]
    passed = not failed and 0 in codes.values()  # what was chosen by hand may be in one share only
    verdict = "all passed" if passed else f"FAILED: {'; '.join(failed) or 'no test was chosen'}"
    print(f"==> {verdict}, {time.monotonic() - began:.0f} s")
    return not passed or (REQUIRE_ALL and not BUILT)


if __name__ == "__main__":
    sys.exit(main())
