"""What a stage's Job is made from, for tests that look at the Job itself."""

from __future__ import annotations

from typing import Any

from controller_world import START

from controller.cycles import read_cycle
from controller.manifests import job_name
from controller.observed import Observed
from controller.planning import Planning
from controller.settings import Settings
from controller.train_jobs import is_handed_over
from jobs.contracts.cycle.status import StageStatus
from jobs.contracts.progression import Step


def wanted(given: dict[str, Any]) -> tuple[Planning, StageStatus]:
    """A plan in the making, and the entry of the stage that is to run: `spec`, `stage`, and what else is told."""
    metadata = {"name": "w1", "namespace": "mail", "uid": "uid-1", "resourceVersion": "7", "generation": 1}
    metadata["creationTimestamp"] = "2026-01-05T03:00:00Z"
    cycle = read_cycle({"metadata": metadata, "spec": given["spec"], "status": given.get("status", {})})
    assert cycle.spec is not None, cycle.problem
    settings = Settings.model_validate({"namespace": "mail"} | given.get("settings", {}))
    planning = Planning(cycle, Observed((cycle,)), settings, START)
    stage, attempt, run = given["stage"], given.get("attempt", 0), given.get("run", 0)
    is_handed = is_handed_over(planning, stage)
    name = job_name(cycle.uid, cycle.name, Step(stage, attempt), run, is_handed_over=is_handed)
    entry = StageStatus(
        name=stage, attempt=attempt, run=run, state="Running", job=name, started_at="2026-01-05T03:00:00Z"
    )
    return planning, entry
