"""Strategies, thresholds and weights against values computed by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from jobs.contracts.errors import ConfigError, InputError, IntegrityError, UsageError
from jobs.selection.decision import as_json, decide
from jobs.selection.evaluation import Evaluation, Scored, read_evaluations, val_threads
from jobs.selection.rules import Rules, checked_weights, threshold_of, weights_of


def original(*entries: tuple[str, float, float | None]) -> dict[str, Any]:
    """eval_results.json as the original design wrote it."""
    return {
        "checkpoints": [
            {
                "path": path,
                "val_perplexity": ppl,
                "test_perplexity": 1.0,
                "rag_accuracy_at_5": rag,
                "retrieval_recall_at_5": 0.8,
            }
            for path, ppl, rag in entries
        ]
    }


def outcome(rules: Rules, *entries: tuple[str, float, float | None], **more: Any) -> dict[str, Any]:
    evaluation = read_evaluations([(original(*entries), "eval_results.json")])
    return as_json(decide(evaluation, rules, **more))


def why(said: dict[str, Any]) -> dict[str, str | None]:
    return {one["path"]: one["lost_because"] for one in said["candidates"]}


def test_the_weighted_score_is_the_original_s() -> None:
    said = outcome(Rules(), ("a", 10.0, 0.40), ("b", 8.0, 0.38), ("c", 20.0, 0.41))
    assert [one["score"] for one in said["candidates"]] == pytest.approx([0.25, 0.2525, 0.23], abs=1e-12)
    assert (said["winner"]["path"], said["outcome"], said["reason"]) == ("b", "Promote", "NotGated")
    assert why(said) == {"a": "score 0.25; b has 0.2525", "b": None, "c": "score 0.23; b has 0.2525"}
    assert "no gate is possible" in said["notes"][0]


def test_weights_of_three() -> None:
    rules = Rules(weights=checked_weights(weights_of("ppl:0.4,rag:0.4,recall:0.2")))
    said = outcome(rules, ("a", 10.0, 0.40))
    assert said["candidates"][0]["score"] == pytest.approx(0.4 / 10 + 0.4 * 0.40 + 0.2 * 0.8, abs=1e-12)
    assert any("recall as a weight changes nothing" in note for note in said["notes"])
    assert said["metric"] == "0.4 / val_perplexity + 0.4 * rag_accuracy + 0.2 * retrieval_recall"


def test_the_lowest_loss_whatever_the_rest() -> None:
    said = outcome(Rules("LowestLoss"), ("a", 10.0, 0.9), ("b", 8.0, 0.1), ("c", 8.0, 0.9))
    assert said["winner"]["path"] == "b"
    assert said["winner"]["score"] == pytest.approx(-math.log(8))
    assert why(said)["c"] == "val loss 2.07944 is that of b, which came first"


def test_the_front_and_who_is_picked_from_it() -> None:
    # Losses ln 8 = 2.079, ln 10 = 2.303, ln 16 = 2.773; scaled to the front: a (0, 1), b (0.322, 0.25), c (1, 0).
    said = outcome(Rules("Pareto"), ("a", 8.0, 0.20), ("b", 10.0, 0.35), ("c", 16.0, 0.40), ("d", 11.0, 0.35))
    assert said["winner"]["path"] == "b"
    distance = math.hypot(math.log(10 / 8) / math.log(2), 0.25)
    assert f"b is at {distance:.4f}" in (why(said)["a"] or "")
    assert "at a distance of 1.0000" in (why(said)["a"] or "")
    assert (why(said)["d"] or "").startswith("b is no worse in both")


def test_of_two_on_the_front_the_lower_loss_wins() -> None:
    said = outcome(Rules("Pareto"), ("a", 9.0, 0.40), ("b", 8.0, 0.30))
    assert said["winner"]["path"] == "b"


def test_equals_go_to_the_first() -> None:
    for strategy in ("LowestLoss", "Weighted", "Pareto"):
        said = outcome(Rules(strategy), ("a", 8.0, 0.3), ("b", 8.0, 0.3))  # type: ignore[arg-type]
        assert said["winner"]["path"] == "a", strategy


@pytest.mark.parametrize(
    ("threshold", "winner"),
    [
        ("val_perplexity <= 9", "b"),
        ("val_perplexity < 8", None),
        ("val_loss <= 2.08", "b"),
        ("rag_accuracy_at_5 >= 0.4", "a"),
        ("retrieval_recall_at_5 > 0.8", None),
        ("fluency >= 0.1", None),
    ],
)
def test_thresholds(threshold: str, winner: str | None) -> None:
    said = outcome(Rules(thresholds=(threshold_of(threshold),)), ("a", 10.0, 0.40), ("b", 8.0, 0.38), may_retrain=False)
    assert (said["winner"] or {}).get("path") == winner
    if winner is None:
        assert (said["outcome"], said["reason"]) == ("KeepIncumbent", "NoCandidate")
        assert threshold.partition(" ")[0] in (why(said)["a"] or "")


def test_a_threshold_at_another_k_is_refused() -> None:
    with pytest.raises(UsageError, match="evaluation retrieved 5"):
        outcome(Rules(thresholds=(threshold_of("rag_accuracy_at_10 > 0.1"),)), ("a", 8.0, 0.3))


@pytest.mark.parametrize("text", ["test_perplexity <= 9", "test_rag_accuracy_at_5 > 0", "val_test <= 1"])
def test_a_threshold_on_the_test_set_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is a test metric: val chooses, test reports"):
        threshold_of(text)


@pytest.mark.parametrize("text", ["val_perplexity", "val_perplexity <= x", "bleu <= 3", "val_perplexity = 3", ""])
def test_what_is_no_threshold(text: str) -> None:
    with pytest.raises(UsageError):
        threshold_of(text)


@pytest.mark.parametrize("text", ["test_ppl:1", "ppl:0,rag:0", "ppl", "bleu:1", "ppl:-1", "ppl:1,ppl:2", "ppl:nan", ""])
def test_what_are_no_weights(text: str) -> None:
    with pytest.raises(UsageError):
        checked_weights(weights_of(text))


def test_a_weight_of_what_was_not_measured_falls_out() -> None:
    said = outcome(Rules(), ("a", 10.0, None), ("b", 8.0, 0.9))
    assert said["metric"] == "0.5 / val_perplexity"
    assert "the weight of rag falls out" in said["notes"][1]
    assert said["winner"]["path"] == "b"
    with pytest.raises(ConfigError, match="nothing that the weights name was measured"):
        outcome(Rules(weights=(("rag", 1.0),)), ("a", 10.0, None))


def by_thread(**gains: float) -> Evaluation:
    """Two threads of each half; `choose` gains on the first two, `gate` on the others, against a loss of 2."""
    threads = val_threads([f"t{n}" for n in range(4)], [10, 30, 10, 30], [0, 0, 0, 0], [0, 0, 0, 0])
    object.__setattr__(threads, "gates", np.array([False, False, True, True]))
    tokens = threads.num_tokens
    losses = {name: np.array([2.0 - gain, 2.0 - gain, 2.0, 2.0]) * tokens for name, gain in gains.items()}
    candidates = tuple(Scored(name, loss=loss) for name, loss in losses.items())
    return Evaluation(candidates, Scored("base", loss=2.0 * tokens), threads, 1)


def test_the_choosing_half_alone_chooses() -> None:
    evaluation = by_thread(a=0.1, b=0.2)
    loss = evaluation.candidates[0].loss
    assert loss is not None
    loss[2:] -= 100.0  # much better on the half that judges: it does not help
    decision = decide(evaluation, Rules("LowestLoss", max_retrain_attempts=0))
    assert decision.winner is not None
    assert decision.winner.scored.path == "b"
    assert decision.winner.figures.loss.value == pytest.approx(1.8)
    assert decision.improvement == pytest.approx(0.1)


@pytest.mark.parametrize("value", [{}, [], {"checkpoints": 3}, {"checkpoints": [{"val_perplexity": 3}]}])
def test_what_is_no_evaluation(value: Any) -> None:
    with pytest.raises(InputError, match=r"results\.json"):
        read_evaluations([(value, "results.json")])


@pytest.mark.parametrize("entry", [{}, {"val_perplexity": None}, {"val_perplexity": "x"}, {"val_perplexity": -1}])
def test_a_checkpoint_without_a_loss(entry: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="neither val_perplexity nor val_loss"):
        read_evaluations([({"checkpoints": [{"path": "a", **entry}]}, "results.json")])


def test_no_checkpoints() -> None:
    with pytest.raises(InputError, match="no checkpoints to choose from"):
        read_evaluations([({"checkpoints": []}, "results.json")])


def test_scores_of_another_format() -> None:
    with pytest.raises(IntegrityError, match=r"results\.json: it is of format 2; this version reads 1"):
        read_evaluations([({"format": 2, "checkpoints": []}, "results.json")])
