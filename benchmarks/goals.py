"""What a row wants to reach: each goal judges what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from measure import Outcome

Outcomes = Mapping[str, Mapping[int, "Outcome"]]
"""By contestant, ours first, and by how many times the work: 1, 10 or 100."""


class Goal(Protocol):
    """Something to reach, at so many times the work."""

    @property
    def times(self) -> int:
        """The most work that it speaks of; it is judged where that was measured."""

    def judge(self, outcomes: Outcomes) -> tuple[bool, str]:
        """Whether it is reached, and what was measured beside what is wanted."""


def ratio(ours: Outcome, theirs: Outcome) -> float:
    """Our rate over theirs: the median over the turns, each beside its own."""
    return median(a / b for a, b in zip(ours.rates, theirs.rates, strict=True))


def shown(value: float) -> str:
    """A ratio as it stands in the table."""
    return f"{value:.1f}×" if value >= 2 else f"{value:.2f}×"


def _ours(outcomes: Outcomes) -> Mapping[int, Outcome]:
    return next(iter(outcomes.values()))


def _at(times: int) -> str:
    return "" if times == 1 else f" at {times}×"


@dataclass(frozen=True, slots=True)
class AtLeast:
    """Our rate over another's."""

    least: float
    against: str
    """Name of the contestant."""
    times: int = 1

    def judge(self, outcomes: Outcomes) -> tuple[bool, str]:
        """See `Goal`."""
        value = ratio(_ours(outcomes)[self.times], outcomes[self.against][self.times])
        return value >= self.least, f"{shown(value)} {self.against}{_at(self.times)}, goal ≥ {self.least:g}×"


@dataclass(frozen=True, slots=True)
class RateAtLeast:
    """Our rate itself: of what no other program does."""

    least: float
    unit: str
    times: int = 1

    def judge(self, outcomes: Outcomes) -> tuple[bool, str]:
        """See `Goal`."""
        value = _ours(outcomes)[self.times].rate
        return value >= self.least, f"{value:,.0f} {self.unit}/s{_at(self.times)}, goal ≥ {self.least:,.0f}"


@dataclass(frozen=True, slots=True)
class GrowsAtMost:
    """Our memory at 10× over that at 1×."""

    most: float
    times: int = 10

    def judge(self, outcomes: Outcomes) -> tuple[bool, str]:
        """See `Goal`."""
        ours = _ours(outcomes)
        value = ours[self.times].peak_bytes / ours[1].peak_bytes
        return value <= self.most, f"memory grows {value:.2f}× with {self.times}× the work, goal ≤ {self.most:g}×"


@dataclass(frozen=True, slots=True)
class SlowsAtMost:
    """Our time for the same work when what lies there already grows."""

    most: float
    times: int = 10

    def judge(self, outcomes: Outcomes) -> tuple[bool, str]:
        """See `Goal`."""
        ours = _ours(outcomes)
        value = ours[1].rate / ours[self.times].rate
        return value <= self.most, f"takes {value:.2f}× the time at {self.times}×, goal ≤ {self.most:g}×"


@dataclass(frozen=True, slots=True)
class TimeAtMost:
    """Our time over another's for the same work."""

    most: float
    against: str
    """Name of the contestant."""
    times: int = 1

    def judge(self, outcomes: Outcomes) -> tuple[bool, str]:
        """See `Goal`."""
        value = 1 / ratio(_ours(outcomes)[self.times], outcomes[self.against][self.times])
        said = f"takes {value:.2f}× the time of {self.against}{_at(self.times)}"
        return value <= self.most, f"{said}, goal ≤ {self.most:g}×"


@dataclass(frozen=True, slots=True)
class MemoryAtMost:
    """The most memory that we held, or its part that a `figure` tells of."""

    most_bytes: float
    times: int
    figure: str = ""
    """Where the program itself tells the bytes."""

    def judge(self, outcomes: Outcomes) -> tuple[bool, str]:
        """See `Goal`."""
        found = _ours(outcomes)[self.times]
        value = found.figure(self.figure) if self.figure else found.peak_bytes
        what = f"{self.figure}: " if self.figure else ""
        most = f"goal ≤ {self.most_bytes / 2**30:g} GiB"
        return value <= self.most_bytes, f"{what}{value / 2**30:.2f} GiB{_at(self.times)}, {most}"


@dataclass(frozen=True, slots=True)
class SecondsAtMost:
    """How long we took."""

    most: float
    times: int

    def judge(self, outcomes: Outcomes) -> tuple[bool, str]:
        """See `Goal`."""
        value = _ours(outcomes)[self.times].seconds
        return value <= self.most, f"{value:,.0f} s{_at(self.times)}, goal ≤ {self.most:g} s"


@dataclass(frozen=True, slots=True)
class ShareAtMost:
    """A share that our program tells of, such as padding."""

    most: float
    figure: str
    times: int = 1

    def judge(self, outcomes: Outcomes) -> tuple[bool, str]:
        """See `Goal`."""
        value = _ours(outcomes)[self.times].figure(self.figure)
        return value <= self.most, f"{self.figure} {value:.2%}{_at(self.times)}, goal ≤ {100 * self.most:.3g}%"
