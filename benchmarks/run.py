"""Measures each part of the pipeline side by side with others, into benchmarks/results.md.

    python benchmarks/run.py                          every row
    python benchmarks/run.py mail_to_records --turns 1   one of them, quickly

The programs of a row run in turn, again and again, each a process of its own: what else the
machine does falls on all alike. A ratio is the median of the turns' ratios. Linux only.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "tests")]

from measure import Measurement, measure  # noqa: E402
from report import machine, write_section  # noqa: E402
from rows import Row  # noqa: E402

ROWS = sorted(path.stem for path in (HERE / "rows").glob("[a-z]*.py"))
TENFOLD_TURNS = 3


@dataclass(slots=True)
class Outcome:
    """What one contestant did with one size of the work."""

    rates: list[float] = field(default_factory=list)
    """Units a second, turn by turn."""
    peaks: list[int] = field(default_factory=list)
    """Bytes, turn by turn."""

    def add(self, num_units: int, measured: Measurement) -> None:
        """One more turn."""
        self.rates.append(num_units / measured.seconds)
        self.peaks.append(measured.peak_bytes)

    @property
    def rate(self) -> float:
        """Units a second: the median."""
        return median(self.rates)

    @property
    def peak_bytes(self) -> float:
        """The median."""
        return median(self.peaks)


Outcomes = dict[str, dict[int, Outcome]]
"""By contestant, and by how many times the work: 1 or 10."""


def run_row(row: Row, turns: int, scratch: Path) -> Outcomes:
    """All contestants of a row at 1× and at 10×."""
    outcomes: Outcomes = defaultdict(dict)
    for times in (1, 10):
        contestants = [one for one in row.contestants if times == 1 or one.at_ten]
        for _ in range(turns if times == 1 else min(turns, TENFOLD_TURNS)):
            for contestant in contestants:
                num_units = round(row.size * times * contestant.share)
                folder = _prepared(row, num_units, scratch)
                contestant.before(folder)
                measured = measure(contestant.command(folder), folder, contestant.num_cpus)
                outcomes[contestant.name].setdefault(times, Outcome()).add(num_units, measured)
                _say(row.unit, times, contestant.name, num_units, measured)
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
    parser.add_argument("--output", type=Path, default=HERE / "results.md")
    options = parser.parse_args()
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    for name in options.rows or ROWS:
        row: Row = import_module(f"rows.{name}").ROW
        print(f"== {row.title}", flush=True)
        with tempfile.TemporaryDirectory(prefix="refrain-bench-") as scratch:
            outcomes = run_row(row, options.turns or row.turns, Path(scratch))
        write_section(options.output, name, row, outcomes, machine())


if __name__ == "__main__":
    main()
