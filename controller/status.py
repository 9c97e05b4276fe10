"""Conditions of a cycle: pure functions from what is known to what is said."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from controller.objects import written
from jobs.contracts.cycle.status import Condition, CycleStatus, State

Truth = Literal["True", "False", "Unknown"]
_MOST_MESSAGE = 1024


def with_condition(
    status: CycleStatus, kind: str, truth: Truth, reason: str, message: str, *, now: datetime, generation: int
) -> CycleStatus:
    """The status with that condition; when it changed stays as it was where its truth does."""
    before = next((one for one in status.conditions if one.type == kind), None)
    since = before.last_transition_time if before and before.status == truth else written(now)
    made = Condition(
        type=kind,
        status=truth,
        reason=reason,
        message=shortened(message),
        last_transition_time=since,
        observed_generation=generation,
    )
    if before == made:
        return status
    others = [made if one.type == kind else one for one in status.conditions]
    return status.model_copy(update={"conditions": others if before else [*others, made]})


def without_condition(status: CycleStatus, *kinds: str) -> CycleStatus:
    """The status without those conditions."""
    kept = [one for one in status.conditions if one.type not in kinds]
    return status.model_copy(update={"conditions": kept}) if len(kept) < len(status.conditions) else status


def condition_of(status: CycleStatus, kind: str) -> Condition | None:
    """The condition of that type."""
    return next((one for one in status.conditions if one.type == kind), None)


def ended(
    status: CycleStatus, state: State, reason: str, message: str, *, now: datetime, generation: int
) -> CycleStatus:
    """The status of a cycle that ends now."""
    status = status.model_copy(
        update={"state": state, "completed_at": written(now), "progress": None, "observed_generation": generation}
    )
    status = without_condition(status, "Progressing")
    succeeded: Truth = "False" if state == "Failed" else "True"
    for kind, truth in (("Complete", "True"), ("Succeeded", succeeded)):
        status = with_condition(status, kind, truth, reason, message, now=now, generation=generation)  # type: ignore[arg-type]
    promoted = condition_of(status, "Promoted")
    if state != "Promoted" and (promoted is None or promoted.status == "Unknown"):
        is_told: Truth = "Unknown" if may_be_on_record(status) else "False"
        status = with_condition(status, "Promoted", is_told, reason, message, now=now, generation=generation)
    return status


def may_be_on_record(status: CycleStatus) -> bool:
    """Whether the cycle has failed while its promotion was recorded, and nobody could tell whether it was."""
    succeeded = condition_of(status, "Succeeded")
    is_recording = status.promotion is not None and status.promotion.phase == "Recording"
    return is_recording and succeeded is not None and succeeded.reason == "ResultUnknown"


def shortened(text: str, most: int = _MOST_MESSAGE) -> str:
    """Words that fit."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"
