"""Which checkpoint is chosen: by the lowest val loss, a weighted sum or the Pareto front, under thresholds. Pure.

All is computed on the choosing half of the val threads. Ties go to the earlier attempt, then the earlier step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jobs.contracts.errors import UsageError
from jobs.selection.evaluation import Scored
from jobs.selection.measures import Figures, Measure
from jobs.selection.rules import Rules, Threshold

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Candidate:
    """A checkpoint on the choosing half."""

    scored: Scored
    figures: Figures
    score: float
    """By the strategy; higher is better."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one checkpoint."""

    candidate: Candidate
    lost_because: str | None
    """None: it won."""


def metric_of(rules: Rules, figures: Figures) -> Measure:
    """What the strategy maximises, and the gate compares: minus the val loss, or the weighted sum.

    Pareto's winner, chosen by two figures, is compared by the weighted sum. The weights are usable ones: see
    `jobs.selection.decision`. Recall is the same for all adapters, and so adds a constant.
    """
    if rules.strategy == "LowestLoss":
        return figures.loss.times(-1.0)
    total: Measure | None = None
    constant = 0.0
    for name, weight in rules.weights:
        if name == "recall":
            constant += weight * (figures.recall or 0.0)
            continue
        part = figures.inverse_perplexity() if name == "ppl" else figures.rag
        if part is None:
            raise ValueError("a weight of what was not measured")  # a defect of ours
        total = part.times(weight) if total is None else total + part.times(weight)
    return (figures.loss.times(0.0) if total is None else total).plus(constant)


def choose(candidates: Sequence[Candidate], rules: Rules, top_k: int) -> tuple[Candidate | None, list[Verdict]]:
    """The winner, and why each other one lost, in the order in which they came; no winner where none is fit.

    UsageError for a threshold on RAG accuracy or recall at another K than was evaluated.
    """
    _require_known_k(rules.thresholds, top_k)
    why = {id(one): _unfit(one, rules.thresholds) for one in candidates}
    fit = [one for one in candidates if not why[id(one)]]
    winner = None
    if fit:
        is_loss = rules.strategy == "LowestLoss"
        winner = _pareto(fit, why) if rules.strategy == "Pareto" else _best(fit, why, is_loss=is_loss)
    return winner, [Verdict(one, None if one is winner else why[id(one)]) for one in candidates]


def _best(fit: Sequence[Candidate], why: dict[int, str], *, is_loss: bool) -> Candidate:
    winner = max(fit, key=lambda one: one.score)  # the first of equals
    what, sign = ("val loss", -1.0) if is_loss else ("score", 1.0)
    for one in fit:
        name, shown, own = winner.scored.path, sign * one.score, sign * winner.score
        if one.score == winner.score:
            why[id(one)] = f"{what} {shown:.6g} is that of {name}, which came first"
        else:
            why[id(one)] = f"{what} {shown:.6g}; {name} has {own:.6g}"
    return winner


def _pareto(fit: Sequence[Candidate], why: dict[int, str]) -> Candidate:
    """Of those that none beats in both val loss and RAG accuracy, the one nearest to the best of both.

    Both are scaled to the front's own range; the distance is Euclidean, and of equals the lower loss wins.
    """
    points = np.array([_point(one) for one in fit])
    front: list[int] = []
    for number, own in enumerate(points):
        better = next((k for k, other in enumerate(points) if _dominates(other, own)), None)
        if better is None:
            front.append(number)
        else:
            name, (loss, rag) = fit[better].scored.path, points[better]
            why[id(fit[number])] = f"{name} is no worse in both (val loss {loss:.6g}, RAG accuracy {-rag:.6g})"
    on_front = points[front]
    span = np.ptp(on_front, axis=0)
    distances = np.linalg.norm((on_front - on_front.min(axis=0)) / np.where(span > 0, span, 1.0), axis=1).round(12)
    order = sorted(range(len(front)), key=lambda k: (distances[k], on_front[k][0], k))
    winner = fit[front[order[0]]]
    for k in order[1:]:
        why[id(fit[front[k]])] = (
            f"on the front, but at a distance of {distances[k]:.4f} from the best of both; "
            f"{winner.scored.path} is at {distances[order[0]]:.4f}"
        )
    return winner


def _point(one: Candidate) -> tuple[float, float]:
    """Val loss and minus RAG accuracy: lower is better in both."""
    rag = one.figures.rag
    return one.figures.loss.value, -rag.value if rag else 0.0


def _dominates(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    return bool((one <= other).all() and (one < other).any())


def _unfit(one: Candidate, thresholds: Sequence[Threshold]) -> str:
    if not math.isfinite(one.figures.loss.value):
        return "its val loss is not a number"
    for threshold in thresholds:
        value = _value(threshold.metric, one.figures)
        if value is None:
            return f"{threshold.metric} was not measured, and {threshold} is asked for"
        if not threshold.is_met(value):
            return f"{threshold.metric} is {value:.6g}, not {threshold.comparison} {threshold.limit:g}"
    return ""


def _value(metric: str, figures: Figures) -> float | None:
    if metric in ("val_loss", "val_perplexity"):
        return figures.loss.value if metric == "val_loss" else figures.perplexity
    if metric == "fluency":
        return figures.fluency
    if metric.startswith("rag_accuracy_at_"):
        return figures.rag.value if figures.rag else None
    return figures.recall


def _require_known_k(thresholds: Sequence[Threshold], top_k: int) -> None:
    for threshold in thresholds:
        name, separator, k = threshold.metric.rpartition("_at_")
        if separator and int(k) != top_k:
            raise UsageError(
                f"{threshold.metric} was not measured: evaluation retrieved {top_k}",
                where=f"threshold {threshold}",
                hint=f"name {name}_at_{top_k}, or evaluate with --top-k {k}",
            )
