"""A stage's Job: begun, watched, and what follows it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from controller.actions import CreateJob, CreateService, DeleteJob
from controller.manifests import asking_job, gathering_job, is_shared, job_name, ranks_service, stage_job
from controller.noting import note_result
from controller.objects import Json, after, condition, is_false, is_live, name, owner_uid, uid
from controller.planning import Planning
from controller.pods import override_of
from controller.promoting import is_cleared
from controller.status import shortened
from jobs.contracts import stages
from jobs.contracts.cycle.status import StageStatus
from jobs.contracts.errors import MissingInputError, permanent_exit_codes
from jobs.contracts.progression import FIRST_STEP, Step, ended_as, next_step, why_skipped
from jobs.contracts.termination import Termination, decode

_REFUSED_SECONDS = 30
_STEADY_SECONDS = 600
"""A run that has lasted so long has not been lost over and over: losses are counted from there anew."""
_BAD_IMAGE = ("ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
_BAD_SETUP = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")


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
    before = next(
        (one for one in reversed(p.status.stages) if (one.name, one.attempt) == (step.stage, step.attempt)), None
    )
    run = before.run + 1 if before else 0
    job = job_name(p.cycle.uid, p.cycle.name, step, run)
    if left := next(p.observed.live_pods(but=job), None):
        p.set(state="Running")
        p.progressing("True", "PodsLeft", f"waits for pod {name(left)} to end")
        return
    entry = StageStatus(
        name=step.stage,  # type: ignore[arg-type]
        attempt=step.attempt,
        run=run,
        state="Running",
        job=job,
        started_at=p.now_written,
        losses=before.losses if before else 0,
    )
    p.set(
        state="Running",
        stage=step.stage,
        attempt=step.attempt,
        progress=None,
        stages=[*(one for one in p.status.stages if one is not before), entry],
    )
    _create(p, entry)


def _create(p: Planning, entry: StageStatus) -> None:
    """Create the Job of the stage that is to run; a refusal of it is said."""
    service = ranks_service(p, entry)
    if not _is_refused(p, *(name(one) for one in (service,) if one), entry.job):
        p.progressing("True", "StageRunning", f"{entry.name} runs as {entry.job}")
        p.wake(after(entry.started_at, _deadline_seconds(p, entry)))
    if p.status.state == "Failed":
        return
    if service is not None:
        p.actions.append(CreateService(service))
    p.actions.append(CreateJob(stage_job(p, entry)))


def _is_refused(p: Planning, *names: str) -> bool:
    """Whether the API server has refused one of these objects: then it is said, and for good the cycle fails."""
    refusal = next((p.observed.refusals[one] for one in names if one in p.observed.refusals), None)
    if refusal is None:
        return False
    if refusal.is_permanent:
        fail(p, "JobRefused", refusal.message)
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
        told = _told(p, job, entry)
        if told is None or told.result is None:
            _ask(p, entry, "its pod said nothing of its result; the store is asked whether it had finished")
        else:
            succeed(p, told.result)
    elif failed := condition(job, "Failed"):
        _failed(p, entry, job, failed)
    elif _is_over_time(p, entry, job):
        fail(p, "DeadlineExceeded", f"{entry.name} took longer than {_deadline_seconds(p, entry)} s")
    else:
        if entry.job_uid != uid(job):
            p.set_entry(job_uid=uid(job))
        _describe(p, entry, job)


def _is_over_time(p: Planning, entry: StageStatus, job: Json) -> bool:
    """Whether a stage has had its time: it begins when its Job may start, which Kueue may hold."""
    if job["spec"].get("suspend"):
        return False
    began = str((job.get("status") or {}).get("startTime") or entry.started_at)
    at = after(began, _deadline_seconds(p, entry))
    p.wake(at)
    return p.now >= at


def _describe(p: Planning, entry: StageStatus, job: Json) -> None:
    """Say how a running stage does: what it waits for, or how far it is."""
    reason, message = _trouble(p, entry, job)
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


def _trouble(p: Planning, entry: StageStatus, job: Json) -> tuple[str, str]:
    """Why a stage's pods do not run, in one word and in the words of who knows; empty where they do."""
    if job["spec"].get("suspend"):
        return "Admission", f"{entry.job} is suspended: it waits to be admitted (by Kueue, or by who suspended it)"
    pods = [pod for pod in p.observed.pods_of(job) if is_live(pod)]
    if not pods and (warning := p.observed.warnings.get(name(job))):
        return ("QuotaExceeded" if "exceeded quota" in warning else "PodRefused"), warning
    for pod in pods:
        if scheduled := is_false(pod, "PodScheduled"):
            return str(scheduled.get("reason", "Unschedulable")), str(scheduled.get("message", "no node takes it"))
        for container in (pod.get("status") or {}).get("containerStatuses") or []:
            waiting = (container.get("state") or {}).get("waiting") or {}
            said = f"{waiting.get('reason')}: {waiting.get('message', '')} (image {container.get('image', '')})"
            if waiting.get("reason") in _BAD_IMAGE:
                return "ImagePullFailed", said
            if waiting.get("reason") in _BAD_SETUP:
                return "PodNotStarted", said
    return "", ""


def _failed(p: Planning, entry: StageStatus, job: Json, failed: Mapping[str, Any]) -> None:
    """A Job has failed: for good, or, where it is all ranks' or a node's doing, to be begun again."""
    told = _told(p, job, entry, is_failure=True)
    words = _words(told) or _seen(p, job) or str(failed.get("message", "its Job failed"))
    if is_shared(p, entry) and failed.get("reason") == "FailedIndexes":
        p.emit("SharesLost", f"{entry.name}: shares {_lost(p, entry)} of it failed: {words}", is_warning=True)
        _ask(p, entry, f"its shares are put together without {_lost(p, entry)}, which failed: {words}")
        return
    # torchrun ends with a code of its own: what rank 0 has told counts too.
    told_code = told.failure.exit_code if told and told.failure else 0
    is_permanent = failed.get("reason") == "PodFailurePolicy" or told_code in permanent_exit_codes()
    if not is_permanent and _is_many(p, entry) and _may_be_lost(p, entry):
        p.emit("RanksLost", f"{entry.name} is begun again on all nodes: {words}", is_warning=True)
        _begin_again(p, entry)
        return
    fail(p, "StageFailed", f"{entry.name}: {words}")


def _is_many(p: Planning, entry: StageStatus) -> bool:
    return entry.name == "train" and p.spec.training.nodes > 1


def _may_be_lost(p: Planning, entry: StageStatus) -> bool:
    return _losses(p, entry) < stages.stage(entry.name).retries


def _losses(p: Planning, entry: StageStatus) -> int:
    """How often it was lost in a row."""
    is_steady = p.now >= after(entry.started_at, _STEADY_SECONDS)
    return 0 if is_steady else entry.losses


def _begin_again(p: Planning, entry: StageStatus) -> None:
    p.set_entry(state="Suspended", losses=_losses(p, entry) + 1, asks="")
    begin(p, Step(entry.name, entry.attempt))


def _ask(p: Planning, entry: StageStatus, why: str) -> None:
    """Let a light pod say the stage's result, from the store."""
    manifest = _question(p, entry)
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
        _is_refused(p, entry.asks)
        if p.status.state != "Failed":
            p.actions.append(CreateJob(_question(p, entry)))
        return
    told = _told(p, job, entry)
    if condition(job, "Complete") and told is not None and told.result is not None:
        succeed(p, told.result)
    elif condition(job, "Complete") or condition(job, "Failed"):
        _unanswered(p, entry, told)
    elif _is_over_time(p, entry, job):
        fail(p, "ResultUnknown", f"{entry.name}: {entry.asks} did not end; see what it waits for, then retry")
    else:
        reason, message = _trouble(p, entry, job)
        if reason:
            p.progressing("False", reason, message)


def _unanswered(p: Planning, entry: StageStatus, told: Termination | None) -> None:
    """The store was asked, and gave no result."""
    failure = told.failure if told else None
    has_not_finished = failure is not None and failure.exit_code == MissingInputError.exit_code
    if has_not_finished and _may_be_lost(p, entry):
        message = f"{entry.name} had not finished when its Job was lost; it is begun again"
        p.emit("JobLost", message, is_warning=True)
        _begin_again(p, entry)
    else:
        words = _words(told) or "its Job is gone, and the store was not readable"
        reason = "StageFailed" if failure is not None and is_shared(p, entry) else "ResultUnknown"
        fail(p, reason, f"{entry.name}: {words}")


def _told(p: Planning, job: Json, entry: StageStatus, *, is_failure: bool = False) -> Termination | None:
    """What a pod of a Job said at its end, or why it failed, rank 0's first; None where nothing can be read."""
    for pod in p.observed.pods_of(job):
        for container in (pod.get("status") or {}).get("containerStatuses") or []:
            message = ((container.get("state") or {}).get("terminated") or {}).get("message")
            told = decode(message, entry.name, entry.attempt) if message else None
            if told is not None and not (is_failure and told.failure is None):
                return told
    return None


def _seen(p: Planning, job: Json) -> str:
    """How the newest of a Job's pods ended, where it told nothing itself; empty where that is not known."""
    pods = sorted(p.observed.pods_of(job), key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))
    status = (pods[-1].get("status") or {}) if pods else {}
    if status.get("reason"):  # Evicted, and who knows what else a node says
        return f"{status['reason']}: {status.get('message', '')}"
    for container in status.get("containerStatuses") or []:
        ended = (container.get("state") or {}).get("terminated") or {}
        if ended.get("exitCode"):
            hint = f"; it needs more than {_limit(pods[-1])} of memory" if ended.get("reason") == "OOMKilled" else ""
            return f"its pod ended by {ended.get('reason', 'Error')} (exit code {ended['exitCode']}){hint}"
    return ""


def _limit(pod: Json) -> str:
    return str(pod["spec"]["containers"][0].get("resources", {}).get("limits", {}).get("memory", "the node has"))


def _words(told: Termination | None) -> str:
    if told is None or told.failure is None:
        return ""
    failure = told.failure
    where = f"{failure.where}: " if failure.where else ""
    hint = f"; {failure.hint}" if failure.hint else ""
    return f"{where}{failure.what}{hint} (exit code {failure.exit_code})"


def _deadline_seconds(p: Planning, entry: StageStatus) -> int:
    return override_of(p, entry.name).deadline_seconds or stages.stage(entry.name).deadline_seconds


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
    told = _told(p, job, entry)
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
            p.actions.append(DeleteJob(name(job), uid(job)))
