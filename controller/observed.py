"""What a plan looks at: one archive of one namespace, as it was at one moment."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from controller.cycles import Cycle
from controller.objects import (
    ADAPTER,
    JOB_INDEX,
    PROMOTION,
    PROMOTION_MANAGER,
    Json,
    annotations_of,
    condition,
    is_deleting,
    is_live,
    is_train_job,
    labels,
    name,
    owner_uid,
    uid,
)
from jobs.contracts.cycle.status import Progress


@dataclass(frozen=True, slots=True)
class Answer:
    """What a pod of the inference Deployment said to a question."""

    adapter: str
    """Digest of the adapter that it answered with; empty for the bare base model."""
    text: str
    problem: str = ""
    """Why it gave no answer."""


@dataclass(frozen=True, slots=True)
class Swapped:
    """What came of telling a pod to load an adapter."""

    problem: str = ""
    """Why it has not; empty where it has."""
    is_final: bool = False
    """Whether it would refuse again: it does not know the adapter, or cannot use it."""


@dataclass(frozen=True, slots=True)
class Inference:
    """The inference Deployment and its pods."""

    deployment: Json
    pods: tuple[Json, ...]
    is_swapped: bool = False
    """Whether pods are told to load another adapter, instead of being replaced."""
    answers: Mapping[tuple[str, str], Answer] = field(default_factory=dict)
    """By pod uid and the adapter that was expected."""
    swaps: Mapping[tuple[str, str], Swapped] = field(default_factory=dict)
    """By pod uid and adapter."""

    @property
    def adapter(self) -> str:
        """The value of the pod template's annotation; empty where it is not set."""
        template = self.deployment["spec"]["template"].get("metadata") or {}
        return str((template.get("annotations") or {}).get(ADAPTER, ""))

    @property
    def is_set_by_us(self) -> bool:
        """Whether this controller has set that annotation, and nobody since: `kubectl rollout undo` takes it over."""
        return self._setters("spec", "template", "metadata", "annotations", ADAPTER) == {PROMOTION_MANAGER}

    @property
    def marker(self) -> Json:
        """Whose promotion is under way, and what stood there before; empty where none is.

        One that somebody else has set is none: `kubectl rollout undo` brings back what stood there at that revision.
        """
        if PROMOTION_MANAGER not in self._setters("metadata", "annotations", PROMOTION):
            return {}
        text = annotations_of(self.deployment).get(PROMOTION)
        try:
            value = json.loads(text) if text else {}
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    def _setters(self, *path: str) -> set[str]:
        """The field managers that have set a field to its present value."""
        entries = self.deployment["metadata"].get("managedFields") or []
        return {str(one.get("manager")) for one in entries if _has_field(one.get("fieldsV1") or {}, *path)}

    @property
    def version(self) -> str:
        """The Deployment's resource version."""
        return str(self.deployment["metadata"].get("resourceVersion", ""))

    @property
    def num_replicas(self) -> int:
        """How many pods there are to be."""
        return int(self.deployment["spec"].get("replicas", 1))

    @property
    def is_rolled_out(self) -> bool:
        """Whether all pods are of the newest template, and available."""
        status = self.deployment.get("status") or {}
        wanted = self.num_replicas
        is_seen = status.get("observedGeneration", 0) >= self.deployment["metadata"].get("generation", 0)
        counts = [status.get(kind, 0) for kind in ("replicas", "updatedReplicas", "availableReplicas")]
        return bool(is_seen and counts == [wanted] * 3)

    def pods_with(self, adapter: str) -> list[Json]:
        """Pods of a template with that adapter."""
        return [pod for pod in self.pods if annotations_of(pod).get(ADAPTER, "") == adapter]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the API server did not take a Job, or a change of the inference Deployment."""

    message: str
    is_permanent: bool
    """Whether the same would be refused again."""


def refusal_key(deployment: str) -> str:
    """Under which the refusal of a change of that Deployment is remembered: no Job has such a name."""
    return f"deployments/{deployment}"


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything about one archive."""

    cycles: tuple[Cycle, ...]
    """Oldest first."""
    jobs: Mapping[str, Json] = field(default_factory=dict)
    """By name; TrainJobs are among them."""
    pods: tuple[Json, ...] = ()
    """Of those Jobs."""
    warnings: Mapping[str, str] = field(default_factory=dict)
    """By name of a Job that has no pod: what was said of that last."""
    progress: Mapping[str, Progress] = field(default_factory=dict)
    """By name of a Job, as its pod tells."""
    refusals: Mapping[str, Refusal] = field(default_factory=dict)
    """By name of a Job or Service that could not be created, or by `refusal_key`."""
    inference: Inference | None = None
    """None where this archive's adapters are served by nobody here."""

    def pods_of(self, job: Json) -> list[Json]:
        """The pods of a Job, rank 0 first, the newest first of each."""
        own = [pod for pod in self.pods if owner_uid(pod) == uid(job)]
        own.sort(key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), reverse=True)
        return sorted(own, key=_rank)

    def live_pods(self, but: str = "") -> Iterator[Json]:
        """Pods that may still run, but those of a Job of that name; TrainJobs stand for theirs.

        So does a Job whose cycle is gone: between two tries it has no pod, and makes the next until it is collected.
        """
        spared = uid(self.jobs[but]) if but in self.jobs else None
        yield from (pod for pod in self.pods if is_live(pod) and owner_uid(pod) != spared)
        for key, job in self.jobs.items():
            if key != but and (is_live(job) if is_train_job(job) else self._is_left_behind(job)):
                yield job

    def _is_left_behind(self, job: Json) -> bool:
        has_ended = condition(job, "Complete") or condition(job, "Failed")
        makes_pods = not (has_ended or is_deleting(job) or job["spec"].get("suspend"))
        return makes_pods and owner_uid(job) not in {one.uid for one in self.cycles if not one.is_deleting}

    def called(self, left: Json) -> str:
        """What `live_pods` has found, in words."""
        is_job = name(left) in self.jobs and not is_train_job(left)
        return f"Job {name(left)}, whose cycle is gone," if is_job else f"pod {name(left)}"


def _has_field(fields: Json, *path: str) -> bool:
    """Whether a field is among those of an entry of `managedFields`."""
    for step in path:
        if f"f:{step}" not in fields:
            return False
        fields = fields[f"f:{step}"]
    return True


def _rank(pod: Json) -> int:
    text = labels(pod).get(JOB_INDEX, "")
    return int(text) if text.isdecimal() else 0
