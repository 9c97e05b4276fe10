"""How long a cycle and its stages may take. Pure."""

from __future__ import annotations

from controller.objects import Json, after, is_false, moment
from controller.planning import Planning
from controller.pods import override_of
from controller.status import condition_of
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
    """That a stage has had its time, in words. That begins when its Job may start, which Kueue may hold.

    Runs that were lost before this one count, without what lay between them.
    """
    if job is not None and job["spec"].get("suspend"):
        return ""
    seconds = deadline_seconds(p, entry)
    at = after(_began(entry, job), seconds - entry.lost_seconds)
    if p.now >= at:
        return f"{entry.name} took longer than {seconds} s{', in all its runs' if entry.lost_seconds else ''}"
    p.wake(at)
    return ""


def late_waiting(p: Planning, entry: StageStatus) -> bool:
    """Whether a stage has been held up, by one thing after another, for as long as it may take."""
    said = condition_of(p.status, "Progressing")
    if said is None or said.status != "False":
        return False
    return p.now >= after(said.last_transition_time, deadline_seconds(p, entry))


def taken_seconds(p: Planning, entry: StageStatus, job: Json | None) -> int:
    """How long a stage's runs have taken until now, this one and those that were lost before it."""
    return entry.lost_seconds + max(0, int((p.now - moment(_began(entry, job))).total_seconds()))


def _began(entry: StageStatus, job: Json | None) -> str:
    if job is None:
        return entry.started_at
    resumed = is_false(job, "Suspended") or {}  # a TrainJob has no start time
    began = (job.get("status") or {}).get("startTime") or resumed.get("lastTransitionTime")
    return str(began or job["metadata"]["creationTimestamp"])
