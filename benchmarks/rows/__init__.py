"""The rows of the table: one module each, with a `ROW` and the programs that it measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from goals import (
    AtLeast,
    Goal,
    GrowsAtMost,
    MemoryAtMost,
    RateAtLeast,
    SecondsAtMost,
    ShareAtMost,
    SlowsAtMost,
    TimeAtMost,
)

__all__ = [
    "AtLeast",
    "Contestant",
    "GrowsAtMost",
    "MemoryAtMost",
    "RateAtLeast",
    "Row",
    "SecondsAtMost",
    "ShareAtMost",
    "SlowsAtMost",
    "TimeAtMost",
]


def _nothing(folder: Path) -> None:
    del folder


@dataclass(frozen=True, slots=True)
class Contestant:
    """One program of a row."""

    name: str
    command: Callable[[Path], list[str]]
    """Its arguments, for a folder that the row's `prepare` filled. It runs in that folder.

    Where its last line is `{"seconds": 1.5}` that is its time, else the whole process's. What else stands
    there are figures, for goals and for `Row.figures`.
    """
    before: Callable[[Path], None] = _nothing
    """Removes what an earlier run left in the folder."""
    share: float = 1.0
    """How much of the work it gets: a slow one less, since rates are compared."""
    num_cpus: int | None = 1
    """CPUs that it may use; None for all."""
    upto: int = 10
    """How many times the work it is given at most: 1, 10, or 100, which only `--million` asks for."""


@dataclass(frozen=True, slots=True)
class Row:
    """One part of the pipeline beside what others do. The first contestant is ours."""

    title: str
    unit: str
    size: int
    """Units of work at 1×."""
    prepare: Callable[[Path, int], None]
    """Fills a folder with that many units of work, the same ones every time."""
    contestants: tuple[Contestant, ...]
    size_unit: str = ""
    """What the size counts, where that is not what is timed."""
    work: int | None = None
    """Units that are timed, where that is not the size: what is added to what lies there already."""
    goals: tuple[Goal, ...] = ()
    figures: tuple[str, ...] = ()
    """What the programs tell of themselves that the table shows, as shares."""
    versions: Callable[[], str] = str
    """Versions of the other programs, as they are to stand in the table."""
    turns: int = 5
    """Runs of each at 1×, in turn; at 10× there are at most three."""
    note: str = ""
    """Said below the table."""
