"""What a plan may ask for. `controller.apply` carries it out, in the order in which it is listed."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from controller.objects import Json
from jobs.contracts.cycle.status import CycleStatus


@dataclass(frozen=True, slots=True)
class CreateJob:
    """Create a Job; one that is there already is the same, or its stage is refused."""

    manifest: Json


@dataclass(frozen=True, slots=True)
class CreateService:
    """Create the headless Service by which the ranks of a training find each other."""

    manifest: Json


@dataclass(frozen=True, slots=True)
class DeleteJob:
    """Delete a Job with its pods, which save and end."""

    name: str
    uid: str
    is_train_job: bool = False
    """Then it stays until its pods are gone, for these are not seen."""


@dataclass(frozen=True, slots=True)
class DeleteCycle:
    """Delete a cycle whose time is up."""

    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class PatchStatus:
    """Write the status of a cycle, unless somebody has written it since it was read."""

    name: str
    resource_version: str
    status: CycleStatus


@dataclass(frozen=True, slots=True)
class SetAdapter:
    """Let the inference Deployment's pods serve another adapter."""

    adapter: str
    """Value of the annotation, `key@digest`; empty: what the record says."""
    marker: Json | None
    """Who is in the middle of a promotion, and what stood there before; None: nobody is."""
    resource_version: str = ""
    """Of the Deployment that was looked at: what has been changed since then is not overwritten."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask a pod of the inference Deployment a question, and remember what it answered."""

    pod: Json
    adapter: str
    """Which adapter it is expected to answer with, `key@digest`."""
    seconds: float
    """How long an answer is waited for."""


@dataclass(frozen=True, slots=True)
class Swap:
    """Tell a pod of the inference Deployment to load another adapter."""

    pod: Json
    adapter: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Forget what pods have answered and loaded, and that it was refused: another promotion begins."""


@dataclass(frozen=True, slots=True)
class ForgetRefusal:
    """Forget that an object of that name was refused: a retry tries it again."""

    name: str


@dataclass(frozen=True, slots=True)
class Emit:
    """An Event for people, once."""

    name: str
    """Unique for what it tells: telling it again is no second Event."""
    reason: str
    message: str
    is_warning: bool = False


Action = (
    CreateJob
    | CreateService
    | DeleteJob
    | DeleteCycle
    | PatchStatus
    | SetAdapter
    | Ask
    | Swap
    | Forget
    | ForgetRefusal
    | Emit
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do about a cycle now."""

    actions: tuple[Action, ...] = ()
    wake: datetime | None = field(default=None)
    """When to look again, whatever happens until then."""
