"""Confidence intervals of means whose observations come in threads.

Mails of one thread are alike, so threads, not tokens or questions, are what was drawn: each gives a sum
and a size, the mean is the ratio of the totals, and its variance is that of the ratio estimator by
linearisation (Cochran, Sampling Techniques, 3rd ed., section 6.3), with Student's t for so few threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Floats: TypeAlias = "Sequence[float] | NDArray[np.float64]"


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate, and where the true value lies with the confidence asked for; infinite with under two threads."""

    estimate: float
    low: float
    high: float
    num_threads: int

    @property
    def bounds(self) -> list[float | None]:
        """Low and high, as JSON has them: null for infinite."""
        return [value if math.isfinite(value) else None for value in (self.low, self.high)]


def interval_of(estimate: float, influences: Floats, confidence: float, num_threads: int | None = None) -> Interval:
    """The interval of an estimate from what each thread contributes to its error.

    `influences` [threads] add up to about 0; an estimate of sum(x)/sum(n) has (x - estimate * n) / sum(n).
    `num_threads` is how many of them have something to say, where others merely stand in the same array.
    """
    from scipy.stats import t

    values = np.asarray(influences, np.float64)
    num = len(values) if num_threads is None else min(num_threads, len(values))
    if num < 2:
        return Interval(estimate, -math.inf, math.inf, num)
    error = math.sqrt(num / (num - 1) * float(np.square(values - values.mean()).sum()))
    reach = float(t.ppf((1 + confidence) / 2, num - 1)) * error
    return Interval(estimate, estimate - reach, estimate + reach, num)


def ratio_interval(sums: Floats, sizes: Floats, confidence: float) -> Interval:
    """The interval of sum(sums) / sum(sizes); threads of size 0 do not count. ValueError where none is left."""
    totals, counts = _counted(sums, sizes)
    estimate = float(totals.sum() / counts.sum())
    return interval_of(estimate, (totals - estimate * counts) / counts.sum(), confidence)


def paired_interval(candidate_sums: Floats, incumbent_sums: Floats, sizes: Floats, confidence: float) -> Interval:
    """The interval of the difference (candidate - incumbent) of two means over the same threads."""
    return ratio_interval(
        np.asarray(candidate_sums, np.float64) - np.asarray(incumbent_sums, np.float64), sizes, confidence
    )


def _counted(sums: Floats, sizes: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    totals, counts = np.asarray(sums, np.float64), np.asarray(sizes, np.float64)
    chosen = counts > 0
    if not chosen.any():
        raise ValueError("no thread with anything in it")
    return totals[chosen], counts[chosen]
