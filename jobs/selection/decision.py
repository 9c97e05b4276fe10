"""The decision of one attempt of a cycle: promote, keep the incumbent, or train again. Pure.

The threads that chose the winner do not judge it: on the other half, looked at once a cycle, the winner
meets the incumbent. It is promoted where the interval of its gain excludes 0 and no guard is worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from jobs.contracts.records import Json
from jobs.scoring.intervals import Interval
from jobs.selection.choosing import DEFAULT_WEIGHTS, Candidate, Strategy, Verdict, Weights, choose, metric_of
from jobs.selection.ladder import rung
from jobs.selection.measures import Sums, ValThreads, difference, negative_loss, relative_gain

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]

FORMAT = 1
Outcome = Literal["Promote", "KeepIncumbent", "Retrain"]


@dataclass(frozen=True, slots=True)
class Rules:
    """How the winner is chosen, and what it must show."""

    strategy: Strategy = "Weighted"
    weights: Weights = DEFAULT_WEIGHTS
    thresholds: Sequence[str] = ()
    improvement_threshold: float = 0.02
    max_retrain_attempts: int = 2
    confidence: float = 0.95
    min_threads: int = 10


@dataclass(frozen=True, slots=True)
class Guard:
    """Something that must not get worse: the difference of losses per token, candidate - incumbent."""

    name: str
    difference: float
    interval: list[float | None]
    num_threads: int
    is_worse: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to happen, and why."""

    outcome: Outcome
    reason: str
    message: str
    verdicts: list[Verdict]
    improvement: float | None = None
    """The winner's gain on the threads that chose it: below the threshold the cycle trains again."""
    gain: Interval | None = None
    """The winner's gain on the gate half."""
    guards: tuple[Guard, ...] = ()

    def as_json(self, rules: Rules, attempt: int) -> Json:
        """As decision.json has it, but for who the winner and the incumbent are."""
        gain = self.gain
        return {
            "format": FORMAT,
            "outcome": self.outcome,
            "reason": self.reason,
            "message": self.message,
            "attempt": attempt,
            "attempts": attempt + 1,
            "strategy": rules.strategy,
            "metric": "weighted score" if rules.strategy == "Weighted" else "val loss",
            "improvement": self.improvement,
            "delta": gain.estimate if gain else None,
            "interval": gain.bounds if gain else None,
            "confidence": confidence_of(rules, attempt),
            "num_threads": gain.num_threads if gain else 0,
            "guards": [asdict(guard) for guard in self.guards],
            "candidates": [
                {
                    "path": verdict.candidate.path,
                    "attempt": verdict.candidate.attempt,
                    "score": verdict.score,
                    "lost_because": verdict.lost_because,
                }
                for verdict in self.verdicts
            ],
            "retrain": _retrain(attempt) if self.outcome == "Retrain" else None,
        }


def decide(
    candidates: Sequence[Candidate],
    incumbent: Sums,
    threads: ValThreads,
    rules: Rules,
    *,
    attempt: int = 0,
    window_idx: int,
) -> Decision:
    """Choose on one half of the val threads, and hold the winner against the incumbent on the other.

    `candidates` are the checkpoints of all attempts so far; `window_idx` is this cycle's, older weeks are guarded.
    """
    choosing = threads.half("choose") & (threads.num_tokens > 0)
    gating = threads.half("gate") & (threads.num_tokens > 0)
    if choosing.sum() < 1 or gating.sum() < rules.min_threads:
        verdicts = [Verdict(one, float("nan"), "there were too few val threads to choose") for one in candidates]
        if choosing.any():
            verdicts = _choose(candidates, threads, choosing, rules)
        return Decision("KeepIncumbent", "InsufficientEvidence", _too_few(int(gating.sum()), rules), verdicts)
    verdicts = _choose(candidates, threads, choosing, rules)
    if not verdicts or verdicts[0].lost_because:
        return Decision("KeepIncumbent", "ThresholdsNotMet", "no checkpoint meets the thresholds", verdicts)
    metric = metric_of(rules.strategy, rules.weights)
    winner = verdicts[0].candidate.sums
    improvement = relative_gain(
        metric(winner, threads, choosing), metric(incumbent, threads, choosing), rules.confidence
    ).estimate
    if improvement < rules.improvement_threshold and attempt < rules.max_retrain_attempts:
        message = f"a gain of {improvement:+.2%} is below {rules.improvement_threshold:.2%}: it is trained again"
        return Decision("Retrain", "Plateau", message, verdicts, improvement)
    confidence = confidence_of(rules, attempt)
    gain = relative_gain(metric(winner, threads, gating), metric(incumbent, threads, gating), confidence)
    guards = _guards(winner, incumbent, threads, gating, confidence=confidence, window_idx=window_idx)
    return _judge(verdicts, improvement, gain, guards)


def confidence_of(rules: Rules, attempt: int) -> float:
    """The interval's confidence: what may go wrong is divided by the number of attempts."""
    return 1 - (1 - rules.confidence) / (attempt + 1)


def _choose(candidates: Sequence[Candidate], threads: ValThreads, choosing: Mask, rules: Rules) -> list[Verdict]:
    return choose(
        candidates, threads, choosing, strategy=rules.strategy, weights=rules.weights, thresholds=rules.thresholds
    )


def _judge(verdicts: list[Verdict], improvement: float, gain: Interval, guards: tuple[Guard, ...]) -> Decision:
    said = f"{gain.estimate:+.2%}, interval {gain.low:+.2%} to {gain.high:+.2%} over {gain.num_threads} threads"
    worse = [guard.name for guard in guards if guard.is_worse]
    outcome: Outcome = "KeepIncumbent"
    if gain.low <= 0:
        reason, message = "NotBetter", f"the gain is not beyond doubt: {said}"
    elif worse:
        reason, message = "GuardFailed", f"the gain is {said}, but it is worse in {' and '.join(worse)}"
    else:
        outcome, reason, message = "Promote", "BetterThanIncumbent", f"the gain is {said}"
    return Decision(outcome, reason, message, verdicts, improvement, gain, guards)


def _guards(
    winner: Sums, incumbent: Sums, threads: ValThreads, gating: Mask, *, confidence: float, window_idx: int
) -> tuple[Guard, ...]:
    old = gating & (threads.window_idx < window_idx)
    parts = {"validation loss": gating, "validation loss on old weeks": old}
    return tuple(
        _guard(name, winner, incumbent, threads, part, confidence=confidence)
        for name, part in parts.items()
        if part.sum() >= 2
    )


def _guard(name: str, winner: Sums, incumbent: Sums, threads: ValThreads, part: Mask, *, confidence: float) -> Guard:
    gain = difference(negative_loss(winner, threads, part), negative_loss(incumbent, threads, part), confidence)
    low, high = gain.bounds
    bounds = [None if high is None else -high, None if low is None else -low]
    return Guard(name, -gain.estimate, bounds, gain.num_threads, gain.high < 0)


def _too_few(num: int, rules: Rules) -> str:
    return f"{num} val threads may judge, {rules.min_threads} are needed (gate.minThreads)"


def _retrain(attempt: int) -> Json:
    further = rung(attempt + 1)
    return {
        "learning_rate_factor": further.learning_rate_factor,
        "replay": "cap" if further.replay_at_cap else None,
    }
