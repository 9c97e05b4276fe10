"""What a Job and its pods say of themselves: a result, why it failed, what it waits for. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from controller.objects import JOB_INDEX, Json, is_false, is_live, labels, name, uid
from controller.planning import Planning
from jobs.contracts.cycle.status import StageStatus
from jobs.contracts.errors import StoppedError, TransientError, permanent_exit_codes
from jobs.contracts.termination import Termination, decode

_IS_EFFECT = 2
_BAD_IMAGE = ("ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
_BAD_SETUP = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")


def told_by(p: Planning, job: Json, entry: StageStatus) -> Termination | None:
    """What a pod of a Job said at its end, rank 0's first; None where nothing can be read."""
    return next((told for _, told in _told(p, job, entry)), None)


def failure_of(p: Planning, job: Json, entry: StageStatus) -> Termination | None:
    """Why a Job has failed, as the pod said that knows best; None where none has told of a failure.

    Of each rank the newest counts. An error that would come again goes before all others; what a rank says that was
    told to stop, or lost another one, comes last: it is what the true failure has made of it. Else rank 0's is first.
    """
    newest: dict[str, Termination] = {}
    for pod, told in _told(p, job, entry):
        if told.failure is not None:
            newest.setdefault(labels(pod).get(JOB_INDEX, ""), told)
    return min(newest.values(), key=_distance, default=None)


def _distance(told: Termination) -> int:
    """How far a failure is from being the cause of the others."""
    assert told.failure is not None
    if told.failure.exit_code in permanent_exit_codes():
        return 0
    return _IS_EFFECT if told.failure.exit_code in (TransientError.exit_code, StoppedError.exit_code) else 1


def _told(p: Planning, job: Json, entry: StageStatus) -> Iterator[tuple[Json, Termination]]:
    """What the pods of a Job said at their ends, rank 0's first, the newest first of each."""
    for pod in p.observed.pods_of(job):
        for container in (pod.get("status") or {}).get("containerStatuses") or []:
            message = ((container.get("state") or {}).get("terminated") or {}).get("message")
            told = decode(message, entry.name, entry.attempt) if message else None
            if told is not None:
                yield pod, told


def why_failed(p: Planning, entry: StageStatus, job: Json, failed: Mapping[str, Any]) -> str:
    """Why a Job has failed, in the words of who knows best: a pod that said nothing may be why others were lost."""
    told = failure_of(p, job, entry)
    words, seen = words_of(told), _seen(p, job, entry)
    is_cause = told is not None and _distance(told) < _IS_EFFECT
    return (words if is_cause else seen) or words or str(failed.get("message", "its Job failed"))


def words_of(told: Termination | None) -> str:
    """Its failure in one line; empty where there is none."""
    if told is None or told.failure is None:
        return ""
    failure = told.failure
    where = f"{failure.where}: " if failure.where else ""
    hint = f"; {failure.hint}" if failure.hint else ""
    return f"{where}{failure.what}{hint} (exit code {failure.exit_code})"


def _seen(p: Planning, job: Json, entry: StageStatus) -> str:
    """How the newest pod of a rank ended, where it told nothing itself, rank 0's first; empty where none is known."""
    have_told = {uid(pod) for pod, _ in _told(p, job, entry)}
    newest: dict[str, Json] = {}
    for pod in p.observed.pods_of(job):
        newest.setdefault(labels(pod).get(JOB_INDEX, ""), pod)
    return next(filter(None, (_end_of(pod) for pod in newest.values() if uid(pod) not in have_told)), "")


def _end_of(pod: Json) -> str:
    """How a pod ended, by what its node says; empty where that is not known."""
    status = pod.get("status") or {}
    if status.get("reason"):  # Evicted, and who knows what else a node says
        return f"{status['reason']}: {status.get('message', '')}"
    for container in status.get("containerStatuses") or []:
        ended = (container.get("state") or {}).get("terminated") or {}
        if ended.get("exitCode"):
            hint = f"; it needs more than {_limit(pod)} of memory" if ended.get("reason") == "OOMKilled" else ""
            return f"its pod ended by {ended.get('reason', 'Error')} (exit code {ended['exitCode']}){hint}"
    return ""


def _limit(pod: Json) -> str:
    return str(pod["spec"]["containers"][0].get("resources", {}).get("limits", {}).get("memory", "the node has"))


def trouble(p: Planning, entry: StageStatus, job: Json) -> tuple[str, str]:
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
