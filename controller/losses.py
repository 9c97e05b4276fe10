"""Runs that were lost by no fault of the stage, and how often it is begun again for that. Pure."""

from __future__ import annotations

from typing import Any

from controller.deadlines import late_stage, taken_seconds
from controller.planning import Planning
from jobs.contracts import stages
from jobs.contracts.cycle.status import StageStatus


def may_be_lost(p: Planning, entry: StageStatus) -> bool:
    """Whether a stage whose run was lost is begun again: as often as the stage table says, and while it has time.

    How long a run lasted tells nothing of whose fault its end was: a step that needs too much memory comes after an
    hour of loading too. So losses are forgotten only where training got a percent further than at any loss before,
    which a failure that comes again at the same place never does. Who tells of no progress (a TrainJob, all stages
    but training) has the tries of the table. Either way the stage's deadline is that of all its runs together.
    """
    is_late = bool(late_stage(p, entry, p.observed.jobs.get(entry.job)))
    return not is_late and _losses(p, entry) < stages.stage(entry.name).retries


def with_loss(p: Planning, entry: StageStatus) -> dict[str, Any]:
    """What an entry says of its losses once this run is lost too."""
    return {
        "losses": _losses(p, entry) + 1,
        "lost_percent": max(entry.lost_percent, _percent(p)),
        "lost_seconds": taken_seconds(p, entry, p.observed.jobs.get(entry.job)),
    }


def _losses(p: Planning, entry: StageStatus) -> int:
    """How often it was lost before without getting further."""
    return 0 if _percent(p) > entry.lost_percent else entry.losses


def _percent(p: Planning) -> int:
    """How far the run was when it last said so, in whole percents: a loss is noticed a little before or behind."""
    progress = p.status.progress
    return int(progress.percent or 0) if progress else 0
