"""Let Autobahn examine Koko: as server and as client, on both faces and both codecs, in uvicorn.

Each run is one process of ours and one of Autobahn's ``wstest``, which attacks the other
and writes a report; here the reports become one table. The full suite is written to
docs/compliance.md. Anything but OK and INFORMATIONAL, in what was said or in how it was
closed, makes the exit status 1.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from textwrap import indent
from typing import IO, NamedTuple

from ports import free_port

ROOT = Path(__file__).resolve().parent.parent
REPORTS = ROOT / "build" / "compliance"
TABLE = ROOT / "docs" / "compliance.md"
SPEC, LOG = "spec.json", "wstest.log"

ROLES, CODECS = ("server", "client"), ("native", "pure")
FACES = ("aio", "sync")
UVICORN = ("uvicorn+httptools", "uvicorn+h11")  # and who reads HTTP there: servers alone
VERDICTS = ("OK", "INFORMATIONAL", "NON-STRICT", "FAILED", "UNIMPLEMENTED")
GOOD = ("OK", "INFORMATIONAL")

ALL = ["*"]
# Sections 9 (large messages), 12 and 13 (a thousand compressed messages a case) take all
# the time. Of 12 every kind of content, of 13 every set of parameters, once and small.
QUICK = [
    *(f"{section}.*" for section in (1, 2, 3, 4, 5, 6, 7, 10)),
    *("12.1.1", "12.2.3", "12.3.5", "12.4.5", "12.5.8"),
    *(f"13.{parameters}.1" for parameters in range(1, 8)),
]

STARTUP = 30.0  # seconds until a server must accept connections
LARGEST = 32 << 20  # section 9 sends 16 MiB
ECHO = "peers.servers:asgi"
LISTENING = re.compile(r"(?:listening on ws|Uvicorn running on http)://(\S+)\s")
HEADER = """\
# Compliance

<!-- Written by `make compliance`; edits are lost. -->

Every case of the Autobahn test suite, with Koko as the server and as the client, on both
faces and both codecs, and as the class that [uvicorn](uvicorn.md) runs, behind each of its
usual HTTP parsers. OK and INFORMATIONAL are what a strict implementation gets: in an
informational case the RFC leaves the answer open. A case counts as OK only if it was also
closed as the suite expects.

"""


class Run(NamedTuple):
    """One examination: which of our sides is on which face (or in uvicorn) and which codec."""

    role: str
    face: str
    codec: str

    def __str__(self) -> str:
        return "-".join(self)

    @property
    def folder(self) -> Path:
        return REPORTS / str(self)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "KOKO_CODEC": self.codec}


class Outcome(NamedTuple):
    """What Autobahn said of one run: a verdict for each case; was that the whole suite?"""

    run: Run
    verdicts: dict[str, str]
    announced: int
    whole: bool

    @property
    def passed(self) -> bool:
        complete = 0 < self.announced == len(self.verdicts)
        return complete and all(verdict in GOOD for verdict in self.verdicts.values())


# One run


def examine(run: Run, args: argparse.Namespace) -> None:
    shutil.rmtree(run.folder, ignore_errors=True)
    run.folder.mkdir(parents=True)
    start = time.monotonic()
    with (run.folder / LOG).open("w") as log:
        try:
            (examine_server if run.role == "server" else examine_client)(run, args, log)
        except (subprocess.SubprocessError, RuntimeError) as error:
            # The other runs go on; this one has failed.
            print(f"{run}: {error}\n{last_lines(run.folder / LOG)}", flush=True)
    print(f"{run}: {time.monotonic() - start:.0f} s", flush=True)


def last_lines(log: Path, count: int = 20) -> str:
    """Return how a log ends, set in: why a process failed stands nowhere else."""
    return indent("\n".join(log.read_text(errors="replace").splitlines()[-count:]), "    ")


def examine_server(run: Run, args: argparse.Namespace, log: IO[str]) -> None:
    with echo_server(run, args.loop) as url:
        spec = write_spec(run, args.cases, servers=[{"agent": "koko", "url": url}])
        command = [args.wstest, "-m", "fuzzingclient", "-s", spec]
        subprocess.run(command, stdout=log, stderr=log, timeout=args.timeout, check=True)


def examine_client(run: Run, args: argparse.Namespace, log: IO[str]) -> None:
    url = f"ws://127.0.0.1:{free_port()}"
    spec = write_spec(run, args.cases, url=url)
    # Port 0 is for the pages of its web server: none.
    command = [args.wstest, "-m", "fuzzingserver", "-u", "0", "-s", spec]
    with process(command, log) as wstest:
        await_port(url, wstest)
        client = [sys.executable, str(ROOT / "compliance" / "client.py"), url, "--face", run.face]
        loop = ["--loop", args.loop] if args.loop != "auto" else []
        subprocess.run([*client, *loop], env=run.environment, timeout=args.timeout, check=True)


@contextmanager
def echo_server(run: Run, loop: str) -> Iterator[str]:
    uvicorn = run.face in UVICORN
    command = in_uvicorn(run, loop) if uvicorn else on_its_own(run, loop)
    path = run.folder / "koko.log"
    with path.open("w") as log, process(command, log, env=run.environment) as server:
        yield await_address(server, path)
        server.terminate()
        # uvicorn stops, and then ends by the signal that told it to.
        if server.wait(STARTUP) != (-signal.SIGTERM if uvicorn else 0):
            raise RuntimeError(f"{run}: the server exited with {server.returncode} on SIGTERM")


def on_its_own(run: Run, loop: str) -> list[str]:
    command = [sys.executable, "-m", "koko", "serve", "echo", "--face", run.face, "--port", "0"]
    command += ["--compression", "--read-limit", str(LARGEST)]
    return [*command, *(["--loop", loop] if run.face == "aio" else [])]


def in_uvicorn(run: Run, loop: str) -> list[str]:
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(ROOT / "compliance"), ECHO]
    command += ["--ws", "koko.uvicorn:Protocol", "--http", run.face.partition("+")[2]]
    return [*command, "--port", "0", "--loop", loop, "--ws-max-size", str(LARGEST)]


@contextmanager
def process(
    command: list[str], stdout: IO[str], *, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    errors = subprocess.STDOUT
    with subprocess.Popen(command, stdout=stdout, stderr=errors, env=env, text=True) as running:
        try:
            yield running
        finally:
            if running.poll() is None:
                running.kill()


def await_address(server: subprocess.Popen[str], log: Path) -> str:
    deadline = time.monotonic() + STARTUP
    while server.poll() is None and time.monotonic() < deadline:
        if found := LISTENING.search(log.read_text()):
            return f"ws://{found[1]}"
        time.sleep(0.05)
    raise RuntimeError(f"{server.args!r} never said where it listens:\n{last_lines(log)}")


def await_port(url: str, wstest: subprocess.Popen[str]) -> None:
    host, port = url.removeprefix("ws://").split(":")
    deadline = time.monotonic() + STARTUP
    while wstest.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((host, int(port))).close()
        except ConnectionRefusedError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"wstest does not listen on {url}")


def write_spec(run: Run, cases: list[str], **peer: object) -> str:
    spec = {"outdir": str(run.folder), "cases": cases, "exclude-cases": [], **peer}
    path = run.folder / SPEC
    path.write_text(json.dumps(spec | {"exclude-agent-cases": {}}, indent=1))
    return str(path)


# What came of it


def read_outcome(run: Run) -> Outcome:
    announced = re.search(r"will run (\d+) test cases", (run.folder / LOG).read_text())
    whole = json.loads((run.folder / SPEC).read_text())["cases"] == ALL
    verdicts = read_verdicts(run.folder / "index.json")
    return Outcome(run, verdicts, int(announced[1]) if announced else 0, whole)


def read_verdicts(index: Path) -> dict[str, str]:
    if not index.exists():
        return {}
    (cases,) = json.loads(index.read_text()).values()
    numbered = sorted(cases, key=lambda case: [int(part) for part in case.split(".")])
    return {case: judge(**cases[case]) for case in numbered}


def judge(behavior: str, behaviorClose: str, **_: object) -> str:  # noqa: N803
    """Return the verdict on what was said, unless only the closing went wrong."""
    return "FAILED" if behavior in GOOD and behaviorClose not in GOOD else behavior


def render(outcomes: list[Outcome]) -> str:
    names = ("our role", "face, or server", "codec", "cases", *VERDICTS)
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * 3 + "---:|" * (len(names) - 3)]
    for outcome in outcomes:
        count = Counter(outcome.verdicts.values())
        cells = [*outcome.run, outcome.announced, *(count[verdict] for verdict in VERDICTS)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([*lines, "", *render_exceptions(outcomes)]) + "\n"


def render_exceptions(outcomes: list[Outcome]) -> Iterator[str]:
    """Name every case that is not OK, and the runs that is true of."""
    runs_by_case: dict[tuple[str, str], list[str]] = defaultdict(list)
    for outcome in outcomes:
        for case, verdict in outcome.verdicts.items():
            if verdict != "OK":
                runs_by_case[verdict, case].append(str(outcome.run))
    cases_by_runs: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for (verdict, case), runs in runs_by_case.items():
        cases_by_runs[verdict, *runs].append(case)
    for (verdict, *runs), cases in cases_by_runs.items():
        where = "in every run" if len(runs) == len(outcomes) else f"in {', '.join(runs)}"
        yield f"- {verdict} {where}: {', '.join(cases)}"
    for outcome in outcomes:
        if len(outcome.verdicts) != outcome.announced or not outcome.announced:
            yield f"- {outcome.run}: {len(outcome.verdicts)} of {outcome.announced} cases reported"


def describe(wstest: str) -> str:
    """Say what was run, on what: the last words of docs/compliance.md."""
    version = subprocess.run(
        [wstest, "--autobahnversion"], capture_output=True, text=True, check=False
    ).stdout.split("AutobahnTestSuite ")[-1]
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"\nAutobahn test suite {version.strip()}, {python}, {platform.system()}.\n"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wstest", default="build/wstest/bin/wstest", help="Autobahn's program")
    parser.add_argument("--quick", dest="cases", action="store_const", const=QUICK, default=ALL)
    parser.add_argument("--cases", nargs="+", metavar="CASE", help="such as 7.* or 12.1.1")
    parser.add_argument("--role", nargs="+", choices=ROLES, default=ROLES)
    parser.add_argument("--face", nargs="+", choices=FACES + UVICORN, default=FACES + UVICORN)
    parser.add_argument("--codec", nargs="+", choices=CODECS, default=CODECS)
    parser.add_argument("--loop", choices=["auto", "asyncio", "uvloop"], default="auto")
    parser.add_argument("--report", action="store_true", help="only read what earlier runs left")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds for one run")
    return parser.parse_args(argv)


def chosen(args: argparse.Namespace) -> list[Run]:
    runs = [Run(*which) for which in itertools.product(args.role, args.face, args.codec)]
    return [run for run in runs if run.role == "server" or run.face in FACES]


def main() -> int:
    args = parse()
    runs = chosen(args)
    if not args.report:
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(lambda run: examine(run, args), runs))
    outcomes = [read_outcome(run) for run in runs]
    table = render(outcomes)
    print(f"\n{table}")
    if runs == chosen(parse([])) and all(outcome.whole for outcome in outcomes):
        TABLE.write_text(HEADER + table + describe(args.wstest))
        print(f"written to {TABLE.relative_to(ROOT)}")
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
