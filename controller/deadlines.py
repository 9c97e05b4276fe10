"""How long a cycle and its stages may take. Pure."""

from __future__ import annotations

from controller.objects import Json, after, is_false
from controller.planning import Planning
from controller.pods import override_of
from jobs.contracts import stages
from jobs.contracts.cycle.status import StageStatus


def deadline_seconds(p: Planning, entry: StageStatus) -> int:
    """How long a stage may take."""
    return override_of(p, entry.name).deadline_seconds or stages.stage(entry.name).deadline_seconds


def late_cycle(p: Planning) -> str:
    """That the cycle has had its time, in words; empty where it has not."""
    seconds = p.spec.deadline_seconds
    if seconds is None or p.status.started_at is None:
        return ""
    at = after(p.status.started_at, seconds)
    if p.now >= at:
        return f"the cycle has taken longer than its deadlineSeconds of {seconds}"
    p.wake(at)
    return ""


def late_stage(p: Planning, entry: StageStatus, job: Json | None) -> str:
    """That a stage has had its time, in words. That begins when its Job may start, which Kueue may hold."""
    if job is not None and job["spec"].get("suspend"):
        return ""
    at = after(_began(job) if job else entry.started_at, deadline_seconds(p, entry))
    if p.now >= at:
        return f"{entry.name} took longer than {deadline_seconds(p, entry)} s"
    p.wake(at)
    return ""


def _began(job: Json) -> str:
    resumed = is_false(job, "Suspended") or {}  # a TrainJob has no start time
    began = (job.get("status") or {}).get("startTime") or resumed.get("lastTransitionTime")
    return str(began or job["metadata"]["creationTimestamp"])
