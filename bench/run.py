"""Measure Koko beside its peers: ``make bench``.

    python bench/run.py [--quick] [--only NAME,...] [--markdown FILE] [--svg FILE]

``--only asgi`` is all rows whose names begin so.

The server has one core, its load the other. Within a row the servers take turns, round
after round, so that a slow minute of the machine affects all of them; each figure is the
median of the rounds. The exit code is 1 if Koko could not be measured; being slow is no error.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from pathlib import Path

import report
import rig
from picture import write_svg
from rows import ROWS, Row

TURN, START = 0.25, 1.0  # seconds that a turn takes beyond its own time, and a server to start


def main() -> int:
    """Measure what was asked for, show each row as it is done, and write the files."""
    args = _arguments()
    if platform.system() != "Linux":
        raise SystemExit("the bench needs Linux: it pins cores and reads /proc")
    begun = time.monotonic()
    try:
        rig.build()
    except rig.Unavailable as error:
        raise SystemExit(f"the load cannot be built: {error}") from None
    machine = report.machine(rig.raise_file_limit())
    print(f"{machine}\n{_manner(args)}\n{_length(args)}\n\n{report.HEADING}")
    results = [_measure(row, args) for row in args.only]
    _write(args, results, f"{machine} {_manner(args)}")
    print(f"measured in {time.monotonic() - begun:.0f} s")
    return any(result.lines[0].problem for result in results)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure Koko beside its peers.")
    parser.add_argument("--quick", action="store_true", help="short rounds; only to see it work")
    parser.add_argument("--only", type=_rows, default=ROWS, metavar="NAME,...", help=_names())
    parser.add_argument("--rounds", type=int, default=5, help="turns of each server (%(default)s)")
    parser.add_argument("--secs", type=float, default=0.4, help="of each turn (%(default)s)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="put the table there")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw it there")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.secs = 1, 0.3
    return args


def _rows(names: str) -> list[Row]:
    rows = [row for name in names.split(",") for row in _named(name)]
    return list(dict.fromkeys(rows))


def _named(name: str) -> list[Row]:
    """Return the row of this name, or all whose names begin with this word."""
    found = [row for row in ROWS if row.name == name]
    found = found or [row for row in ROWS if row.name.startswith(f"{name}-")]
    if not found:
        raise argparse.ArgumentTypeError(f"no row {name}; there are {_names()}")
    return found


def _names() -> str:
    return ", ".join(row.name for row in ROWS)


def _manner(args: argparse.Namespace) -> str:
    server, load = rig.cores()
    return (
        f"Servers on core {server}, load on core {load}, {args.rounds} rounds in turn "
        f"of {args.secs:g} s each, medians."
    )


def _length(args: argparse.Namespace) -> str:
    """Say how long it takes, so that nobody waits without knowing for what."""
    seconds = 0.0
    for row in args.only:
        turns = row.rounds(args.rounds) * len(row.entries)
        starts = turns if row.fresh else len(row.entries)
        seconds += turns * (args.secs + TURN) + starts * START
    return f"{len(args.only)} rows, about {round(seconds, -1):.0f} s."


def _measure(row: Row, args: argparse.Namespace) -> report.Result:
    result = report.conclude(row, rig.measure(row, row.rounds(args.rounds), args.secs))
    print(report.text(result), flush=True)
    return result


def _write(args: argparse.Namespace, results: list[report.Result], machine: str) -> None:
    if args.svg:
        write_svg(args.svg, results, machine)
    if args.markdown:
        report.write_markdown(args.markdown, results, machine)


if __name__ == "__main__":
    sys.exit(main())
