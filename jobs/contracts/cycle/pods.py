"""What a cycle may change about the pods of its stages: a closed list, without secrets or images."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from jobs.contracts.cycle.bounds import ENTRIES, YEAR_SECONDS, CycleModel, LabelKey, Labels, LabelValue, Name, Quantity


class Toleration(CycleModel):
    """As in a pod."""

    key: LabelKey | None = None
    """Taint that is tolerated; absent: every one."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """Whether the value counts."""
    value: LabelValue | None = None
    """The taint's value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The taint's effect; absent: every one."""
    toleration_seconds: Annotated[int, Field(ge=0, le=YEAR_SECONDS)] | None = None
    """How long NoExecute is tolerated."""


class Affinity(CycleModel):
    """As in a pod."""

    node_affinity: dict[str, Any] | None = None
    """Nodes that it must or should run on."""
    pod_affinity: dict[str, Any] | None = None
    """Pods that it must or should run beside."""
    pod_anti_affinity: dict[str, Any] | None = None
    """Pods that it must not or should not run beside."""


Quantities = Annotated[dict[LabelKey, Quantity], Field(max_length=16), ENTRIES]


class Resources(CycleModel):
    """As in a container."""

    limits: Quantities = {}
    """What it may use at most."""
    requests: Quantities = {}
    """What is set aside for it."""


class StageOverride(CycleModel):
    """What may differ in the pods of one stage."""

    resources: Resources | None = None
    """CPU, memory, GPUs."""
    node_selector: Labels = {}
    """Labels of the nodes that it may run on."""
    tolerations: Annotated[list[Toleration], Field(max_length=16)] = []
    """Taints that it bears."""
    affinity: Affinity | None = None
    """Node, pod and anti-affinity, as in a pod."""
    priority_class_name: Name | None = None
    """Priority of its pods."""
    runtime_class_name: Name | None = None
    """Container runtime of its pods."""
    labels: Labels = {}
    """Added to its pods."""
    annotations: Annotated[
        dict[LabelKey, Annotated[str, StringConstraints(max_length=4096)]], Field(max_length=64), ENTRIES
    ] = {}
    """Added to its pods."""
    deadline_seconds: Annotated[int, Field(ge=1, le=YEAR_SECONDS)] | None = None
    """How long one attempt may take."""
