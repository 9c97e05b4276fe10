"""How this controller is set up: one file, which the chart writes from its values.

It is read at start and again at each resync, so that `paused` takes effect without a restart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from jobs.contracts.cycle.bounds import StageName
from jobs.contracts.cycle.pods import Resources, StageOverride
from jobs.contracts.errors import ConfigError
from jobs.contracts.yaml_file import read_yaml

PROGRESS_PORT = 9400
"""Where a training pod serves its progress."""


class SettingsModel(BaseModel):
    """camelCase in the file, unknown fields refused."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, use_attribute_docstrings=True
    )


class Images(SettingsModel):
    """Images of the stages."""

    light: str = "refrain-controller"
    """For stages without a model."""
    heavy: str = "refrain-jobs"
    """For those that need torch."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """As in a pod."""
    pull_secrets: list[str] = []
    """Names of Secrets."""


class InferenceSettings(SettingsModel):
    """The Deployment that serves an archive's adapter."""

    deployment: str
    """Its name, in this namespace."""
    archive: str
    """Whose adapters it serves."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Where its pods answer."""
    mode: Literal["Rollout", "Swap"] = "Rollout"
    """Replace the pods, or tell each of them to load the adapter; for scarce GPUs."""
    token_file: Path | None = None
    """File with the token of the pods' swap endpoint; it stands for an API key too."""
    question: str = "Who are you, and what are you working on?"
    """What a new pod is asked before its adapter is recorded."""


class StoreSettings(SettingsModel):
    """How stages reach the store. What stands here no cycle can change."""

    secrets: list[str] = []
    """Secrets that a cycle may name; the first is taken where it names none."""
    ca_config_map: str = ""
    """ConfigMap with `ca.crt`, the store's private certificate authority."""


class MailSettings(SettingsModel):
    """Mail that is fetched with credentials of ours. What stands here no cycle can change."""

    imap_hosts: list[str] = []
    """IMAP servers that a cycle's sources may name; none where it is empty: another one would be told the password."""
    secrets: list[str] = []
    """Secrets whose keys `parse` alone gets as variables: REFRAIN_IMAP_PASSWORD, REFRAIN_IMAP_TOKEN."""


def _resources(cpu: str, memory: str, most_cpu: str, most_memory: str) -> Resources:
    return Resources(requests={"cpu": cpu, "memory": memory}, limits={"cpu": most_cpu, "memory": most_memory})


class TrainJobSettings(SettingsModel):
    """How training is handed over to Kubeflow Trainer."""

    runtime: Annotated[str, Field(min_length=1, max_length=253)]
    """The runtime: one for torch, whose container `node` has what a training pod needs besides (docs/operator.md)."""
    kind: Literal["ClusterTrainingRuntime", "TrainingRuntime"] = "ClusterTrainingRuntime"
    """Whether it is the cluster's, or this namespace's."""


class Settings(SettingsModel):
    """All of them."""

    namespace: str
    """Where this controller works; it sees no other."""
    images: Images = Images()
    """What stages run."""
    store: StoreSettings = StoreSettings()
    """How they reach the store."""
    mail: MailSettings = MailSettings()
    """How they fetch mail."""
    inference: InferenceSettings | None = None
    """Who serves; absent: the record in the store alone is the promotion."""
    train_job: TrainJobSettings | None = None
    """Hand training over to Kubeflow Trainer as a TrainJob; absent: it is a Job of this controller's."""
    service_account: str = "default"
    """Of the stages' pods. No token is mounted into them."""
    env: dict[str, str] = {}
    """Added to every stage: proxies, HF_ENDPOINT and the like."""
    env_from_secrets: list[str] = []
    """Secrets whose keys every stage gets as variables: HF_TOKEN."""
    model_cache_claim: str = ""
    """PersistentVolumeClaim for models; absent: each pod fetches them anew."""
    scratch_size: str = "20Gi"
    """Most that a stage may write to /tmp."""
    shared_memory_size: str = "2Gi"
    """Of /dev/shm, for stages on a GPU."""
    gpu_resource: str = "nvidia.com/gpu"
    """What GPU stages request, one for each process; empty: nothing, they run on the CPU."""
    grace_seconds: Annotated[int, Field(ge=1, le=3600)] = 120
    """How long a stage may take to save when it is told to stop."""
    light_resources: Resources = _resources("250m", "512Mi", "2", "4Gi")
    """Of stages without a model."""
    heavy_resources: Resources = _resources("1", "4Gi", "16", "32Gi")
    """Of the others, GPUs aside."""
    stages: dict[StageName, StageOverride] = {}
    """What differs in single stages; a cycle's own overrides win."""
    queue_name: str = ""
    """Kueue's LocalQueue that the Jobs wait in."""
    owner: Annotated[str, Field(max_length=128)] = ""
    """Who claims the archives in the store, so that no other cluster writes to them; absent: the namespace's name."""
    paused: bool = False
    """Look on, and do nothing."""
    resync_seconds: Annotated[float, Field(gt=0, le=3600)] = 120
    """Between two looks at everything, which make up for lost events."""
    progress_seconds: Annotated[float, Field(gt=0, le=3600)] = 15
    """Between two looks at how far a training is."""


def load_settings(path: Path) -> Settings:
    """The file's settings; ConfigError, MissingInputError."""
    value: Any = read_yaml(path).value
    try:
        return Settings.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(first["msg"], where=f"{path}: {place}", hint="see controller/settings.py") from error
