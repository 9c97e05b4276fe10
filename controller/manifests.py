"""From a stage of a cycle to its Job: pure functions of the cycle, the stage's entry and the settings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import orjson

from controller.cycles import Cycle
from controller.objects import (
    ARCHIVE,
    ATTEMPT,
    COMPONENT,
    CYCLE,
    GROUP,
    KIND,
    MANAGED_BY,
    MANAGER,
    NAME,
    RUN,
    SPEC_HASH,
    STAGE,
    VERSION,
    Json,
    label_value,
)
from controller.pods import DOCUMENT, FILE, TERMINATION_LOG, Wanted, override_of, pod_spec
from controller.settings import PROGRESS_PORT
from jobs.contracts import stages
from jobs.contracts.cycle.pods import StageOverride
from jobs.contracts.cycle.status import StageStatus
from jobs.contracts.errors import permanent_exit_codes
from jobs.contracts.progression import Step

_RENDEZVOUS_PORT = 29500
_MARGIN = 5
"""Seconds before a pod's end in which nothing but torchrun itself has to stop."""
_QUEUE = "kueue.x-k8s.io/queue-name"


def job_name(uid: str, cycle: str, step: Step, run: int, *, is_handed_over: bool = False) -> str:
    """Name of a Job: the same for the same cycle, stage, attempt and run, at most 52 characters.

    A pod's name is the Job's with a suffix of up to 11 characters, and must fit into a host name's 63. For a TrainJob
    JobSet adds up to 18 (`-node-0-1023-abcde`), and wants a letter to begin with.
    """
    most = 45 if is_handed_over else 52
    begin = f"t-{cycle}" if is_handed_over and cycle[0].isdigit() else cycle
    digest = hashlib.sha256(f"{uid}/{step.stage}/{step.attempt}/{run}".encode()).hexdigest()[:8]
    tail = f"{step.stage}-{step.attempt}-{run}-{digest}"
    return f"{begin[: most - len(tail) - 1].rstrip('-.').replace('.', '-')}-{tail}"


def stage_job(wanted: Wanted, entry: StageStatus) -> Json:
    """The Job of a stage's run."""
    row = stages.stage(entry.name)
    num_nodes = wanted.spec.training.nodes if entry.name == "train" else 1
    arguments = ["run", FILE, "--only", entry.name, "--attempt", str(entry.attempt)]
    arguments += ["--termination-log", TERMINATION_LOG]
    if entry.name == "train":
        arguments += ["--progress-port", str(PROGRESS_PORT)]
    promotion = wanted.status.promotion
    if entry.name == "promote" and promotion is not None and promotion.phase == "Withheld":
        arguments += ["--withhold", f"{promotion.reason}: {promotion.message}"]
    pod = pod_spec(wanted, row, arguments)
    job = _job(wanted, entry, entry.job, row.name, pod)
    if num_nodes > 1:
        _make_many(job, wanted, entry, num_nodes)
    elif is_shared(wanted, entry):
        _make_shares(job, wanted.spec.evaluation.pods)
    else:
        job["spec"] |= {"backoffLimit": row.retries, "podFailurePolicy": _failure_policy()}
    return hashed(job)


def asking_job(wanted: Wanted, entry: StageStatus) -> Json:
    """The Job that says a stage's result again, from its marker, on the light image."""
    arguments = ["result", entry.name, FILE, "--attempt", str(entry.attempt), "--termination-log", TERMINATION_LOG]
    light = stages.stage("select")
    pod = pod_spec(wanted, light, arguments)
    job = _job(wanted, entry, f"{entry.job}-asks", "result", pod)
    job["spec"] |= {"backoffLimit": light.retries, "podFailurePolicy": _failure_policy()}
    return hashed(job)


def gathering_job(wanted: Wanted, entry: StageStatus, lost: str) -> Json:
    """The Job that puts the shares of a stage together, on the light image. `lost` are those that failed for good."""
    pods = str(wanted.spec.evaluation.pods)
    arguments = ["run", FILE, "--only", entry.name, "--attempt", str(entry.attempt), "--gather", pods]
    arguments += ["--without", lost] if lost else []
    light = stages.stage("select")
    pod = pod_spec(wanted, light, [*arguments, "--termination-log", TERMINATION_LOG])
    job = _job(wanted, entry, f"{entry.job}-gathers", "gather", pod)
    job["spec"] |= {"backoffLimit": light.retries, "podFailurePolicy": _failure_policy()}
    return hashed(job)


def is_shared(wanted: Wanted, entry: StageStatus) -> bool:
    """Whether several pods do the stage, each its share; the shares are put together when they are done."""
    return entry.name == "evaluate" and wanted.spec.evaluation.pods > 1


def ranks_service(wanted: Wanted, entry: StageStatus) -> Json | None:
    """The headless Service by which the ranks of a training on several nodes find each other; None for one node."""
    if entry.name != "train" or wanted.spec.training.nodes == 1 or wanted.settings.train_job is not None:
        return None
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(wanted, _ranks_name(wanted), _labels_of_cycle(wanted)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {CYCLE: label_value(wanted.cycle.name), STAGE: "train"},
            "ports": [{"name": "rendezvous", "port": _RENDEZVOUS_PORT}],
        },
    }
    return hashed(service)


def document(cycle: Cycle) -> Json:
    """The cycle as its stages read it: with the sources that it has taken over, without what is about pods."""
    assert cycle.spec is not None
    spec = cycle.spec.model_copy(update={"sources": cycle.sources, "stages": {}, "suspend": False})
    said = spec.model_dump(by_alias=True, mode="json", exclude_unset=True)
    said["sources"] = [one.model_dump(by_alias=True, mode="json", exclude_none=True) for one in cycle.sources]
    for name in ("stages", "suspend", "ttlSecondsAfterFinished"):
        said.pop(name, None)
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": KIND, "metadata": {"name": cycle.name}, "spec": said}


def _job(wanted: Wanted, entry: StageStatus, name: str, component: str, pod: Json) -> Json:
    labels = _labels(wanted, entry, component)
    override = override_of(wanted, entry.name)
    queue = {_QUEUE: wanted.settings.queue_name} if wanted.settings.queue_name else {}
    template = {
        "metadata": {
            "labels": _of_people(override.labels) | labels,
            "annotations": dict(override.annotations) | {DOCUMENT: orjson.dumps(document(wanted.cycle)).decode()},
        },
        "spec": pod,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(wanted, name, {**queue, **_queue_of(override), **labels}),
        "spec": {"completions": 1, "parallelism": 1, "podReplacementPolicy": "Failed", "template": template},
    }


def _of_people(labels: Mapping[str, str]) -> dict[str, str]:
    """Labels that a cycle gives its pods, but those that Kubernetes and this controller go by."""
    ours = (f"{GROUP}/", "batch.kubernetes.io/", "app.kubernetes.io/")
    return {key: value for key, value in labels.items() if not key.startswith(ours)}


def _queue_of(override: StageOverride) -> Mapping[str, str]:
    """Kueue reads its label from the Job; a cycle gives it among its pods' labels."""
    return {_QUEUE: override.labels[_QUEUE]} if _QUEUE in override.labels else {}


def _metadata(wanted: Wanted, name: str, labels: Mapping[str, str]) -> Json:
    owner = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "name": wanted.cycle.name,
        "uid": wanted.cycle.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
    return {
        "name": name,
        "namespace": wanted.cycle.namespace,
        "labels": dict(labels),
        "annotations": {},
        "ownerReferences": [owner],
    }


def _labels(wanted: Wanted, entry: StageStatus, component: str) -> dict[str, str]:
    own = {COMPONENT: component, STAGE: component, ATTEMPT: str(entry.attempt), RUN: str(entry.run)}
    return _labels_of_cycle(wanted) | own


def _labels_of_cycle(wanted: Wanted) -> dict[str, str]:
    return {
        NAME: "refrain",
        MANAGED_BY: MANAGER,
        ARCHIVE: wanted.cycle.archive,
        CYCLE: label_value(wanted.cycle.name),
    }


def _failure_policy(fails: str = "FailJob") -> Json:
    """A pod that a node or a person took away is replaced and counts for nothing; some errors would come again."""
    return {
        "rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": fails, "onExitCodes": {"operator": "In", "values": permanent_exit_codes()}},
        ]
    }


def _make_shares(job: Json, num: int) -> None:
    """Shares, each tried on its own: one that fails for good costs its checkpoints, more than half fail the stage."""
    job["spec"] |= {
        "completionMode": "Indexed",
        "completions": num,
        "parallelism": num,
        "backoffLimitPerIndex": stages.stage("evaluate").retries,
        "maxFailedIndexes": num // 2,
        "podFailurePolicy": _failure_policy("FailIndex"),
    }
    container = job["spec"]["template"]["spec"]["containers"][0]
    container["args"] += ["--share", f"$(JOB_COMPLETION_INDEX)/{num}"]


def _ranks_name(wanted: Wanted) -> str:
    return f"train-{hashlib.sha256(wanted.cycle.uid.encode()).hexdigest()[:16]}"


def _make_many(job: Json, wanted: Wanted, entry: StageStatus, num_nodes: int) -> None:
    """Ranks on several nodes: any one's failure fails the Job, and the controller begins all of them again."""
    job["spec"] |= {
        "completionMode": "Indexed",
        "completions": num_nodes,
        "parallelism": num_nodes,
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": _failure_policy()["rules"][1:]},
    }
    pod = job["spec"]["template"]["spec"]
    pod["subdomain"] = _ranks_name(wanted)
    container = pod["containers"][0]
    training = wanted.spec.training
    container["command"] = ["torchrun"]
    container["args"] = [
        f"--nnodes={num_nodes}",
        f"--nproc-per-node={training.processes_per_node}",
        "--node-rank=$(JOB_COMPLETION_INDEX)",
        f"--master-addr={entry.job}-0.{_ranks_name(wanted)}",
        f"--master-port={_RENDEZVOUS_PORT}",
        "--max-restarts=0",
        "--module",
        "jobs.cli",
        *container["args"],
    ]
    # torchrun kills its ranks so long after it was told to stop; its own 30 s would cut a save short.
    stop = {"name": "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "value": str(max(1, wanted.settings.grace_seconds - _MARGIN))}
    container["env"].append(stop)
    container["ports"].append({"name": "rendezvous", "containerPort": _RENDEZVOUS_PORT})


def hashed(manifest: Json) -> Json:
    """The object with a digest of what it is to be: one that is there already must have the same."""
    digest = hashlib.sha256(orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS)).hexdigest()
    manifest["metadata"]["annotations"][SPEC_HASH] = digest[:32]
    return manifest
