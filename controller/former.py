"""What a promotion takes for the former adapter, and what is said where that is not the one on record. Pure."""

from __future__ import annotations

from controller.objects import name
from controller.observed import Inference
from jobs.contracts.cycle.status import CycleStatus


def value_of(adapter: str | None, sha256: str) -> str:
    """An adapter as the annotation has it."""
    return f"{adapter or ''}@{sha256}"


def former_of(inference: Inference, status: CycleStatus) -> str:
    """What is served before anything is changed: what the annotation says; of swapped pods, what is on record.

    Empty where pods follow the record, or have the bare base model.
    """
    incumbent = status.incumbent
    if not inference.is_swapped:
        return inference.adapter
    return value_of(incumbent.adapter, incumbent.sha256) if incumbent and incumbent.adapter else ""


def parted(inference: Inference, status: CycleStatus) -> tuple[str, str] | None:
    """Reason and message where the annotation is of another adapter than select found on record; else None.

    Without the annotation pods follow the record, and a candidate that is there already is what is to be.
    """
    incumbent, candidate = status.incumbent, status.candidate
    recorded = value_of(incumbent.adapter, incumbent.sha256) if incumbent else value_of(None, "")
    served = inference.adapter
    is_known = _digest(served) in {_digest(recorded), candidate.sha256 if candidate else None}
    if inference.is_swapped or not served or is_known:
        return None
    reason, who = "RecordDiffers", "as the controller set it last"
    if not inference.is_set_by_us:
        reason, who = "RolledBackExternally", "somebody set it"
    message = f"{name(inference.deployment)} serves {_shown(served)}, the record says {_shown(recorded)}: {who}"
    return reason, f"{message}; it is taken for the former adapter"


def _digest(value: str) -> str:
    return value.rpartition("@")[2]


def _shown(value: str) -> str:
    key, at, digest = value.rpartition("@")
    return f"{key}{at}{digest[:16]}" if digest else "the bare base model"
