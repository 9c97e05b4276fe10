"""What follows what in a cycle, and how it ends: the one rule of the local runner and of the controller. All pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from jobs.contracts.records import Json
from jobs.contracts.stages import STAGES

Ending = Literal["Promoted", "NotPromoted", "Skipped"]
"""The states that a cycle comes to by itself; all are successes."""

_NAMES = tuple(row.name for row in STAGES)
_FIRST_RETRAINED = next(row.name for row in STAGES if row.is_retrained)
_LAST = _NAMES[-1]


@dataclass(frozen=True, slots=True)
class Step:
    """A stage in one attempt of a cycle."""

    stage: str
    attempt: int = 0


FIRST_STEP = Step(_NAMES[0])
"""What a cycle begins with."""


def next_step(done: Step, result: Json) -> Step | None:
    """What follows a stage that gave this result; None behind the last, and where the cycle is skipped."""
    if done.stage == "window" and result.get("skipped"):
        return None
    if done.stage == "select" and result.get("outcome") == "Retrain":
        return Step(_FIRST_RETRAINED, done.attempt + 1)
    for row in STAGES[_NAMES.index(done.stage) + 1 :]:
        if done.attempt == 0 or row.is_retrained or row.name == _LAST:
            return Step(row.name, done.attempt)
    return None


def comes_behind(other: Step, step: Step) -> bool:
    """Whether a stage comes behind another one in the course of a cycle; the last one, behind every attempt."""
    if other.attempt == step.attempt or _LAST in (other.stage, step.stage):
        return _NAMES.index(other.stage) > _NAMES.index(step.stage)
    return other.attempt > step.attempt


def is_waiting(step: Step, result: Json) -> bool:
    """Whether a stage has finished without an end: a promotion that a person has yet to approve."""
    return step.stage == _LAST and result.get("outcome") == "AwaitingApproval"


def ended_as(results: Mapping[str, Json]) -> Ending | None:
    """The state that a cycle has ended in, by the newest result of each of its stages; None: it has not ended."""
    if results.get("window", {}).get("skipped"):
        return "Skipped"
    outcome = results.get(_LAST, {}).get("outcome")
    if outcome in (None, "AwaitingApproval"):
        return None
    return "Promoted" if outcome == "Promoted" else "NotPromoted"


def why_skipped(result: Json, min_new_messages: int) -> str:
    """Why a cycle ends as Skipped, in words. `result` is that of window."""
    num = result.get("num_new_train_messages", "too few")
    return f"{num} new train messages came, and minNewMessages is {min_new_messages}"
