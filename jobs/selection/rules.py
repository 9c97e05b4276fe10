"""How a winner is chosen and what it must show: weights and thresholds, checked. A test metric is refused. Pure."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jobs.contracts.cycle.learning import WEIGHTS, check_weights, parse_threshold
from jobs.contracts.errors import UsageError
from jobs.selection.ladder import LADDER, Rung

Strategy = Literal["LowestLoss", "Weighted", "Pareto"]
STRATEGIES: tuple[Strategy, ...] = ("LowestLoss", "Weighted", "Pareto")

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True, slots=True)
class Threshold:
    """What every candidate must reach."""

    metric: str
    comparison: str
    limit: float

    def is_met(self, value: float) -> bool:
        """Whether a value of the metric reaches it."""
        return _COMPARE[self.comparison](value, self.limit)

    def __str__(self) -> str:
        return f"{self.metric} {self.comparison} {self.limit:g}"


@dataclass(frozen=True, slots=True)
class Rules:
    """How the winner is chosen, and what it must show."""

    strategy: Strategy = "Weighted"
    weights: tuple[tuple[str, float], ...] = (("ppl", 0.5), ("rag", 0.5))
    thresholds: tuple[Threshold, ...] = ()
    improvement_threshold: float = 0.02
    max_retrain_attempts: int = 2
    confidence: float = 0.95
    min_threads: int = 12
    ladder: tuple[Rung, ...] = LADDER
    """How further attempts train."""

    def confidence_after(self, num_attempts: int) -> float:
        """The interval's: what may go wrong by chance is divided by the number of attempts (Bonferroni)."""
        return 1 - (1 - self.confidence) / num_attempts


def threshold_of(text: str) -> Threshold:
    """`val_perplexity <= 15`; UsageError for another form, an unknown metric or one of the test set."""
    try:
        metric, comparison, limit = parse_threshold(text.strip())
    except ValueError as error:
        raise UsageError(str(error), where="threshold", hint="such as 'val_perplexity <= 15'") from error
    return Threshold(metric, comparison, limit)


def checked_weights(weights: dict[str, float]) -> tuple[tuple[str, float], ...]:
    """Weights by name; UsageError for an unknown name, one of the test set, or where all are 0."""
    try:
        check_weights(weights)
    except ValueError as error:
        raise UsageError(str(error), where="weights", hint="such as 'ppl:0.4,rag:0.4,recall:0.2'") from error
    return tuple((name, weights[name]) for name in WEIGHTS if weights.get(name))


def weights_of(text: str) -> dict[str, float]:
    """`ppl:0.4,rag:0.4,recall:0.2` as weights by name, not checked yet; UsageError for another form."""
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition(":")
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not 0 <= number <= 1000 or name.strip() in weights:
            raise UsageError(f"not weights: {text!r}", where="weights", hint="such as 'ppl:0.4,rag:0.4,recall:0.2'")
        weights[name.strip()] = number
    return weights
