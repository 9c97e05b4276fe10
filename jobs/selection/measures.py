"""What an adapter reaches on some of the val threads, and what each thread contributes to it. Pure.

A figure is made of sums over threads. Beside its value stands its influence by thread (the linear part
of its error, the delta method), from which the interval of any sum of figures, and of the difference of
two adapters on the same threads, follows alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jobs.contracts.records import Json
from jobs.scoring.intervals import Interval, interval_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure, and its influence by thread; without threads the value alone is known."""

    value: float
    influences: NDArray[np.float64]
    num_threads: int
    """Those that have something to say of it: the fewest of any part of a sum."""

    def __add__(self, other: Measure) -> Measure:
        influences = self.influences + other.influences
        return Measure(self.value + other.value, influences, min(self.num_threads, other.num_threads))

    def times(self, factor: float) -> Measure:
        """A multiple of it."""
        return Measure(self.value * factor, self.influences * factor, self.num_threads)

    def plus(self, constant: float) -> Measure:
        """With something added that is the same whatever threads are drawn."""
        return Measure(self.value + constant, self.influences, self.num_threads)


def point(value: float) -> Measure:
    """A figure of which nothing is known but its value."""
    return Measure(value, np.zeros(0), 0)


@dataclass(frozen=True, slots=True)
class Figures:
    """What one adapter reaches on some threads; None: not measured."""

    loss: Measure
    """Nats per token."""
    rag: Measure | None = None
    recall: float | None = None
    """Of the whole val set, as fluency: they are not kept by thread."""
    fluency: float | None = None
    said_perplexity: float | None = None
    """Where it is not computed but read: a threshold must not stumble over the rounding of exp(log(x))."""

    @property
    def perplexity(self) -> float:
        """The exponential of the loss."""
        return float(np.exp(self.loss.value)) if self.said_perplexity is None else self.said_perplexity

    def inverse_perplexity(self) -> Measure:
        """1 / perplexity, that is exp(-loss)."""
        value = float(np.exp(-self.loss.value))
        return Measure(value, -value * self.loss.influences, self.loss.num_threads)

    def said(self) -> Json:
        """As a decision shows them."""
        rag = None if self.rag is None else self.rag.value
        return {"val_loss": self.loss.value, "val_perplexity": self.perplexity, "rag_accuracy": rag}


def mean(sums: NDArray[np.float64], sizes: NDArray[np.float64]) -> Measure:
    """sum(sums) / sum(sizes) over threads; ValueError where all sizes are 0."""
    total = sizes.sum()
    if not total:
        raise ValueError("no thread with anything in it")
    value = float(sums.sum() / total)
    return Measure(value, (sums - value * sizes) / total, int(np.count_nonzero(sizes)))


def difference(candidate: Measure, incumbent: Measure, confidence: float) -> Interval:
    """Candidate - incumbent on the same threads, with its interval; infinite with under two threads."""
    num_threads = min(candidate.num_threads, incumbent.num_threads)
    value, influences = candidate.value - incumbent.value, candidate.influences - incumbent.influences
    return interval_of(value, influences, confidence, num_threads)


def in_units_of(gain: Interval, incumbent: Measure) -> Interval:
    """A difference as a share of the incumbent's own figure, |incumbent|; as it is where that is 0."""
    scale = abs(incumbent.value) or 1.0
    return Interval(gain.estimate / scale, gain.low / scale, gain.high / scale, gain.num_threads)
