"""Which checkpoint is chosen: by the lowest val loss, a weighted sum or the Pareto front, under thresholds. Pure."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from jobs.contracts.errors import UsageError
from jobs.contracts.records import Json
from jobs.selection.measures import Measure, Sums, ValThreads, negative_loss, rag_accuracy, weighted

if TYPE_CHECKING:
    from numpy.typing import NDArray

Strategy = Literal["LowestLoss", "Weighted", "Pareto"]
Weights = Sequence[tuple[str, float]]

DEFAULT_WEIGHTS: tuple[tuple[str, float], ...] = (("ppl", 0.5), ("rag", 0.5))

_THRESHOLD = re.compile(r"^ *([a-z][a-z0-9_]*) *(<=|>=|<|>) *([-+0-9.eE]+) *$")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A checkpoint, and what was measured of it."""

    path: str
    attempt: int
    entry: Json
    sums: Sums


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one checkpoint."""

    candidate: Candidate
    score: float
    lost_because: str
    """Empty for the winner."""


def metric_of(strategy: Strategy, weights: Weights) -> Callable[[Sums, ValThreads, NDArray[np.bool_]], Measure]:
    """What a strategy compares with the incumbent: Pareto, for want of one number, the val loss."""
    if strategy == "Weighted":
        return lambda sums, threads, chosen: weighted(sums, threads, chosen, weights)
    return negative_loss


def refuse_test_metric(name: str) -> None:
    """UsageError where a rule that chooses would look at the test set."""
    if "test" in name.split("_"):
        raise UsageError(f"{name} is a test metric: val chooses, test reports", hint="name a val metric")


def choose(
    candidates: Sequence[Candidate],
    threads: ValThreads,
    chosen: NDArray[np.bool_],
    *,
    strategy: Strategy,
    weights: Weights,
    thresholds: Sequence[str],
) -> list[Verdict]:
    """Every candidate with its score on the choosing threads and why it lost; the winner, if any, first.

    Ties go to the earlier attempt and the earlier step. Thresholds on losses, perplexities and RAG are
    held against the choosing threads too.
    """
    scores = _scores(candidates, threads, chosen, strategy, weights)
    failed = [_failed_threshold(one, threads, chosen, thresholds) for one in candidates]
    fit = [number for number, why in enumerate(failed) if not why]
    if strategy == "Pareto":
        ranking = _pareto(candidates, threads, chosen, fit)
    else:
        ranking = [(number, "") for number in sorted(fit, key=lambda one: (-scores[one], one))]
    verdicts = []
    for place, (number, why) in enumerate(ranking):
        lost = "" if not place else why or _behind(scores[number], scores[ranking[0][0]], strategy)
        verdicts.append(Verdict(candidates[number], scores[number], lost))
    unfit = [Verdict(one, scores[number], failed[number]) for number, one in enumerate(candidates) if failed[number]]
    return verdicts + unfit


def _scores(
    candidates: Sequence[Candidate],
    threads: ValThreads,
    chosen: NDArray[np.bool_],
    strategy: Strategy,
    weights: Weights,
) -> list[float]:
    metric = metric_of(strategy, weights)
    return [metric(one.sums, threads, chosen).value for one in candidates]


def _behind(score: float, best: float, strategy: Strategy) -> str:
    what = "a weighted score" if strategy == "Weighted" else "minus the val loss"
    return f"{what} of {score:.4f} is below the winner's {best:.4f}" if score < best else "it came later"


def _pareto(
    candidates: Sequence[Candidate], threads: ValThreads, chosen: NDArray[np.bool_], fit: Sequence[int]
) -> list[tuple[int, str]]:
    """Those on the front of val loss and RAG accuracy, nearest to its ideal point first; then the dominated."""
    points = {}
    for number in fit:
        sums = candidates[number].sums
        rag = rag_accuracy(sums, threads, chosen)
        points[number] = np.array([negative_loss(sums, threads, chosen).value, rag.value if rag else 0.0])
    dominated = {
        number: next((other for other in fit if _dominates(points[other], points[number])), None) for number in fit
    }
    front = [number for number in fit if dominated[number] is None]
    if not front:
        return []
    stacked = np.stack([points[number] for number in front])
    spread = np.where(np.ptp(stacked, axis=0) > 0, np.ptp(stacked, axis=0), 1.0)
    distance = np.linalg.norm((stacked.max(axis=0) - stacked) / spread, axis=1)
    order = sorted(range(len(front)), key=lambda one: (distance[one], front[one]))
    on_front = [(front[one], "on the front, but further from its ideal point than the winner") for one in order]
    return on_front + [
        (number, f"{candidates[other].path} is better in both val loss and RAG accuracy, or as good")
        for number, other in dominated.items()
        if other is not None
    ]


def _dominates(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    return bool((one >= other).all() and (one > other).any())


def _failed_threshold(
    candidate: Candidate, threads: ValThreads, chosen: NDArray[np.bool_], thresholds: Sequence[str]
) -> str:
    for threshold in thresholds:
        name, compare, limit = parse_threshold(threshold)
        value = _value_of(name, candidate, threads, chosen)
        if value is None:
            return f"{name} was not measured, and {threshold} is asked for"
        if not compare(value, limit):
            return f"{name} is {value:.4g}, not {threshold.removeprefix(name).strip()}"
    return ""


def parse_threshold(text: str) -> tuple[str, Callable[[float, float], bool], float]:
    """`val_perplexity <= 15` as name, comparison and limit; UsageError for another form or a test metric."""
    match = _THRESHOLD.match(text)
    try:
        if match is not None:
            refuse_test_metric(match[1])
            return match[1], _COMPARE[match[2]], float(match[3])
    except ValueError:
        pass
    raise UsageError(f"not a threshold: {text!r}", hint="write it as 'val_perplexity <= 15'")


def _value_of(name: str, candidate: Candidate, threads: ValThreads, chosen: NDArray[np.bool_]) -> float | None:
    if name in ("val_loss", "val_perplexity"):
        loss = -negative_loss(candidate.sums, threads, chosen).value
        return loss if name == "val_loss" else float(np.exp(loss))
    if name.startswith("rag_accuracy_at_") and (rag := rag_accuracy(candidate.sums, threads, chosen)) is not None:
        return rag.value
    value = candidate.entry.get(name)
    return None if value is None else float(value)
