"""What is to become of a promotion that no cycle pursues any more. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from controller.actions import Action, SetAdapter, Swap
from controller.cycles import Cycle
from controller.observed import Inference
from controller.promoting import not_swapped_back
from controller.status import may_be_on_record
from jobs.contracts.cycle.status import ENDED


def heal(inference: Inference | None, cycles: Iterable[Cycle]) -> tuple[Action, ...]:
    """What is to be done about a promotion that no cycle pursues: it has ended, failed, was deleted or suspended.

    One that came to its end is only forgotten, and so is one that may be on record: of a cycle that was deleted
    while it was recorded, or whose result nobody could tell. What had merely begun is taken back.
    """
    if inference is None or not inference.marker:
        return ()
    live = (one for one in cycles if not one.is_deleting)
    owner = next((one for one in live if one.uid == inference.marker.get("cycle")), None)
    if owner is not None and _is_under_way(owner):
        return ()
    former = str(inference.marker.get("former", ""))
    is_other = not inference.is_swapped and inference.adapter != inference.marker.get("adapter", inference.adapter)
    if is_other or _is_to_stay(owner, inference):
        return (SetAdapter(inference.adapter, None, inference.version),)
    if not inference.is_swapped:
        return (SetAdapter(former, None, inference.version),)
    left = not_swapped_back(inference, former)
    return tuple(Swap(pod, former) for pod in left) or (SetAdapter(inference.adapter, None, inference.version),)


def _is_under_way(owner: Cycle) -> bool:
    """Whether the cycle itself sees to it. A suspended one, or one that waits for a Deployment, does not."""
    promotion = owner.status.promotion
    if owner.status_problem:
        return True
    if owner.status.state in ENDED or promotion is None or (promotion.phase == "Announced" and promotion.reason):
        return False
    return owner.status.state != "Suspended" or promotion.phase == "Recording"


def _is_to_stay(owner: Cycle | None, inference: Inference) -> bool:
    if owner is None:
        return bool(inference.marker.get("recording"))
    if may_be_on_record(owner.status):
        return True
    promotion = owner.status.promotion
    is_back = promotion is not None and promotion.phase == "Withheld" and not inference.is_swapped
    return owner.status.state == "Promoted" or is_back  # of swapped pods one may have been away
