"""What the controller writes about a cycle: `status` of the RetrainCycle.

Everything in it can be made again from the Jobs, but for what has happened and is gone: it is the record
of which stages have succeeded. Times are RFC 3339 with a Z, to the second.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from jobs.contracts.cycle.bounds import CycleModel, StageName
from jobs.contracts.cycle.data import Source

State = Literal[
    "Pending",
    "Queued",
    "Suspended",
    "Running",
    "AwaitingApproval",
    "Promoted",
    "NotPromoted",
    "Skipped",
    "Failed",
]
ENDED: tuple[State, ...] = ("Promoted", "NotPromoted", "Skipped", "Failed")
"""States in which nothing is left to do. Failed alone is no success; a retry leads out of it."""

MOST_SOURCES = 64
"""Sources of one cycle, with those that it takes over from others that wait: as many as a spec may hold."""
MOST_SUPERSEDED = 64
"""Cycles whose sources one cycle takes over."""

Time = Annotated[str, StringConstraints(max_length=32)]
Told = Annotated[str, StringConstraints(max_length=1024)]
"""Words for a person."""
Digest = Annotated[str, StringConstraints(max_length=64)]
Key = Annotated[str, StringConstraints(max_length=1024)]
Short = Annotated[str, StringConstraints(max_length=253)]
Count = Annotated[int, Field(ge=0, le=2**53)]


class StatusModel(CycleModel):
    """Base of the models of a status: fields of a newer version are passed over."""

    model_config = ConfigDict(extra="ignore")


class Condition(StatusModel):
    """As `metav1.Condition`; the list is keyed by type."""

    type: Annotated[str, StringConstraints(max_length=316)]
    """What it is about: Accepted, Progressing, Trained, Evaluated, Promoted, Complete or Succeeded."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    """Why, in one CamelCase word."""
    message: Annotated[str, StringConstraints(max_length=32768)] = ""
    """Why, and what to do."""
    last_transition_time: Time
    """When its status changed."""
    observed_generation: Count = 0
    """The generation of the spec that it was said of."""


class Progress(StatusModel):
    """How far the running stage is, as its pod told last. Only how often lost training is begun again depends on it."""

    percent: Annotated[float, Field(ge=0, le=100)] | None = None
    """Share of its steps that is done."""
    eta_seconds: Annotated[float, Field(ge=0)] | None = None
    """How long it is going to take yet."""
    loss: float | None = None
    """Training loss of the last step, nats per target token."""
    at: Time | None = None
    """When it was told."""


class LogHead(StatusModel):
    """The newest segment of the assignments log that the cycle saw."""

    seq: Count
    """Its number."""
    sha256: Digest
    """Its digest."""


class StageStatus(StatusModel):
    """A stage in one attempt of the cycle: its newest Job."""

    name: StageName
    """The stage."""
    attempt: Count = 0
    """0, or the number of the retrain after too small a gain."""
    run: Count = 0
    """0, or how often it was begun again: after a suspension, a retry, a lost Job."""
    state: Literal["Running", "Suspended", "Succeeded", "Failed"]
    """How it stands."""
    job: Short
    """Name of its Job."""
    job_uid: Short = ""
    """The Job's uid, once it was seen."""
    asks: Short = ""
    """Name of the Job that asks the store for the stage's result, where its own Job no longer tells."""
    started_at: Time
    """When this run was begun."""
    completed_at: Time | None = None
    """When it was seen to have ended."""
    losses: Count = 0
    """Runs in a row that ended by no fault of the stage, none of them further than the last: a lost Job or rank."""
    lost_percent: Count = 0
    """How far training had come at most when a run of it was lost, in percent."""
    lost_seconds: Count = 0
    """How long the runs took that were lost, since the last retry: they count for the stage's deadline."""
    message: Told = ""
    """Why it failed, or what it waits for."""
    result: dict[str, Any] = {}
    """What the stage told at its end: counts, digests, scores."""


class Adapter(StatusModel):
    """An adapter in the store."""

    adapter: Key | None = None
    """Key of its folder under the archive; absent: the bare base model."""
    sha256: Digest = ""
    """Its digest; empty for the bare base model."""
    scores: dict[str, Any] = {}
    """What it was chosen by."""


class Decision(StatusModel):
    """What `select` decided."""

    outcome: Short
    """Promote, KeepIncumbent or Retrain."""
    reason: Short = ""
    """Why, in one word."""
    message: Told = ""
    """Why."""
    delta: float | None = None
    """Gain over the incumbent on the gate's threads; positive is better."""
    interval: Annotated[list[float], Field(max_length=2)] | None = None
    """Confidence interval of the gain."""


class Promotion(StatusModel):
    """How far the inference Deployment has been brought to the candidate."""

    phase: Literal["Announced", "RollingOut", "Recording", "Restoring", "Withheld"]
    """Announced until the annotation is set, RollingOut until every pod answers with the adapter; Restoring brings
    the former one back."""
    adapter: Key
    """The value of the pod template's annotation `refrain.dev/adapter`: key@digest."""
    former: Key = ""
    """The value that stood there before; empty: none."""
    started_at: Time
    """When the annotation was set."""
    reason: Short = ""
    """Why it is taken back."""
    message: Told = ""
    """Why it is taken back, in words."""


_KEYED_BY_TYPE: Any = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}


class CycleStatus(StatusModel):
    """Where a cycle stands."""

    observed_generation: Count = 0
    """The generation of the spec that this was written about."""
    state: State = "Pending"
    """Where it stands, in one word."""
    stage: StageName | None = None
    """The stage that runs, or that it ended with."""
    attempt: Count = 0
    """0, or the number of the retrain after too small a gain."""
    started_at: Time | None = None
    """When its turn came. From then on the spec is fixed, but for suspend, ttl and approval."""
    completed_at: Time | None = None
    """When it ended."""
    window_idx: Annotated[int, Field(ge=-1, le=2**53)] | None = None
    """W: the window that its new mail became."""
    progress: Progress | None = None
    """How far the running stage is."""
    log: LogHead | None = None
    """Head of the assignments log that this cycle saw."""
    supersedes: Annotated[list[Short], Field(max_length=MOST_SUPERSEDED)] = []
    """Uids of the queued cycles whose sources it has taken."""
    taken_sources: Annotated[list[Source], Field(max_length=MOST_SOURCES)] = []
    """Sources of those."""
    stages: Annotated[list[StageStatus], Field(max_length=128)] = []
    """The stages that have begun, in the order in which they did."""
    candidate: Adapter | None = None
    """What may come into service."""
    incumbent: Adapter | None = None
    """What was in service when the cycle began."""
    decision: Decision | None = None
    """What select decided."""
    promotion: Promotion | None = None
    """How far the inference Deployment has been brought to the candidate."""
    retry: Short = ""
    """The last value of the annotation refrain.dev/retry that was acted on."""
    conditions: Annotated[list[Condition], Field(max_length=16, json_schema_extra=_KEYED_BY_TYPE)] = []
    """Keyed by type."""
