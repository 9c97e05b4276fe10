"""Entries of eval_results.json, from sums that are worked out by hand."""

from __future__ import annotations

import math

import pytest
from scoring.mails import question

from jobs.scoring import results
from jobs.scoring.controls import MAX_QUESTIONS, compared, controlled
from jobs.scoring.intervals import ratio_interval
from jobs.scoring.report import table
from jobs.scoring.results import Answer, Scored, Threads

CHUNKS = [
    Scored("b_window_0", "b", 3, 10),
    Scored("b_window_1", "b", 5, 20),
    Scored("a_window_0", "a", 5, 30),
    Scored("c_window_0", "c", 2, 0),
]
LOSSES = [30.0, 20.0, 70.0]
"""Of the chunks that count."""
QUESTIONS = [question("p", thread="a"), question("q", thread="b"), question("r", thread="b"), question("s", thread="c")]


@pytest.fixture
def threads() -> Threads:
    return Threads(CHUNKS, QUESTIONS)


def test_threads_are_those_with_something_to_score(threads: Threads) -> None:
    assert threads.as_json() == {
        "threads": ["a", "b"],
        "num_tokens": [30, 30],
        "window_idx": [5, 3],
        "num_questions": [1, 2],
    }
    assert [one.target.message_id for one in threads.questions] == ["p", "q", "r"]
    assert threads.windows() == {3: {"b"}, 5: {"a", "b"}}


def test_perplexity_is_of_totals(threads: Threads) -> None:
    found = results.loss_fields(threads, LOSSES, "test")
    assert found["test_loss"] == pytest.approx(120 / 60)
    assert found["test_perplexity"] == pytest.approx(math.exp(2))
    interval = ratio_interval([70, 50], [30, 30], 0.95)
    assert found["intervals"]["test_loss"] == pytest.approx([interval.low, interval.high])
    assert found["intervals"]["test_perplexity"] == pytest.approx([math.exp(interval.low), math.exp(interval.high)])


def test_sums_by_window_add_up(threads: Threads) -> None:
    assert results.window_sums(threads, LOSSES) == [
        {"window_idx": 3, "loss": 30, "num_tokens": 10, "num_threads": 1},
        {"window_idx": 5, "loss": 90, "num_tokens": 50, "num_threads": 2},
    ]


def test_without_a_thread_all_is_null() -> None:
    nothing = Threads([])
    assert results.loss_fields(nothing, [], "test") == {"test_loss": None, "test_perplexity": None, "intervals": {}}
    fields, bounds, sums = results.answer_fields(nothing, [], [], metric="bleu", top_k=3)
    assert set(fields.values()) == {None}
    assert "rag_accuracy_at_3" in fields
    assert (bounds, sums) == ({}, None)


def test_answers_are_scored_by_thread(threads: Threads) -> None:
    answers = [
        Answer("raid five", ("raid one",), 2 * math.log(0.5), 2),
        Answer("", ()),
        Answer("raid six", ("raid six is new",), 2 * math.log(0.25), 2),
    ]
    references = ["raid five", "yes", "raid five"]
    fields, bounds, sums = results.answer_fields(threads, answers, references, metric="token_f1", top_k=5)
    assert fields["rag_accuracy_at_5"] == fields["token_f1"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert fields["exact_match"] == pytest.approx(1 / 3)
    assert fields["token_recall"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert fields["k_precision"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert fields["fluency"] == pytest.approx((0.5 + 0 + 0.25) / 3)
    assert fields["num_empty_answers"] == 1
    assert fields["distinct_2"] == 1
    assert sums is not None
    assert sums.tolist() == [1, 0.5]
    assert bounds["token_f1"] == bounds["rag_accuracy_at_5"] == [0, 1]
    _, _, by_match = results.answer_fields(threads, answers, references, metric="exact_match", top_k=5)
    assert by_match is not None
    assert by_match.tolist() == [1, 0]


def test_numbers_keep_nine_digits() -> None:
    assert results.rounded(math.pi * 1e4) == 31415.9265
    assert results.rounded(math.inf) is results.rounded(math.nan) is results.rounded(None) is None
    assert results.perplexity(800.0) == math.inf


# ---- controls


def test_true_sources_that_help_are_informative() -> None:
    asked = [question(str(number), thread=f"t{number}") for number in range(12)]
    scores = {
        "true": [0.8 + 0.01 * (number % 3) for number in range(12)],
        "retrieved": [0.7] * 12,
        "random": [0.2 + 0.01 * (number % 4) for number in range(12)],
        "none": [0.3] * 12,
    }
    found = compared("step_4", asked, scores)
    assert found["is_informative"]
    assert found["scores"]["retrieved"] == {"estimate": 0.7, "interval": [0.7, 0.7]}
    gains = [a - b for a, b in zip(scores["true"], scores["random"], strict=True)]
    assert found["gains"]["true - random"]["estimate"] == pytest.approx(sum(gains) / 12)
    assert not compared("step_4", asked, scores | {"none": scores["true"]})["is_informative"]
    assert not compared("step_4", asked[:1], {name: values[:1] for name, values in scores.items()})["is_informative"]


def test_controls_are_asked_where_there_are_true_sources_and_not_too_often() -> None:
    asked = [question(str(number)) for number in range(3 * MAX_QUESTIONS)]
    assert controlled(asked, [0] * len(asked), 1) == []
    assert controlled(asked[:4], [0, 2, 0, 1], 1) == [1, 3]
    chosen = controlled(asked, [1] * len(asked), 1)
    assert len(set(chosen)) == MAX_QUESTIONS
    assert chosen == sorted(chosen) != list(range(MAX_QUESTIONS))
    assert chosen != controlled(asked, [1] * len(asked), 2)


# ---- the table


def entry(path: str, loss: float) -> dict[str, object]:
    names = ("rag_accuracy_at_5", "retrieval_recall_at_5", "fluency")
    return {"path": path, "val_loss": loss, "val_perplexity": math.exp(loss), "test_perplexity": None} | dict.fromkeys(
        names, 0.25
    )


def test_the_table_marks_what_is_in_service_and_the_best() -> None:
    found = {
        "top_k": 5,
        "rag_metric": "token_f1",
        "base": entry("base", 3.0),
        "incumbent": None,
        "checkpoints": [entry("step_4", 2.0), entry("step_12", 2.5)],
        "controls": None,
    }
    assert table(found) == (
        "                        val ppl  test ppl  rag@5  recall@5  fluency\n"
        "base model, in service    20.09         -  0.250     0.250    0.250\n"
        "step_4 *                  7.389         -  0.250     0.250    0.250\n"
        "step_12                   12.18         -  0.250     0.250    0.250\n"
    )
    assert "incumbent, in service" in table(found | {"incumbent": entry("incumbent", 2.5)})
