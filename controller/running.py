"""A stage's Job: begun, watched, and what follows it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from controller.actions import CreateJob, CreateService, DeleteJob
from controller.deadlines import late_cycle, late_stage, late_waiting
from controller.losses import may_be_lost, with_loss
from controller.manifests import asking_job, gathering_job, is_shared, job_name, ranks_service, stage_job
from controller.noting import note_result
from controller.objects import Json, condition, is_train_job, name, owner_uid, uid
from controller.planning import Planning
from controller.promoting import is_cleared
from controller.status import shortened
from controller.symptoms import failure_of, told_by, trouble, why_failed, words_of
from controller.train_jobs import is_handed_over, left_to_the_runtime, train_job
from jobs.contracts.cycle.status import StageStatus
from jobs.contracts.errors import MissingInputError, permanent_exit_codes
from jobs.contracts.progression import FIRST_STEP, Step, ended_as, next_step, why_skipped
from jobs.contracts.termination import Termination

_REFUSED_SECONDS = 30
_FAILS_AGAIN = ("PodFailurePolicy", "TrainingRuntimeNotSupported")


def advance(p: Planning) -> None:
    """Bring a cycle whose turn it is one step further."""
    entry = p.entry
    if entry is None:
        begin(p, FIRST_STEP)
    elif entry.state == "Suspended":
        begin(p, Step(entry.name, entry.attempt))
    elif entry.state == "Running":
        _watch(p, entry)
    elif entry.state == "Succeeded":
        _follow(p, entry)
    else:
        fail(p, "StageFailed", entry.message)


def begin(p: Planning, step: Step) -> None:
    """Create a stage's Job, once no pod of the archive is left and the inference Deployment is ready for it."""
    if step.stage == "promote" and not is_cleared(p):
        return
    before, run, job = _next_run(p, step)
    if left := next(p.observed.live_pods(but=job), None):
        p.set(state="Running")
        p.progressing("True", "PodsLeft", f"waits for {p.observed.called(left)} to end")
        return
    lost = before.model_dump(include={"losses", "lost_percent", "lost_seconds"}) if before else {}
    entry = StageStatus(
        name=step.stage,  # type: ignore[arg-type]
        attempt=step.attempt,
        run=run,
        state="Running",
        job=job,
        started_at=p.now_written,
        **lost,
    )
    p.set(
        state="Running",
        stage=step.stage,
        attempt=step.attempt,
        progress=None,
        stages=[*(one for one in p.status.stages if one is not before), entry],
    )
    _create(p, entry)


def _next_run(p: Planning, step: Step) -> tuple[StageStatus | None, int, str]:
    """A stage's run before the next, and that one's number and Job."""
    before = next(
        (one for one in reversed(p.status.stages) if (one.name, one.attempt) == (step.stage, step.attempt)), None
    )
    run = before.run + 1 if before else 0
    is_handed = is_handed_over(p, step.stage)
    return before, run, job_name(p.cycle.uid, p.cycle.name, step, run, is_handed_over=is_handed)


def run_out(p: Planning, message: str) -> None:
    """The cycle has had its time. What has ended well counts, and what may be on record is asked for."""
    if p.entry is not None and _may_be_recorded(p, p.entry):
        _watch(p, p.entry)
        return
    note_finished(p)
    if p.status.state == "Failed":
        return
    step, entry = _coming(p), p.entry
    if step is not None and _next_run(p, step)[2] in p.observed.jobs:  # begun, and not written down yet
        begin(p, step)
    elif step is None and entry is not None and entry.state == "Succeeded":
        _end(p, entry)
    else:
        fail(p, "DeadlineExceeded", message)


def _coming(p: Planning) -> Step | None:
    """The step that is to be begun next; None where one runs, or nothing follows."""
    entry = p.entry
    if entry is None:
        return FIRST_STEP
    if entry.state == "Suspended":
        return Step(entry.name, entry.attempt)
    return next_step(Step(entry.name, entry.attempt), entry.result) if entry.state == "Succeeded" else None


def _may_be_recorded(p: Planning, entry: StageStatus) -> bool:
    """Whether a promotion may have been written down that has told nothing of it yet."""
    has_begun = bool(entry.asks or entry.job_uid or entry.job in p.observed.jobs)
    return entry.name == "promote" and entry.state == "Running" and has_begun


def _create(p: Planning, entry: StageStatus) -> None:
    """Create the Job of the stage that is to run; a refusal is said, and fails the cycle at the stage's deadline."""
    service = ranks_service(p, entry)
    names = [name(one) for one in (service,) if one] + [entry.job]
    if not _is_refused(p, *names, late=late_stage(p, entry, None)):
        p.progressing("True", "StageRunning", f"{entry.name} runs as {entry.job}")
    if p.status.state == "Failed":
        return
    if service is not None:
        p.actions.append(CreateService(service))
    manifest = stage_job(p, entry)
    if is_handed_over(p, entry.name):
        if left := left_to_the_runtime(manifest["spec"]["template"]["spec"]):
            p.emit("LeftToTheRuntime", f"{', '.join(left)} of train: its TrainJob's runtime decides", is_warning=True)
        manifest = train_job(p, entry)
    p.actions.append(CreateJob(manifest))


def _is_refused(p: Planning, *names: str, late: str = "") -> bool:
    """Whether the API server has refused one of these objects: it is said, and for good or too late the cycle fails."""
    refusal = next((p.observed.refusals[one] for one in names if one in p.observed.refusals), None)
    if refusal is None:
        return False
    if refusal.is_permanent:
        fail(p, "JobRefused", refusal.message)
    elif late:
        fail(p, "JobRefused", f"{late}, for its Job was refused: {refusal.message}")
    else:
        p.progressing("False", "QuotaExceeded" if "quota" in refusal.message else "JobRefused", refusal.message)
        p.wake(p.now + timedelta(seconds=_REFUSED_SECONDS))
    return True


def _watch(p: Planning, entry: StageStatus) -> None:
    job = p.observed.jobs.get(entry.job)
    if entry.asks:
        _watch_question(p, entry)
    elif job is None and entry.job_uid:
        _ask(p, entry, "its Job is gone; the store is asked whether it had finished")
    elif job is None:
        _create(p, entry)
    elif is_shared(p, entry) and condition(job, "Complete"):
        _ask(p, entry, "its shares are put together")
    elif condition(job, "Complete"):
        told = told_by(p, job, entry)
        if told is None or told.result is None:
            _ask(p, entry, "its pod said nothing of its result; the store is asked whether it had finished")
        else:
            succeed(p, told.result)
    elif failed := condition(job, "Failed"):
        _failed(p, entry, job, failed)
    elif late := late_cycle(p) or late_stage(p, entry, job):
        _give_up(p, entry, job, late)
    else:
        if entry.job_uid != uid(job):
            p.set_entry(job_uid=uid(job))
        _describe(p, entry, job)


def _give_up(p: Planning, entry: StageStatus, job: Json, late: str) -> None:
    """It has had its time. A promotion may be on record: it is stopped, and then the store is asked."""
    if entry.name != "promote":
        fail(p, "DeadlineExceeded", late)
        return
    p.set_entry(job_uid=uid(job))
    stop(p)
    p.progressing("True", "PodsLeft", f"{late}; waits for {entry.job} to end, which may have written its record")


def _describe(p: Planning, entry: StageStatus, job: Json) -> None:
    """Say how a running stage does: what it waits for, or how far it is."""
    reason, message = trouble(p, entry, job)
    p.set_entry(message=shortened(message))
    p.set(state="Queued" if reason == "Admission" else "Running")
    if reason:
        p.progressing("Unknown" if reason == "Admission" else "False", reason, message)
        return
    p.progressing("True", "StageRunning", f"{entry.name} runs as {entry.job}")
    if entry.name == "train":
        p.wake(p.now + timedelta(seconds=p.settings.progress_seconds))
    if progress := p.observed.progress.get(entry.job):
        p.set(progress=progress)


def _failed(p: Planning, entry: StageStatus, job: Json, failed: Mapping[str, Any]) -> None:
    """A Job has failed: for good, or, where it is all ranks' or a node's doing, to be begun again."""
    told = failure_of(p, job, entry)
    words = why_failed(p, entry, job, failed)
    if is_shared(p, entry) and failed.get("reason") == "FailedIndexes":
        p.emit("SharesLost", f"{entry.name}: shares {_lost(p, entry)} of it failed: {words}", is_warning=True)
        _ask(p, entry, f"its shares are put together without {_lost(p, entry)}, which failed: {words}")
        return
    # torchrun ends with a code of its own: what a rank has told counts too.
    told_code = told.failure.exit_code if told and told.failure else 0
    is_permanent = failed.get("reason") in _FAILS_AGAIN or told_code in permanent_exit_codes()
    if not is_permanent and _is_many(p, entry) and may_be_lost(p, entry):
        p.emit("RanksLost", f"{entry.name} is begun again on all nodes: {words}", is_warning=True)
        _begin_again(p, entry)
    elif not is_permanent and entry.name == "promote":
        _ask(p, entry, f"{words}; the store is asked whether it is on record all the same")
    else:
        fail(p, "StageFailed", f"{entry.name}: {words}")


def _is_many(p: Planning, entry: StageStatus) -> bool:
    return entry.name == "train" and (p.spec.training.nodes > 1 or is_handed_over(p, entry.name))


def _begin_again(p: Planning, entry: StageStatus) -> None:
    p.set_entry(state="Suspended", asks="", **with_loss(p, entry))
    begin(p, Step(entry.name, entry.attempt))


def _ask(p: Planning, entry: StageStatus, why: str) -> None:
    """Let a light pod say the stage's result, from the store, once no pod is left that may write it yet."""
    manifest = _question(p, entry)
    if left := next(p.observed.live_pods(but=name(manifest)), None):
        p.progressing("True", "PodsLeft", f"{entry.name}: {why}; waits for {p.observed.called(left)} to end")
        return
    p.set_entry(asks=name(manifest))
    p.actions.append(CreateJob(manifest))
    p.progressing("True", "AskingForResult", f"{entry.name}: {why}")


def _question(p: Planning, entry: StageStatus) -> Json:
    """The Job that says the result: from its marker, or from the shares, which it puts together."""
    return gathering_job(p, entry, _lost(p, entry)) if is_shared(p, entry) else asking_job(p, entry)


def _lost(p: Planning, entry: StageStatus) -> str:
    """The shares that have failed for good, as their Job says it: 1,3-5; empty where it is gone."""
    job = p.observed.jobs.get(entry.job) or {}
    return str((job.get("status") or {}).get("failedIndexes") or "")


def _watch_question(p: Planning, entry: StageStatus) -> None:
    """The stage had finished: go on. It had not: begin it again."""
    job = p.observed.jobs.get(entry.asks)
    if job is None:
        refusal = p.observed.refusals.get(entry.asks)
        if refusal is not None and (refusal.is_permanent or late_cycle(p) or late_waiting(p, entry)):
            fail(p, "ResultUnknown", f"{entry.name}: {entry.asks} is refused: {refusal.message}")
            return
        _is_refused(p, entry.asks)
        p.actions.append(CreateJob(_question(p, entry)))
        return
    told = told_by(p, job, entry)
    if condition(job, "Complete") and told is not None and told.result is not None:
        succeed(p, told.result)
    elif condition(job, "Complete") or condition(job, "Failed"):
        _unanswered(p, entry, told)
    elif late_stage(p, entry, job):
        fail(p, "ResultUnknown", f"{entry.name}: {entry.asks} did not end; see what it waits for, then retry")
    else:
        reason, message = trouble(p, entry, job)
        if reason:
            p.progressing("False", reason, message)


def _unanswered(p: Planning, entry: StageStatus, told: Termination | None) -> None:
    """The store was asked, and gave no result."""
    failure = told.failure if told else None
    has_not_finished = failure is not None and failure.exit_code == MissingInputError.exit_code
    if has_not_finished and (why := _why_unrecorded(p, entry)):
        fail(p, *why)
    elif has_not_finished and may_be_lost(p, entry):
        message = f"{entry.name} had not finished when its Job was lost; it is begun again"
        p.emit("JobLost", message, is_warning=True)
        _begin_again(p, entry)
    else:
        words = words_of(told) or "its Job is gone, and the store was not readable"
        reason = "StageFailed" if failure is not None and is_shared(p, entry) else "ResultUnknown"
        fail(p, reason, f"{entry.name}: {words}")


def _why_unrecorded(p: Planning, entry: StageStatus) -> tuple[str, str] | None:
    """Why a promotion that was not recorded is not begun again; None where its Job was merely lost."""
    if entry.name != "promote":
        return None
    job = p.observed.jobs.get(entry.job)
    if job is not None and (failed := condition(job, "Failed")):
        return "StageFailed", f"{entry.name}: {why_failed(p, entry, job, failed)}"
    late = late_cycle(p) or late_stage(p, entry, None)
    return ("DeadlineExceeded", late) if late else None


def succeed(p: Planning, result: Json) -> None:
    """A stage has told its result: say so, and go on with what follows it."""
    if _is_noted(p, result):
        assert p.entry is not None
        _follow(p, p.entry)


def note_finished(p: Planning) -> None:
    """Note the result of a stage that has ended well, and go on with nothing: the cycle is suspended."""
    entry = p.entry
    if entry is None or entry.state != "Running":
        return
    tells = entry.asks or ("" if is_shared(p, entry) else entry.job)  # a share's pod tells of no result
    job = p.observed.jobs.get(tells)
    if job is None or not condition(job, "Complete"):
        return
    told = told_by(p, job, entry)
    if told is not None and told.result is not None:
        _is_noted(p, told.result)


def _is_noted(p: Planning, result: Json) -> bool:
    """Write a stage's result into the status. One of another version's making fails the cycle."""
    before = p.status
    entry = p.set_entry(state="Succeeded", completed_at=p.now_written, result=result, message="", asks="")
    p.set(progress=None)
    try:
        note_result(p, entry, result)
    except ValueError as error:  # ValidationError is one
        p.status = before
        fail(p, "ResultUnknown", f"{entry.name} told a result that is none: {error}")
        return False
    return True


def _follow(p: Planning, entry: StageStatus) -> None:
    following = next_step(Step(entry.name, entry.attempt), entry.result)
    if following is not None and following.attempt > p.spec.selection.max_retrain_attempts:
        fail(p, "ResultUnknown", f"{entry.name} asks for more attempts than maxRetrainAttempts allows")
    elif following is not None:
        if following.attempt > entry.attempt:
            p.emit("TrainsAgain", str(entry.result.get("message", "")))
        begin(p, following)
    else:
        _end(p, entry)


def _end(p: Planning, entry: StageStatus) -> None:
    """Nothing follows: the cycle has ended, in one way or another."""
    results: dict[str, Json] = {one.name: one.result for one in p.status.stages}
    state = ended_as(results)
    if state is None:
        fail(p, "ResultUnknown", f"{entry.name} ended with a result that is none: {entry.result}")
    elif state == "Skipped":
        p.end("Skipped", "TooFewMessages", why_skipped(results["window"], p.spec.window.min_new_messages))
    else:
        reason = re.sub(r"[^A-Za-z0-9]", "", str(entry.result.get("reason") or state))[:64] or state
        message = str(entry.result.get("message", ""))
        p.condition("Promoted", "True" if state == "Promoted" else "False", reason, message)
        p.end(state, reason, message)


def fail(p: Planning, reason: str, message: str) -> None:
    """The cycle ends as Failed; a retry goes on from the stage that failed."""
    stop(p)
    if (entry := p.entry) is not None and entry.state == "Running":
        p.set_entry(state="Failed", completed_at=p.now_written, message=shortened(message))
    p.end("Failed", reason, message)


def stop(p: Planning) -> None:
    """Delete every Job of the cycle that has not ended, with its pods, which save: also one not written down yet."""
    for job in p.observed.jobs.values():
        if owner_uid(job) == p.cycle.uid and not (condition(job, "Complete") or condition(job, "Failed")):
            p.actions.append(DeleteJob(name(job), uid(job), is_train_job(job)))
