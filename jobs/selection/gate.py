"""Whether the winner may replace what is in service: judged on threads that did not choose it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.contracts.records import Json
from jobs.scoring.intervals import Interval
from jobs.selection.evaluation import Evaluation, Scored
from jobs.selection.measures import difference, in_units_of
from jobs.selection.rules import Rules
from jobs.selection.strategies import metric_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Guard:
    """Something that must not get worse: the validation loss on some threads of the gate half."""

    name: str
    interval: Interval
    """Candidate - incumbent, in nats per token: above 0 is worse. Perplexity is its exponential."""

    @property
    def is_worse(self) -> bool:
        """Whether it is worse beyond its interval."""
        return self.interval.low > 0

    def said(self) -> Json:
        """As decision.json has it."""
        one = self.interval
        return {
            "name": self.name,
            "delta": one.estimate,
            "interval": one.bounds,
            "num_threads": one.num_threads,
            "is_worse": self.is_worse,
        }


@dataclass(frozen=True, slots=True)
class Gate:
    """The winner against what is in service."""

    gain: Interval
    """(candidate - incumbent) / |incumbent| of the strategy's metric; the unit is taken as known, so that the
    interval excludes 0 exactly where that of the plain difference does."""
    guards: tuple[Guard, ...]
    confidence: float

    @property
    def worse(self) -> list[str]:
        """The guards that are worse."""
        return [guard.name for guard in self.guards if guard.is_worse]


def gate_threads(evaluation: Evaluation) -> Mask:
    """The threads that judge; of an evaluation that has threads."""
    assert evaluation.threads is not None
    return evaluation.threads.gates & evaluation.threads.scored()


def judge(evaluation: Evaluation, winner: Scored, baseline: Scored, rules: Rules) -> Gate:
    """The winner's gain on the gate half, and the guards."""
    chosen = gate_threads(evaluation)
    confidence = rules.confidence_after(evaluation.num_attempts)
    ours, theirs = (metric_of(rules, evaluation.figures(one, chosen)) for one in (winner, baseline))
    gain = in_units_of(difference(ours, theirs, confidence), theirs)
    return Gate(gain, tuple(_guards(evaluation, winner, baseline, chosen, rules.confidence)), confidence)


def _guards(evaluation: Evaluation, winner: Scored, baseline: Scored, chosen: Mask, confidence: float) -> list[Guard]:
    """Of the whole gate half, and of its threads from before this window; none where there are under two.

    Their confidence is not divided by the attempts: a guard that is easier to hurt promotes less, not more.
    """
    assert evaluation.threads is not None
    parts = {"val_perplexity": chosen}
    if evaluation.window_idx is not None:
        parts["val_perplexity on old weeks"] = chosen & (evaluation.threads.window_idx < evaluation.window_idx)
    guards = []
    for name, part in parts.items():
        if part.sum() >= 2:
            ours, theirs = (evaluation.figures(one, part).loss for one in (winner, baseline))
            guards.append(Guard(name, difference(ours, theirs, confidence)))
    return guards
