"""Measures each part of the pipeline side by side with others, into benchmarks/results.md.

    python benchmarks/run.py                          every row
    python benchmarks/run.py mail_to_records --turns 1   one of them, quickly
    python benchmarks/run.py --million                a hundred times the work too, where a row has it

The programs of a row run in turn, again and again, each a process of its own: what else the
machine does falls on all alike. A ratio is the median of the turns' ratios. Linux only.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import defaultdict
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "tests")]

from measure import Measurement, Outcome, measure  # noqa: E402
from report import machine, write_section  # noqa: E402
from rows import Row  # noqa: E402

ROWS = sorted(path.stem for path in (HERE / "rows").glob("[a-z]*.py"))
TURNS = {1: 99, 10: 3, 100: 1}
"""At most so many turns at so many times the work."""


Measured = dict[str, dict[int, Outcome]]
"""By contestant, and by how many times the work: 1, 10 or 100."""


def run_row(row: Row, turns: int, scratch: Path, most: int = 10) -> Measured:
    """All contestants of a row at 1×, at 10× and so on."""
    outcomes: Measured = defaultdict(dict)
    for times in [times for times in TURNS if times <= most]:
        for _ in range(min(turns, TURNS[times])):
            for contestant in [one for one in row.contestants if times <= one.upto]:
                num_units = round(row.size * times * contestant.share)
                folder = _prepared(row, num_units, scratch)
                contestant.before(folder)
                measured = measure(contestant.command(folder), folder, contestant.num_cpus)
                num_timed = row.work or num_units
                outcomes[contestant.name].setdefault(times, Outcome()).add(num_timed, measured)
                _say(row.unit, times, contestant.name, num_timed, measured)
        for folder in scratch.iterdir():
            shutil.rmtree(folder)
    return outcomes


def _prepared(row: Row, num_units: int, scratch: Path) -> Path:
    folder = scratch / str(num_units)
    if not folder.exists():
        folder.mkdir()
        row.prepare(folder, num_units)
    return folder


def _say(unit: str, times: int, name: str, num_units: int, measured: Measurement) -> None:
    rate = f"{num_units / measured.seconds:,.0f} {unit}/s"
    print(f"{times:2}x  {name}: {rate}, {measured.peak_bytes / 2**20:.0f} MiB", flush=True)


def main() -> None:
    """Run the rows that were asked for and write their sections."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all where none is named")
    parser.add_argument("--turns", type=int, help="runs of each program at 1x; each row has its default")
    parser.add_argument("--million", action="store_true", help="a hundred times the work too, where a row has it")
    parser.add_argument("--output", type=Path, default=HERE / "results.md")
    options = parser.parse_args()
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    for name in options.rows or ROWS:
        row: Row = import_module(f"rows.{name}").ROW
        print(f"== {row.title}", flush=True)
        with tempfile.TemporaryDirectory(prefix="refrain-bench-") as scratch:
            outcomes = run_row(row, options.turns or row.turns, Path(scratch), 100 if options.million else 10)
        write_section(options.output, name, row, outcomes, machine())


if __name__ == "__main__":
    main()
