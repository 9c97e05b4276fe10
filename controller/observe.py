"""From live objects to what a plan looks at. Reads only."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson
import urllib3

from controller.api import Api
from controller.cycles import Cycle, read_cycle
from controller.objects import (
    ARCHIVE,
    MANAGED_BY,
    MANAGER,
    PLURAL,
    TRAIN_JOB,
    TRAIN_JOBS,
    Json,
    condition,
    is_live,
    labels,
    name,
    uid,
    written,
)
from controller.observed import Answer, Inference, Observed, Refusal, Swapped
from controller.settings import PROGRESS_PORT, Settings
from jobs.contracts.cycle.status import Progress

_PROGRESS_TIMEOUT = urllib3.Timeout(1)


@dataclass
class Memory:
    """What has been heard and cannot be read again from the API server. Losing it costs asking once more."""

    answers: dict[tuple[str, str], Answer] = field(default_factory=dict)
    swaps: dict[tuple[str, str], Swapped] = field(default_factory=dict)
    refusals: dict[str, Refusal] = field(default_factory=dict)
    progress_at: dict[str, float] = field(default_factory=dict)
    """When a Job's pod was asked for its progress last, by the monotonic clock."""


def observe(api: Api, archive: str, settings: Settings, memory: Memory, now: datetime) -> Observed:
    """Everything about one archive now. Raises ApiError and TransientError."""
    mine = f"{MANAGED_BY}={MANAGER},{ARCHIVE}={archive}"
    raw = api.list(PLURAL, fieldSelector=f"spec.archive={archive}")
    cycles = tuple(sorted(map(read_cycle, raw), key=lambda cycle: cycle.order))
    jobs = {name(job): job for job in api.list("jobs", labelSelector=mine)}
    if settings.train_job is not None:
        found = api.list(TRAIN_JOBS, labelSelector=mine)
        jobs |= {name(job): {**job, "kind": TRAIN_JOB} for job in found}  # a list does not say of what it is
    pods = tuple(api.list("pods", labelSelector=mine))
    observed = Observed(
        cycles,
        jobs,
        pods,
        refusals=memory.refusals,
        inference=_inference(api, archive, settings, memory),
    )
    return _told(api, observed, settings, memory, now)


def archives(api: Api) -> set[str]:
    """Every archive that a cycle of the namespace names."""
    return {str((raw.get("spec") or {}).get("archive", "")) for raw in api.list(PLURAL)} - {""}


def _inference(api: Api, archive: str, settings: Settings, memory: Memory) -> Inference | None:
    said = settings.inference
    if said is None or said.archive != archive:
        return None
    deployment = api.get("deployments", said.deployment)
    if deployment is None:
        return None
    selector = _selector(deployment["spec"]["selector"])
    listed = api.list("pods", labelSelector=selector) if selector else []
    pods = tuple(pod for pod in listed if _is_of(pod, deployment))
    return Inference(deployment, pods, said.mode == "Swap", answers=dict(memory.answers), swaps=dict(memory.swaps))


def _selector(selector: Json) -> str:
    """A Deployment's selector as a list request has it; empty where it would be all pods."""
    parts = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    for one in selector.get("matchExpressions") or []:
        key, values = one["key"], ",".join(one.get("values") or [])
        said = {"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "Exists": key}
        parts.append(said.get(one["operator"], f"!{key}"))
    return ",".join(parts)


def _is_of(pod: Json, deployment: Json) -> bool:
    """Whether a pod is of one of the Deployment's ReplicaSets: another with the same labels is told no token."""
    template = labels(pod).get("pod-template-hash", "")
    owners = [one for one in pod["metadata"].get("ownerReferences") or [] if one.get("controller")]
    return bool(template) and any(
        one["kind"] == "ReplicaSet" and one["name"] == f"{name(deployment)}-{template}" for one in owners
    )


def _told(api: Api, observed: Observed, settings: Settings, memory: Memory, now: datetime) -> Observed:
    """With what is asked for about the Jobs that run now: warnings, progress."""
    warnings: dict[str, str] = {}
    progress: dict[str, Progress] = {}
    for job in _running(observed.cycles, observed.jobs):
        pods = [pod for pod in observed.pods_of(job) if is_live(pod)]
        if not pods:
            warnings |= _warning(api, job, since=_newest(observed.pods_of(job)))
        elif _is_due(job, settings, memory) and (told := _progress(pods, now)):
            progress[name(job)] = told
    return Observed(
        observed.cycles, observed.jobs, observed.pods, warnings, progress, observed.refusals, observed.inference
    )


def _running(cycles: Iterable[Cycle], jobs: Mapping[str, Json]) -> Iterable[Json]:
    for cycle in cycles:
        entry = cycle.entry
        job = jobs.get(entry.asks or entry.job) if entry and entry.state == "Running" else None
        if job is not None and not (condition(job, "Complete") or condition(job, "Failed")):
            yield job


def _newest(pods: Iterable[Json]) -> str:
    """When the newest pod was created; empty where there is none."""
    return max((str(pod["metadata"].get("creationTimestamp", "")) for pod in pods), default="")


def _warning(api: Api, job: Json, since: str) -> dict[str, str]:
    """Why a Job that has no pod was refused its newest one: by a quota, by an admission webhook.

    Where it had a pod `since`, what was in its way has gone. How a Job has failed is a warning too, but none of these.
    """
    events = api.list("events", fieldSelector=f"involvedObject.uid={uid(job)},reason=FailedCreate")
    newest = max(events, key=_told_at, default=None)
    return {name(job): str(newest.get("message", ""))} if newest and _told_at(newest) >= since else {}


def _told_at(event: Json) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")


def _is_due(job: Json, settings: Settings, memory: Memory) -> bool:
    now = time.monotonic()
    if now - memory.progress_at.get(name(job), -settings.progress_seconds) < settings.progress_seconds:
        return False
    memory.progress_at[name(job)] = now
    return True


def _progress(pods: list[Json], now: datetime) -> Progress | None:
    """What a training pod says of itself; None where it says nothing."""
    for pod in pods:
        address = (pod.get("status") or {}).get("podIP")
        ports = [port for one in pod["spec"]["containers"] for port in one.get("ports") or []]
        if not address or not any(port.get("containerPort") == PROGRESS_PORT for port in ports):
            continue
        host = f"[{address}]" if ":" in address else address
        try:
            answer = _pool.request(
                "GET", f"http://{host}:{PROGRESS_PORT}/progress", timeout=_PROGRESS_TIMEOUT, retries=False
            )
            said: Any = orjson.loads(answer.data)
            return Progress.model_validate(
                {key: said.get(key) for key in ("percent", "etaSeconds", "loss")} | {"at": written(now)}
            )
        except (urllib3.exceptions.HTTPError, ValueError, AttributeError):
            continue
    return None


_pool = urllib3.PoolManager(num_pools=16)
