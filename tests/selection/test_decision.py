"""The gate, the guards and the ladder."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from selection.builders import Results

from jobs.contracts.errors import InputError, UsageError
from jobs.selection.decision import as_json, decide
from jobs.selection.evaluation import half_of, read_evaluations
from jobs.selection.ladder import LADDER, Rung, read_ladder, rung
from jobs.selection.rules import Rules

LOSS = Rules("LowestLoss", improvement_threshold=0.01)


def decision(rules: Rules, *results: Results, **more: Any) -> dict[str, Any]:
    return as_json(decide(read_evaluations([(one.json, f"{n}.json") for n, one in enumerate(results)]), rules, **more))


def test_a_real_gain_is_promoted() -> None:
    said = decision(LOSS, Results().add("step_4").add("step_8", 0.1))
    assert (said["outcome"], said["reason"], said["winner"]["path"]) == ("Promote", "Better", "step_8")
    low, high = said["interval"]
    assert 0 < low < said["delta"] < high
    assert said["delta"] == pytest.approx(0.1 / 3.0, rel=0.2)
    assert said["num_threads"] == 20
    assert [guard["is_worse"] for guard in said["guards"]] == [False, False]
    assert said["winner"]["val_windows"]
    assert said["candidates"][0]["lost_because"].startswith("val loss ")
    assert said["incumbent"]["sha256"] == "1" * 64


def test_the_interval_by_hand() -> None:
    """Two threads judge, of 10 and 30 tokens; by hand from the ratio estimator and t(0.975, 1) = 12.7062."""
    results = Results(2)
    results.tokens = np.array([10.0, 30.0, 10.0, 30.0])
    results.base_loss = np.full(4, 2.0)
    results.json["val"]["num_tokens"] = results.tokens.tolist()
    for name in ("base", "incumbent"):
        results.json[name] = results.entry(name, 0.0, 0.0, sha256="")
    results.add("step_1", np.array([0.4, 0.4, 0.1, 0.3]), spread=0)
    said = decision(Rules("LowestLoss", min_threads=2), results)
    gain = (10 * 0.1 + 30 * 0.3) / 40
    residuals = np.array([10 * (0.1 - gain), 30 * (0.3 - gain)]) / 40
    reach = 12.706204736 * math.sqrt(2 * float(np.square(residuals).sum()))
    assert said["delta"] == pytest.approx(gain / 2)
    assert said["interval"] == pytest.approx([(gain - reach) / 2, (gain + reach) / 2])
    assert said["improvement"] == pytest.approx(0.2)


def test_the_influence_of_a_weighted_score_is_its_derivative() -> None:
    """Delta method against a numeric derivative: one thread's sums counted a little more."""
    from jobs.selection.measures import Figures, mean
    from jobs.selection.strategies import metric_of

    random = np.random.default_rng(3)
    tokens, questions = random.integers(5, 90, 12).astype(float), random.integers(0, 3, 12).astype(float)
    loss, rag = random.normal(3, 0.4, 12) * tokens, random.uniform(0, 1, 12) * questions

    def score(counted: Any) -> Any:
        figures = Figures(mean(loss * counted, tokens * counted), mean(rag * counted, questions * counted), 0.8)
        return metric_of(Rules(weights=(("ppl", 0.4), ("rag", 0.4), ("recall", 0.2))), figures)

    ones = np.ones(12)
    for thread in range(12):
        more = ones.copy()
        more[thread] += 1e-6
        numeric = (score(more).value - score(ones).value) / 1e-6
        assert score(ones).influences[thread] == pytest.approx(numeric, abs=1e-6)


def test_what_may_be_chance_is_not_promoted() -> None:
    said = decision(
        Rules("LowestLoss", improvement_threshold=0),
        Results(seed=3).add("step_4", 0.003, spread=0.3),
        may_retrain=False,
    )
    assert (said["outcome"], said["reason"]) == ("KeepIncumbent", "NotBetter")
    low, high = said["interval"]
    assert low <= 0 <= high
    assert "may be chance" in said["message"]


def test_too_few_threads_are_no_evidence_and_no_reason_to_train_again() -> None:
    said = decision(LOSS, Results(11).add("step_4", 1.0))
    assert (said["outcome"], said["reason"]) == ("KeepIncumbent", "InsufficientEvidence")
    assert "11 val threads may judge, and 12 are needed" in said["message"]
    assert decision(LOSS, Results(12).add("step_4", 1.0))["outcome"] == "Promote"
    assert decision(LOSS, Results(11).add("step_4", 0.0))["outcome"] == "KeepIncumbent"


def test_threads_without_questions_are_no_evidence_for_rag() -> None:
    results = Results(30).add("step_4", 0.1, 0.3)
    questions = [2.0 if number % 3 == 0 else 0.0 for number in range(results.num)]
    results.json["val"]["num_questions"] = questions
    for entry in (results.json["base"], results.json["incumbent"], *results.json["checkpoints"]):
        sums = entry["val_threads"]["rag"]
        entry["val_threads"]["rag"] = [one if asked else 0.0 for one, asked in zip(sums, questions, strict=True)]
    said = decision(Rules(), results)
    assert (said["reason"], said["num_threads"]) == ("InsufficientEvidence", 10)
    assert "10 val threads have something to say" in said["message"]
    assert decision(Rules(min_threads=10), results)["outcome"] == "Promote"


def test_old_weeks_are_guarded() -> None:
    """Much better on this week's threads, worse on the old: better in the mean, and kept out."""
    results = Results(40)
    new = np.array(results.json["val"]["window_idx"]) == 7
    results.add("step_4", np.where(new, 1.5, -0.1))
    said = decision(LOSS, results)
    assert said["interval"][0] > 0
    assert (said["outcome"], said["reason"]) == ("KeepIncumbent", "GuardWorse")
    assert [(guard["name"], guard["is_worse"]) for guard in said["guards"]] == [
        ("val_perplexity", False),
        ("val_perplexity on old weeks", True),
    ]
    assert "old weeks" in said["message"]


def test_perplexity_is_guarded_where_rag_decides() -> None:
    said = decision(Rules(), Results(30).add("step_4", -0.2, 0.2))
    assert said["interval"][0] > 0
    assert (said["reason"], said["guards"][0]["is_worse"]) == ("GuardWorse", True)


def test_the_first_incumbent_is_the_bare_base() -> None:
    said = decision(LOSS, Results(incumbent=False).add("step_4", 0.1))
    assert said["outcome"] == "Promote"
    assert said["incumbent"] is None
    assert said["in_service"]["path"] == "base"
    assert "the bare base model" in said["message"]


def test_the_ladder_to_its_end() -> None:
    """Too small a gain three times: half the rate, a quarter with replay at its cap, then the interval decides."""
    attempts = [Results().add("step_4", 0.01, spread=0.005)]
    said = decision(LOSS, *attempts)
    assert (said["outcome"], said["reason"], said["delta"]) == ("Retrain", "SmallGain", None)
    assert said["retrain"] == {"learning_rate_factor": 0.5, "replay": None}
    attempts.append(Results().add("step_5", 0.012, spread=0.005))
    said = decision(LOSS, *attempts)
    assert said["retrain"] == {"learning_rate_factor": 0.25, "replay": "cap"}
    attempts.append(Results().add("step_6", 0.008, spread=0.005))
    said = decision(LOSS, *attempts)
    assert (said["outcome"], said["attempts"], said["attempt"]) == ("Promote", 3, 2)
    assert (said["winner"]["path"], said["winner"]["attempt"]) == ("step_5", 1)
    assert said["improvement"] < LOSS.improvement_threshold
    assert said["confidence"] == pytest.approx(1 - 0.05 / 3)
    assert [one["attempt"] for one in said["candidates"]] == [0, 1, 2]


def test_more_attempts_make_the_interval_wider() -> None:
    once = decision(LOSS, Results().add("step_4", 0.1))
    twice = decision(LOSS, Results().add("step_4", 0.1), Results().add("step_5", 0.0))
    assert twice["winner"]["path"] == "step_4"
    assert twice["interval"][0] < once["interval"][0]
    assert ("(95%: " in once["message"], "(97.5%: " in twice["message"]) == (True, True)


def test_settings_of_attempts() -> None:
    assert [(rung(n).learning_rate_factor, rung(n).replay_at_cap) for n in range(4)] == [
        (1.0, False),
        (0.5, False),
        (0.25, True),
        (0.25, True),
    ]


def test_a_ladder_of_ones_own() -> None:
    rules = replace(LOSS, ladder=read_ladder("3.5:cap, 0.1"))
    attempts = [Results().add("step_4", 0.01, spread=0.005)]
    assert decision(rules, *attempts)["retrain"] == {"learning_rate_factor": 3.5, "replay": "cap"}
    attempts.append(Results().add("step_5", 0.012, spread=0.005))
    assert decision(rules, *attempts)["retrain"] == {"learning_rate_factor": 0.1, "replay": None}
    assert [rung(n, rules.ladder) for n in range(4)] == [Rung(), Rung(3.5, replay_at_cap=True), Rung(0.1), Rung(0.1)]


@pytest.mark.parametrize("text", ["", "half", "0", "-1", "nan", "inf", "101", "0.5:top", ",".join(["1"] * 11)])
def test_what_is_no_ladder(text: str) -> None:
    with pytest.raises(UsageError, match="not a ladder"):
        read_ladder(text)


def test_a_ladder_is_read_as_it_is_written() -> None:
    for text in ("0.5,0.25:cap", "0.123456789,1.0:cap,100.0"):
        assert ",".join(map(str, read_ladder(text))) == text
    assert read_ladder("0.5,0.25:cap") == LADDER


def test_a_loss_that_is_no_number_loses() -> None:
    results = Results().add("step_4").add("step_8", 0.1)
    results.json["checkpoints"][0]["val_threads"]["loss"][0] = None
    said = decision(LOSS, results)
    assert said["winner"]["path"] == "step_8"
    assert said["candidates"][0]["lost_because"] == "its val loss is not a number"


def test_no_thread_is_left() -> None:
    results = Results().add("step_4")
    results.json["val"]["num_tokens"] = [0] * results.num
    with pytest.raises(InputError, match="no val thread is left to score"):
        decision(LOSS, results)


def test_attempts_that_were_scored_on_other_threads() -> None:
    with pytest.raises(InputError, match="its val threads are not those of"):
        decision(LOSS, Results(20).add("step_4"), Results(21).add("step_5"))


def test_sums_that_do_not_fit() -> None:
    results = Results().add("step_4")
    results.json["checkpoints"][0]["val_threads"]["loss"].pop()
    with pytest.raises(InputError, match=r"step_4: 39 sums of loss for 40 val threads"):
        decision(LOSS, results)


@pytest.mark.parametrize(
    "value",
    [
        {"checkpoints": [{"path": "step_1", "val_perplexity": 3.0}], "base": 5},
        {"checkpoints": [{"path": "step_1", "val_perplexity": 3.0}], "top_k": "x"},
        {"checkpoints": [{"path": "step_1", "val_perplexity": "low"}]},
    ],
)
def test_what_evaluate_does_not_write(value: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"eval_results\.json"):
        read_evaluations([(value, "eval_results.json")])


def test_halves_do_not_change() -> None:
    """Pinned: another hash would let threads that chose an adapter judge it later."""
    names = [f"thread_{number:024x}" for number in range(8)]
    assert [half_of(one) for one in names] == PINNED
    halves = [half_of(f"thread_{number:024x}") for number in range(4000)]
    assert 0.47 < halves.count("gate") / 4000 < 0.53


PINNED = ["choose", "choose", "choose", "gate", "choose", "choose", "choose", "choose"]
