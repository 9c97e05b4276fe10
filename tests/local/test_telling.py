"""A line for each stage of a run."""

from __future__ import annotations

import pytest

from jobs.contracts.progression import Step
from jobs.local.running import Done
from jobs.local.telling import duration, line_of, said

TRAIN = {
    "num_steps": 7,
    "starts_from": "base",
    "first_loss": 5.45,
    "last_loss": 5.328,
    "stopped_early": False,
    "num_checkpoints": 2,
    "best_eval_loss": 5.5139,
    "best_step": 7,
}
EVALUATE = {
    "num_checkpoints": 5,
    "num_val_threads": 30,
    "best_val_perplexity": 18.0,
    "in_service_val_perplexity": 20.0,
}


def test_the_columns_line_up_whatever_the_attempt():
    lines = [line_of(Done(Step("evaluate", attempt), EVALUATE, 1.0, had_finished=False)) for attempt in (0, 2)]
    assert [line.index("5 checkpoints") for line in lines] == [14, 14]


def test_what_had_finished_does_not_pass_for_done_now():
    before, now = (line_of(Done(Step("evaluate", 0), EVALUATE, 1.0, had_finished=one)) for one in (True, False))
    assert before.startswith("evaluate      had finished: 5 checkpoints")
    assert before.endswith("20.00")
    assert now.endswith("20.00  [1.0 s]")


def test_a_record_that_was_there_stays():
    told = [said("promote", {"outcome": outcome, "seq": 1}) for outcome in ("Promoted", "NotPromoted")]
    assert told == ["Promoted (record 1)", "NotPromoted (record 1 stays)"]
    assert said("promote", {"outcome": "NotPromoted", "seq": 0}) == "NotPromoted"


def test_what_was_left_out_is_told_with_its_reasons():
    result = {
        "num_sources": 1,
        "num_kept": 9,
        "num_rejected": {"not mail": 1},
        "num_filtered": {"b": 1, "a": 1, "c": 2},
    }
    assert said("parse", result) == "9 mails, 1 rejected (not mail), 4 left out (c, a, b)"
    assert said("parse", result | {"num_filtered": dict.fromkeys("dcba", 1)}).endswith("4 left out (a, b, c …)")


def test_training_tells_the_val_loss_where_there_is_one():
    assert said("train", TRAIN) == "7 steps from the base: loss 5.450 to 5.328, val loss 5.514 at step 7; 2 checkpoints"
    assert "val" not in said("train", TRAIN | {"best_eval_loss": None, "best_step": None})


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.44, "0.4 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7_500, "2 h 5 min")],
)
def test_durations(seconds, told):
    assert duration(seconds) == told
