"""select: which checkpoint wins, and whether it may replace what is in service. Writes decision.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.contracts.errors import InputError
from jobs.contracts.records import Json
from jobs.files import read_json, write_json
from jobs.selection.decision import as_json, decide
from jobs.selection.evaluation import read_evaluations
from jobs.selection.ladder import read_ladder
from jobs.selection.rules import Rules, Strategy, checked_weights, threshold_of
from jobs.stages import Inputs, Outputs, how


@dataclass(frozen=True)
class Config:
    """Settings of `select`; see docs/selection.md."""

    strategy: Strategy = "Weighted"
    weights: tuple[tuple[str, float], ...] = (("ppl", 0.5), ("rag", 0.5))
    thresholds: tuple[str, ...] = ()
    improvement_threshold: float = 0.02
    max_retrain_attempts: int = 2
    confidence: float = 0.95
    min_threads: int = 12
    ladder: tuple[str, ...] = ("0.5", "0.25:cap")
    """How each further attempt trains: what the learning rate is multiplied by, and where rehearsal is at its cap."""
    top_k: int = 5
    """As the cycle's spec says it; what counts is what evaluate has used, which stands in its results."""
    is_gated: bool = True
    may_retrain: bool = True
    baseline_score: float | None = how(None)
    """Of what is in service, on plain files that know nothing else of it."""


def run(config: Config, inputs: Inputs, outputs: Outputs) -> dict[str, Any]:
    """Write the decision. `eval_results` are those of all attempts, oldest first; so are `trainer_state`s.

    Raises UsageError for a rule that names a test metric or what was not evaluated, InputError where the
    results are none, hold no checkpoint, or leave no val thread to score.
    """
    rules = rules_of(config)
    documents = [(read_json(path), str(path)) for path in inputs.paths["eval_results"]]
    evaluation = read_evaluations(documents)
    decision = decide(
        evaluation,
        rules,
        is_gated=config.is_gated,
        may_retrain=config.may_retrain,
        baseline_score=config.baseline_score,
    )
    said = as_json(decision)
    _add_trainer_losses(said, inputs.paths.get("trainer_state", []))
    write_json(outputs["decision"], said)
    return result_of(said)


def rules_of(config: Config) -> Rules:
    """The settings, checked; UsageError."""
    return Rules(
        config.strategy,
        checked_weights(dict(config.weights)),
        tuple(threshold_of(text) for text in config.thresholds),
        config.improvement_threshold,
        config.max_retrain_attempts,
        config.confidence,
        config.min_threads,
        read_ladder(",".join(config.ladder)),
    )


def _add_trainer_losses(said: Json, states: list[Path]) -> None:
    """Beside each candidate the val loss that training saw, for who reads the record; it chooses nothing."""
    by_attempt = [eval_losses(read_json(path)) for path in states]
    for candidate in said["candidates"]:
        if candidate["attempt"] < len(by_attempt):
            candidate["eval_loss"] = by_attempt[candidate["attempt"]].get(candidate["step"])


def eval_losses(state: Any) -> dict[int, float]:
    """Val loss by step, as a trainer_state.json logs them; InputError."""
    history = state.get("log_history", []) if isinstance(state, dict) else []
    try:
        return {int(one["step"]): float(one["eval_loss"]) for one in history if "eval_loss" in one and "step" in one}
    except (TypeError, ValueError) as error:
        raise InputError(f"its log_history is none of transformers': {error}", where="trainer_state.json") from error


def result_of(said: Mapping[str, Any]) -> Json:
    """What of a decision is told: small, for it stands in the marker and in a pod's termination message."""
    names = ("outcome", "reason", "message", "window_idx", "attempt", "attempts", "metric", "improvement", "delta")
    result: Json = {name: said[name] for name in (*names, "interval", "num_threads", "retrain")}
    winner = said["winner"]
    result["winner"] = _brief(winner)
    result["incumbent"] = _brief(said["incumbent"])
    result["candidate"] = None
    if winner:
        scores = winner["scores"]
        result["candidate"] = {"adapter": winner["key"] or winner["path"], "sha256": winner["sha256"], "scores": scores}
    result["num_candidates"] = len(said["candidates"])
    return result | ({"notes": said["notes"]} if said["notes"] else {})


def _brief(adapter: Json | None) -> Json | None:
    return {name: adapter[name] for name in ("path", "attempt", "sha256", "key")} if adapter else None
