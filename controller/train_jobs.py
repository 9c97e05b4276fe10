"""The hand-over of training to Kubeflow Trainer: from the stage's Job to a TrainJob. Pure.

Only what every version of trainer.kubeflow.org/v1alpha1 has is used: the trainer's image, command, variables, nodes
and resources. What else a pod needs (volumes, security, placement) is the runtime's, which the settings name.
"""

from __future__ import annotations

from typing import Any

from controller.manifests import hashed, stage_job
from controller.objects import SPEC_HASH, TRAIN_JOB, TRAINER_GROUP, Json
from controller.pods import DOCUMENT, FILE, MODEL_CACHE, Wanted
from jobs.contracts.cycle.status import StageStatus
from jobs.contracts.yaml_file import VARIABLE

_CYCLE = "REFRAIN_CYCLE"
_HOME = "/tmp"  # noqa: S108 - of a container
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION")
"""Of the store's Secret: a trainer has no `envFrom`."""


def is_handed_over(wanted: Wanted, stage: str) -> bool:
    """Whether a stage's runs are TrainJobs."""
    return stage == "train" and wanted.settings.train_job is not None


def train_job(wanted: Wanted, entry: StageStatus) -> Json:
    """The TrainJob of a training. Kubeflow's torch policy tells torchrun of ranks and ports by PET_ variables."""
    runtime = wanted.settings.train_job
    assert runtime is not None
    job = stage_job(wanted, entry)
    template = job["spec"]["template"]
    container = template["spec"]["containers"][0]
    training = wanted.spec.training
    metadata = job["metadata"]
    metadata["annotations"].pop(SPEC_HASH)
    manifest = {
        "apiVersion": f"{TRAINER_GROUP}/v1alpha1",
        "kind": TRAIN_JOB,
        "metadata": metadata,
        "spec": {
            "runtimeRef": {"apiGroup": TRAINER_GROUP, "kind": runtime.kind, "name": runtime.runtime},
            "trainer": {
                "image": container["image"],
                "command": ["torchrun"],
                "args": ["--max-restarts=0", "--module", "jobs.cli", *_arguments(container["args"])],
                "env": _environment(container, template["metadata"]["annotations"][DOCUMENT]),
                "numNodes": training.nodes,
                "numProcPerNode": training.processes_per_node,
                "resourcesPerNode": container["resources"],
            },
            "suspend": False,
        },
    }
    return hashed(manifest)


def left_to_the_runtime(pod: Json) -> list[str]:
    """What of a cycle's placement no TrainJob says: fields of the pod."""
    placement = ("nodeSelector", "tolerations", "affinity", "priorityClassName", "runtimeClassName")
    return [name for name in placement if name in pod]


def _arguments(arguments: list[str]) -> list[str]:
    """Those of `refrain`, with the cycle in a variable: pods of a TrainJob have no annotations of ours."""
    own = arguments[arguments.index("run") :]
    return [f"{VARIABLE}{_CYCLE}" if one == FILE else one for one in own]


def _environment(container: Json, document: str) -> list[Json]:
    """The container's variables; a model cache is the runtime's to mount, below /tmp."""
    env: list[Json] = [one for one in container["env"] if one["value"] != MODEL_CACHE]
    home = [{"name": "HF_HOME", "value": f"{_HOME}/huggingface"}] if len(env) < len(container["env"]) else []
    secrets: list[dict[str, Any]] = [one["secretRef"] for one in container["envFrom"][:1]]
    keys = [
        {"name": key, "valueFrom": {"secretKeyRef": {"name": secret["name"], "key": key, "optional": True}}}
        for secret in secrets
        for key in _KEYS
    ]
    # A kubelet takes $(NAME) for a variable, and $$ for $.
    return [*env, *home, *keys, {"name": _CYCLE, "value": document.replace("$", "$$")}]
