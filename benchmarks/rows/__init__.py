"""The rows of the table: one module each, with a `ROW` and the programs that it measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


def _nothing(folder: Path) -> None:
    del folder


@dataclass(frozen=True, slots=True)
class Contestant:
    """One program of a row."""

    name: str
    command: Callable[[Path], list[str]]
    """Its arguments, for a folder that the row's `prepare` filled. It runs in that folder.

    Where its last line is `{"seconds": 1.5}` that is its time, else the whole process's.
    """
    before: Callable[[Path], None] = _nothing
    """Removes what an earlier run left in the folder."""
    share: float = 1.0
    """How much of the work it gets: a slow one less, since rates are compared."""
    num_cpus: int | None = 1
    """CPUs that it may use; None for all."""
    at_ten: bool = True
    """Whether it is also given ten times the work."""


@dataclass(frozen=True, slots=True)
class AtLeast:
    """A goal: our rate over another's."""

    ratio: float
    against: str
    """Name of the contestant."""


@dataclass(frozen=True, slots=True)
class GrowsAtMost:
    """A goal: our memory at 10× over that at 1×."""

    ratio: float


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
    goals: tuple[AtLeast | GrowsAtMost, ...] = ()
    versions: Callable[[], str] = str
    """Versions of the other programs, as they are to stand in the table."""
    turns: int = 5
    """Runs of each at 1×, in turn; at 10× there are at most three."""
    note: str = ""
    """Said below the table."""
