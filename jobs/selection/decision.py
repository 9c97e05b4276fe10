"""The decision of a cycle: promote, keep the incumbent, or train again. Pure.

One half of the val threads chooses the winner and says how much it has gained; the other half, looked at
only when the choice stands, judges it (`jobs.selection.gate`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from jobs.contracts import formats
from jobs.contracts.errors import ConfigError, InputError
from jobs.contracts.records import Json
from jobs.selection.evaluation import Evaluation, Scored
from jobs.selection.gate import Gate, gate_threads, judge
from jobs.selection.ladder import Rung, rung
from jobs.selection.rules import Rules
from jobs.selection.strategies import Candidate, Verdict, choose, metric_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]

Outcome = Literal["Promote", "KeepIncumbent", "Retrain"]

RECALL_IS_THE_SAME = (
    "recall as a weight changes nothing: it judges the index, and is the same for every checkpoint; "
    "it only makes every relative gain smaller"
)


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to happen, and why."""

    outcome: Outcome
    reason: str
    message: str
    evaluation: Evaluation
    rules: Rules
    """With the weights that could be used."""
    winner: Candidate | None
    verdicts: list[Verdict]
    improvement: float | None = None
    """The winner's gain on the threads that chose it: below the threshold the cycle trains again."""
    gate: Gate | None = None
    notes: tuple[str, ...] = ()

    @property
    def retrain(self) -> Rung | None:
        """How the next attempt trains, where there is one."""
        return rung(self.evaluation.num_attempts, self.rules.ladder) if self.outcome == "Retrain" else None


def decide(
    evaluation: Evaluation,
    rules: Rules,
    *,
    is_gated: bool = True,
    may_retrain: bool = True,
    baseline_score: float | None = None,
) -> Decision:
    """Choose a checkpoint, and hold it against what is in service. See docs/selection.md for the rule in words.

    Not `is_gated`: the best checkpoint wins, whatever is in service. `may_retrain`: there is somebody to train
    again. `baseline_score`: of the last winner, where the files know nothing of what is in service; it was
    scored on other mail perhaps, so it can ask for another attempt, but not keep a winner out.

    Raises InputError where no val thread is left to score, UsageError for a threshold on what was not
    evaluated, ConfigError where nothing that the weights name was measured.
    """
    choosing = _choosing_half(evaluation)
    rules, notes = _usable(evaluation, rules, choosing)
    candidates = [_candidate(evaluation, one, rules, choosing) for one in evaluation.candidates]
    winner, verdicts = choose(candidates, rules, evaluation.top_k)
    retrains = may_retrain and evaluation.num_attempts <= rules.max_retrain_attempts
    draft = Decision("KeepIncumbent", "", "", evaluation, rules, winner, verdicts, notes=(*evaluation.notes, *notes))
    if winner is None:
        if retrains:
            return replace(draft, outcome="Retrain", reason="NoCandidate", message="no checkpoint is fit: train again")
        return replace(draft, reason="NoCandidate", message="no checkpoint is fit: the incumbent stays")
    if evaluation.baseline is not None:
        baseline_score = _candidate(evaluation, evaluation.baseline, rules, choosing).score
    if baseline_score is not None:
        gain = winner.score - baseline_score
        draft = replace(draft, improvement=gain / (abs(baseline_score) or 1.0))
    if evaluation.threads is None or evaluation.baseline is None or not is_gated:
        return _by_points(draft, winner, retrains=retrains, is_gated=is_gated)
    return _gated(draft, winner, evaluation.baseline, retrains=retrains)


def _choosing_half(evaluation: Evaluation) -> Mask | None:
    """The threads that choose; all, where none falls into that half: then too few can judge anyway."""
    threads = evaluation.threads
    if threads is None:
        return None
    scored = threads.scored()
    if not scored.any():
        raise InputError("no val thread is left to score", where="eval_results", hint="evaluate on more mail")
    half = scored & ~threads.gates
    return half if half.any() else scored


def _candidate(evaluation: Evaluation, one: Scored, rules: Rules, choosing: Mask | None) -> Candidate:
    figures = evaluation.figures(one, choosing)
    return Candidate(one, figures, metric_of(rules, figures).value)


def _usable(evaluation: Evaluation, rules: Rules, choosing: Mask | None) -> tuple[Rules, tuple[str, ...]]:
    """The rules without weights of what was not measured, and what is to be said of that."""
    notes: list[str] = []
    weights = dict(rules.weights)
    if rules.strategy == "LowestLoss":
        return rules, ()
    if "recall" in weights:
        notes.append(RECALL_IS_THE_SAME)
    halves = [choosing]
    if evaluation.threads is not None and (half := gate_threads(evaluation)).any():  # else nothing is judged anyway
        halves.append(half)
    every = [*evaluation.candidates, *([evaluation.baseline] if evaluation.baseline else [])]
    for name in ("rag", "recall"):
        if name in weights and not all(evaluation.is_measured(one, name, half) for one in every for half in halves):
            del weights[name]
            where = "on both halves of the val threads" if evaluation.threads else "for every checkpoint"
            notes.append(f"the weight of {name} falls out: it was not measured {where}")
    if not weights:
        raise ConfigError(
            "nothing that the weights name was measured", where="weights", hint="give ppl a weight: it always is"
        )
    return replace(rules, weights=tuple(weights.items())), tuple(notes)


def _by_points(draft: Decision, winner: Candidate, *, retrains: bool, is_gated: bool) -> Decision:
    """Where nothing can be judged, or nothing is to be. What was scored in the same run may still keep it out."""
    name, gain, least = winner.scored.path, draft.improvement, draft.rules.improvement_threshold
    if gain is not None and gain < least and retrains:
        return _again(draft, gain)
    if gain is not None and gain <= 0 and is_gated and draft.evaluation.baseline is not None:
        message = f"{name} is no better than what is in service ({gain:+.2%}, a point estimate)"
        return replace(draft, reason="NotBetter", message=message)
    shown = "" if gain is None else f", {gain:+.2%} against what was in service"
    message = f"{name} is chosen by point estimates{shown}; nothing has judged it"
    return replace(draft, outcome="Promote", reason="NotGated", message=message)


def _again(draft: Decision, gain: float) -> Decision:
    least = draft.rules.improvement_threshold
    num = draft.evaluation.num_attempts
    message = (
        f"a gain of {gain:+.2%} is under the threshold of {least:.2%}: "
        f"train again, attempt {num + 1} of {draft.rules.max_retrain_attempts + 1}"
    )
    return replace(draft, outcome="Retrain", reason="SmallGain", message=message)


def _gated(draft: Decision, winner: Candidate, baseline: Scored, *, retrains: bool) -> Decision:
    evaluation, rules, name = draft.evaluation, draft.rules, winner.scored.path
    half = gate_threads(evaluation)
    num = metric_of(rules, evaluation.figures(baseline, half)).num_threads if half.any() else 0
    if num >= rules.min_threads and retrains and (draft.improvement or 0.0) < rules.improvement_threshold:
        return _again(draft, draft.improvement or 0.0)
    if half.any():
        draft = replace(draft, gate=judge(evaluation, winner.scored, baseline, rules))
    if num < rules.min_threads:
        what = "have something to say of its score" if num < half.sum() else "may judge"
        needed = f"{rules.min_threads} are needed: the incumbent stays until there is more mail"
        message = f"{num} val threads {what}, and {needed}"
        return replace(draft, reason="InsufficientEvidence", message=message)
    assert draft.gate is not None
    gain, worse = draft.gate.gain, draft.gate.worse
    incumbent = "the incumbent" if evaluation.has_incumbent else "the bare base model"
    bounds = f"{100 * draft.gate.confidence:.4g}%: {gain.low:+.2%} to {gain.high:+.2%}"
    shown = f"{gain.estimate:+.2%} ({bounds}, {gain.num_threads} threads)"
    if gain.low <= 0:
        message = f"{name} against {incumbent}: {shown}; that may be chance, so the incumbent stays"
        return replace(draft, reason="NotBetter", message=message)
    if worse:
        message = f"{name} against {incumbent}: {shown}, but it is worse in {' and in '.join(worse)}"
        return replace(draft, reason="GuardWorse", message=message)
    message = f"{name} is better than {incumbent}: {shown}"
    return replace(draft, outcome="Promote", reason="Better", message=message)


def as_json(decision: Decision) -> Json:
    """A decision as decision.json has it."""
    evaluation, gate, winner, again = decision.evaluation, decision.gate, decision.winner, decision.retrain
    baseline = evaluation.baseline
    retrain = {"learning_rate_factor": again.learning_rate_factor, "replay": "cap" if again.replay_at_cap else None}\
        if again else None  # fmt: skip
    return {
        "format": formats.DECISION,
        "outcome": decision.outcome,
        "reason": decision.reason,
        "message": decision.message,
        "window_idx": evaluation.window_idx,
        "attempt": evaluation.num_attempts - 1,
        "attempts": evaluation.num_attempts,
        "winner": _adapter(winner.scored) | {"score": winner.score, "scores": _scores(winner)} if winner else None,
        "incumbent": _adapter(baseline) if baseline and evaluation.has_incumbent else None,
        "in_service": _adapter(baseline) if baseline else None,
        "strategy": decision.rules.strategy,
        "metric": metric_name(decision.rules),
        "improvement": decision.improvement,
        "delta": gate.gain.estimate if gate else None,
        "interval": gate.gain.bounds if gate else None,
        "confidence": gate.confidence if gate else decision.rules.confidence_after(evaluation.num_attempts),
        "num_threads": gate.gain.num_threads if gate else 0,
        "guards": [guard.said() for guard in gate.guards] if gate else [],
        "candidates": [_verdict(one) for one in decision.verdicts],
        "retrain": retrain,
        "notes": list(decision.notes),
    }


def metric_name(rules: Rules) -> str:
    """What was maximised, in words."""
    if rules.strategy == "LowestLoss":
        return "minus val_loss"
    names = {"ppl": " / val_perplexity", "rag": " * rag_accuracy", "recall": " * retrieval_recall"}
    return " + ".join(f"{weight:g}{names[name]}" for name, weight in rules.weights)


def _adapter(one: Scored) -> Json:
    return {
        "path": one.path,
        "attempt": one.attempt,
        "step": one.step,
        "sha256": one.sha256,
        "key": one.key,
        "val_windows": one.entry.get("val_windows", []),
    }


def _scores(winner: Candidate) -> Json:
    """Of the whole val set, as evaluate has them; a controller shows them."""
    names = ("val_perplexity", "rag_accuracy_at_", "retrieval_recall_at_", "test_perplexity")
    return {name: value for name, value in winner.scored.entry.items() if name.startswith(names)}


def _verdict(one: Verdict) -> Json:
    scored = one.candidate.scored
    said = {"path": scored.path, "attempt": scored.attempt, "step": scored.step, "sha256": scored.sha256}
    return said | {"score": one.candidate.score} | one.candidate.figures.said() | {"lost_because": one.lost_because}
