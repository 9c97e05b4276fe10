"""What follows what in a cycle, and how it ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

from jobs.contracts.progression import FIRST_STEP, Step, comes_behind, ended_as, is_waiting, next_step, why_skipped
from jobs.contracts.stages import STAGES

NAMES = [row.name for row in STAGES]
RETRAINED = ["sample", "train", "evaluate", "select"]


def walk(results: dict[Step, dict[str, object]]) -> list[Step]:
    """The steps of a cycle whose stages give these results, and any other nothing."""
    steps: list[Step] = []
    step: Step | None = FIRST_STEP
    while step is not None:
        steps.append(step)
        step = next_step(step, results.get(step, {}))
    return steps


def test_a_cycle_runs_every_stage_in_the_tables_order() -> None:
    assert walk({}) == [Step(name) for name in NAMES]


def test_too_little_mail_ends_it_behind_window() -> None:
    assert walk({Step("window"): {"skipped": True}}) == [Step(name) for name in ("parse", "split", "window")]


def test_further_attempts_run_what_is_retrained_and_one_promotion() -> None:
    again = {"outcome": "Retrain"}
    expected = [Step(name) for name in NAMES[:-1]] + [Step(name, 1) for name in RETRAINED]
    expected += [Step(name, 2) for name in [*RETRAINED, "promote"]]
    assert walk({Step("select"): again, Step("select", 1): again}) == expected


@pytest.mark.parametrize(
    ("results", "state"),
    [
        ({}, None),
        ({"parse": {}, "window": {"skipped": False}}, None),
        ({"window": {"skipped": True}}, "Skipped"),
        ({"window": {"skipped": False}, "select": {"outcome": "Retrain"}}, None),
        ({"window": {}, "select": {"outcome": "Promote"}}, None),
        ({"window": {}, "promote": {"outcome": "AwaitingApproval"}}, None),
        ({"window": {}, "promote": {"outcome": "Promoted"}}, "Promoted"),
        ({"window": {}, "promote": {"outcome": "NotPromoted"}}, "NotPromoted"),
    ],
)
def test_how_it_ends(results: dict[str, dict[str, object]], state: str | None) -> None:
    assert ended_as(results) == state


def test_only_a_promotion_waits() -> None:
    assert is_waiting(Step("promote", 1), {"outcome": "AwaitingApproval"})
    assert not is_waiting(Step("promote"), {"outcome": "Promoted"})
    assert not is_waiting(Step("select"), {"outcome": "AwaitingApproval"})


def test_why_it_was_skipped() -> None:
    said = "3 new train messages came, and minNewMessages is 10"
    assert why_skipped({"num_new_train_messages": 3}, 10) == said


def test_it_is_light() -> None:
    code = "import sys, jobs.contracts.progression; print(*{'pydantic', 'orjson', 'boto3'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.strip() == b""


def test_what_comes_behind_what() -> None:
    behind = [
        (Step("split"), Step("parse")),
        (Step("select"), Step("train")),
        (Step("sample", 1), Step("select")),
        (Step("train", 2), Step("evaluate", 1)),
        (Step("promote"), Step("select", 1)),
    ]
    assert all(comes_behind(later, earlier) for later, earlier in behind)
    assert not any(comes_behind(earlier, later) for later, earlier in behind)
    assert not comes_behind(Step("index"), Step("sample", 1)), "no attempt repeats it"
    assert not comes_behind(Step("promote"), Step("promote"))
