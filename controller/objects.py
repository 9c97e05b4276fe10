"""Reading what the API server says: plain dicts in, plain values out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

Json = dict[str, Any]

GROUP = "refrain.dev"
VERSION = "v1alpha1"
PLURAL = "retraincycles"
KIND = "RetrainCycle"
NAME = "app.kubernetes.io/name"
MANAGED_BY = "app.kubernetes.io/managed-by"
COMPONENT = "app.kubernetes.io/component"
MANAGER = "refrain-controller"
PROMOTION_MANAGER = "refrain-promotion"
"""Field manager of the inference Deployment's annotations. It is ours alone: the chart never sets them."""
ARCHIVE = f"{GROUP}/archive"
CYCLE = f"{GROUP}/cycle"
STAGE = f"{GROUP}/stage"
ATTEMPT = f"{GROUP}/attempt"
RUN = f"{GROUP}/run"
SPEC_HASH = f"{GROUP}/spec-hash"
RETRY = f"{GROUP}/retry"
TRAINER_GROUP = "trainer.kubeflow.org"
TRAIN_JOBS = "trainjobs"
"""Of Kubeflow Trainer, in the version v1alpha1."""
TRAIN_JOB = "TrainJob"
ADAPTER = f"{GROUP}/adapter"
PROMOTION = f"{GROUP}/promotion"
JOB_INDEX = "batch.kubernetes.io/job-completion-index"


def uid(thing: Mapping[str, Any]) -> str:
    """Its uid."""
    return str(thing["metadata"].get("uid", ""))


def name(thing: Mapping[str, Any]) -> str:
    """Its name."""
    return str(thing["metadata"]["name"])


def labels(thing: Mapping[str, Any]) -> Mapping[str, str]:
    """Its labels."""
    return thing["metadata"].get("labels") or {}


def annotations_of(thing: Mapping[str, Any]) -> Mapping[str, str]:
    """Its annotations."""
    return thing["metadata"].get("annotations") or {}


def label_value(text: str) -> str:
    """A name as a label has it: at most 63 characters; of a longer one the beginning, and a digest of it all."""
    return text if len(text) <= 63 else f"{text[:50].rstrip('-.')}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def owner_uid(thing: Mapping[str, Any]) -> str:
    """The uid of the object that controls it; empty where none does."""
    owners = thing["metadata"].get("ownerReferences") or []
    return next((str(one["uid"]) for one in owners if one.get("controller")), "")


def condition(thing: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    """A condition that is True; None where it is not."""
    found: Iterable[Mapping[str, Any]] = (thing.get("status") or {}).get("conditions") or []
    return next((one for one in found if one["type"] == kind and one["status"] == "True"), None)


def is_false(thing: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    """A condition that is False; None where it is not there or holds."""
    found: Iterable[Mapping[str, Any]] = (thing.get("status") or {}).get("conditions") or []
    return next((one for one in found if one["type"] == kind and one["status"] == "False"), None)


def is_deleting(thing: Mapping[str, Any]) -> bool:
    """Whether it is on its way out."""
    return bool(thing["metadata"].get("deletionTimestamp"))


def is_train_job(thing: Mapping[str, Any]) -> bool:
    """Whether it is a TrainJob, and no Job."""
    return thing.get("kind") == TRAIN_JOB


def is_live(pod: Mapping[str, Any]) -> bool:
    """Whether a pod may still run, or whether pods of a TrainJob may, which are not seen themselves."""
    if is_train_job(pod):
        return is_deleting(pod) or not (condition(pod, "Complete") or condition(pod, "Failed"))
    return (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether a pod takes requests."""
    return condition(pod, "Ready") is not None and not is_deleting(pod)


def may_serve(pod: Mapping[str, Any]) -> bool:
    """Whether a pod takes requests, or may take them again without having begun anew: one of its containers runs."""
    containers = (pod.get("status") or {}).get("containerStatuses") or []
    return is_ready(pod) or (not is_deleting(pod) and any("running" in (one.get("state") or {}) for one in containers))


def written(moment: datetime) -> str:
    """A moment as Kubernetes writes it: UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: str) -> datetime:
    """What `written` wrote."""
    return datetime.fromisoformat(text)


def after(text: str, seconds: float) -> datetime:
    """The moment so many seconds later."""
    return moment(text) + timedelta(seconds=seconds)
