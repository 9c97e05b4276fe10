"""The pod of a stage: its container, volumes, environment and where it may run. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from controller.cycles import Cycle
from controller.objects import GROUP, Json
from controller.settings import PROGRESS_PORT, Settings
from jobs.contracts import stages
from jobs.contracts.cycle import CycleSpec
from jobs.contracts.cycle.pods import Resources, StageOverride
from jobs.contracts.cycle.status import CycleStatus

DOCUMENT = f"{GROUP}/cycle-document"
"""Annotation of a pod: the cycle as its stage reads it."""
_FOLDER = "/etc/refrain"
FILE = f"{_FOLDER}/cycle.json"
"""Where the stage reads it."""
TERMINATION_LOG = "/dev/termination-log"
_CACHE = "/cache"
MODEL_CACHE = f"{_CACHE}/huggingface"
"""Where models from the hub are kept, unless the settings say it."""
_TMP = "/tmp"  # noqa: S108 - a volume of the pod's own
_CA = "/etc/refrain-ca"
_USER = 65532
_LEAST_STORAGE = "1Gi"


class Wanted(Protocol):
    """What a Job is made from: a plan in the making has it."""

    cycle: Cycle
    status: CycleStatus
    settings: Settings

    @property
    def spec(self) -> CycleSpec:
        """The cycle's spec."""


def pod_spec(wanted: Wanted, row: stages.Stage, arguments: list[str]) -> Json:
    """The spec of a pod that runs `refrain` with those arguments."""
    settings, override = wanted.settings, override_of(wanted, row.name)
    volumes, mounts = _volumes(wanted, row)
    container = {
        "name": "stage",
        "image": settings.images.heavy if row.image == "heavy" else settings.images.light,
        "imagePullPolicy": settings.images.pull_policy,
        "command": ["refrain"],
        "args": arguments,
        "env": _environment(wanted),
        "envFrom": _secrets(wanted, row),
        "ports": [{"name": "progress", "containerPort": PROGRESS_PORT}] if row.name == "train" else [],
        "resources": _resources(wanted, row, override),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePath": TERMINATION_LOG,
        "terminationMessagePolicy": "File",
        "volumeMounts": mounts,
    }
    pod: Json = {
        "restartPolicy": "Never",
        "serviceAccountName": settings.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": settings.grace_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
    }
    if settings.images.pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in settings.images.pull_secrets]
    return pod | _placement(override)


def _volumes(wanted: Wanted, row: stages.Stage) -> tuple[list[Json], list[Json]]:
    """The pod's volumes, and where its container has them."""
    settings = wanted.settings
    places: list[tuple[str, Json, Json]] = [
        ("cycle", {"downwardAPI": {"items": [_document_item()]}}, {"mountPath": _FOLDER, "readOnly": True}),
        ("tmp", _scratch(wanted), {"mountPath": _TMP}),
    ]
    if row.image == "heavy" or row.name == "split":  # split counts tokens by the base model's tokenizer
        claim = settings.model_cache_claim
        cache = {"persistentVolumeClaim": {"claimName": claim}} if claim else _scratch(wanted)
        places.append(("cache", cache, {"mountPath": _CACHE}))
    if row.image == "heavy":
        memory = {"emptyDir": {"medium": "Memory", "sizeLimit": settings.shared_memory_size}}
        places.append(("shared-memory", memory, {"mountPath": "/dev/shm"}))  # noqa: S108 - a volume of the pod's own
    if settings.store.ca_config_map:
        volume = {"configMap": {"name": settings.store.ca_config_map}}
        places.append(("ca", volume, {"mountPath": _CA, "readOnly": True}))
    return [{"name": name, **volume} for name, volume, _ in places], [{"name": name, **at} for name, _, at in places]


def _scratch(wanted: Wanted) -> Json:
    return {"emptyDir": {"sizeLimit": wanted.settings.scratch_size}}


def _document_item() -> Json:
    return {"path": "cycle.json", "fieldRef": {"fieldPath": f"metadata.annotations['{DOCUMENT}']"}}


def _environment(wanted: Wanted) -> list[Json]:
    said = {
        "TMPDIR": _TMP,
        "HOME": _TMP,
        "HF_HOME": MODEL_CACHE,
        "PYTHONUNBUFFERED": "1",
        "REFRAIN_OWNER": f"cluster:{wanted.settings.owner or wanted.cycle.namespace}",
    }
    if wanted.settings.store.ca_config_map:
        said["AWS_CA_BUNDLE"] = f"{_CA}/ca.crt"
    return [{"name": name, "value": value} for name, value in (said | wanted.settings.env).items()]


def _secrets(wanted: Wanted, row: stages.Stage) -> list[Json]:
    """The store's credentials, by reference alone, and what every stage gets; the mailbox's for who fetches mail."""
    named = wanted.spec.store.secret_ref
    allowed = wanted.settings.store.secrets
    store = [named.name] if named else allowed[:1]
    mail = wanted.settings.mail.secrets if row.name == "parse" else []
    return [{"secretRef": {"name": name}} for name in (*store, *mail, *wanted.settings.env_from_secrets)]


def override_of(wanted: Wanted, stage: str) -> StageOverride:
    """The settings' overrides of a stage, and the cycle's own over them, field by field."""
    ours, theirs = wanted.settings.stages.get(stage), wanted.spec.stages.get(stage)  # type: ignore[call-overload]
    said = theirs.model_dump(exclude_unset=True) if theirs else {}
    if ours is None:
        return theirs or StageOverride()
    return StageOverride.model_validate(ours.model_dump(exclude_unset=True) | said)


def _resources(wanted: Wanted, row: stages.Stage, override: StageOverride) -> Json:
    settings = wanted.settings
    base = settings.heavy_resources if row.image == "heavy" else settings.light_resources
    said = override.resources or Resources()
    limits, requests = dict(base.limits) | dict(said.limits), dict(base.requests) | dict(said.requests)
    resource = settings.gpu_resource
    if row.device == "gpu" and resource and resource not in said.limits:
        limits[resource] = wanted.spec.training.processes_per_node if row.name == "train" else 1
    limits.setdefault("ephemeral-storage", settings.scratch_size)
    requests.setdefault("ephemeral-storage", _LEAST_STORAGE)
    limits = {name: amount for name, amount in limits.items() if name != resource or str(amount) != "0"}
    return {"limits": _texts(limits), "requests": _texts(requests)}


def _texts(amounts: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(amount) for name, amount in amounts.items()}


def _placement(override: StageOverride) -> Json:
    said: Json = {}
    if override.node_selector:
        said["nodeSelector"] = dict(override.node_selector)
    if override.tolerations:
        said["tolerations"] = [one.model_dump(by_alias=True, exclude_none=True) for one in override.tolerations]
    if override.affinity:
        said["affinity"] = override.affinity.model_dump(by_alias=True, exclude_none=True)
    if override.priority_class_name:
        said["priorityClassName"] = override.priority_class_name
    if override.runtime_class_name:
        said["runtimeClassName"] = override.runtime_class_name
    return said
