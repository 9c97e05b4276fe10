"""Confidence intervals of means whose observations come in threads.

Mails of one thread are alike, so threads, not tokens or questions, are what was drawn: each gives a sum
and a size, and the mean is the ratio of the totals. Its variance is the jackknife's: what becomes of the
ratio when each thread in turn is left out (Cochran, Sampling Techniques, 3rd ed., section 6.17), with
Student's t for so few threads. The plain linearisation gives long threads too little: at 10 threads of
very unequal length its intervals of 95 % held 88 %, these 92 to 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from jobs.scoring.student_t import t_quantile

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
    values = np.asarray(influences, np.float64)
    num = len(values) if num_threads is None else min(num_threads, len(values))
    if num < 2:
        return Interval(estimate, -math.inf, math.inf, num)
    error = math.sqrt(num / (num - 1) * float(np.square(values - values.mean()).sum()))
    reach = t_quantile((1 + confidence) / 2, num - 1) * error
    return Interval(estimate, estimate - reach, estimate + reach, num)


def ratio_influences(sums: Floats, sizes: Floats) -> tuple[float, NDArray[np.float64]]:
    """sum(sums) / sum(sizes), and what each thread contributes to its error, as `interval_of` takes it.

    A thread that holds a large share of the sizes pulls the ratio towards itself: its contribution is made
    larger by as much, which makes the interval the jackknife's. ValueError where all sizes are 0.
    """
    totals, counts = np.asarray(sums, np.float64), np.asarray(sizes, np.float64)
    total = counts.sum()
    if not total > 0:
        raise ValueError("no thread with anything in it")
    estimate = float(totals.sum() / total)
    num = int((counts > 0).sum())
    shares = np.minimum(counts / total, 1 - 1e-12)  # one thread alone has no interval anyway
    return estimate, (totals - estimate * counts) / total * (1 - 1 / num) / (1 - shares)


def ratio_interval(sums: Floats, sizes: Floats, confidence: float) -> Interval:
    """The interval of sum(sums) / sum(sizes); threads of size 0 do not count. ValueError where none is left."""
    chosen = np.asarray(sizes, np.float64) > 0
    estimate, influences = ratio_influences(np.asarray(sums)[chosen], np.asarray(sizes)[chosen])
    return interval_of(estimate, influences, confidence)


def paired_interval(candidate_sums: Floats, incumbent_sums: Floats, sizes: Floats, confidence: float) -> Interval:
    """The interval of the difference (candidate - incumbent) of two means over the same threads."""
    return ratio_interval(
        np.asarray(candidate_sums, np.float64) - np.asarray(incumbent_sums, np.float64), sizes, confidence
    )
