"""Between `select` and `promote`: approval, and the inference Deployment brought to the candidate. Pure.

The annotation `refrain.dev/adapter` of the Deployment's pod template says what its pods serve. While a
promotion is under way, the Deployment's own annotation `refrain.dev/promotion` says whose it is and what stood
there before, in the same write: so that it can be taken back whatever happens to the cycle.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from controller.actions import Action, Ask, SetAdapter, Swap
from controller.cycles import Cycle
from controller.objects import PROMOTION, after, annotations_of, condition, is_deleting, is_false, is_ready, name, uid
from controller.observed import Inference
from controller.status import shortened
from jobs.contracts.cycle.status import ENDED, Promotion

if TYPE_CHECKING:
    from controller.planning import Planning

_POLL_SECONDS = 5


def is_cleared(p: Planning) -> bool:
    """Whether the promote stage may run now: it records what serves already, or why nothing came of it."""
    decision, promotion = p.status.decision, p.status.promotion
    if decision is None or decision.outcome != "Promote":
        return True
    if promotion is not None and promotion.phase in ("Recording", "Withheld"):
        return True
    if promotion is None and not _is_approved(p):
        return False
    inference = p.observed.inference
    if inference is None:
        return True
    if promotion is None:
        _announce(p, inference)
        return False
    if promotion.phase == "Restoring":
        _restore(p, inference, promotion)
    else:
        _roll_out(p, inference, promotion)
    return p.status.promotion is not None and p.status.promotion.phase in ("Recording", "Withheld")


def _is_approved(p: Planning) -> bool:
    """Whether a person has approved, where one has to. A time-out withholds the candidate."""
    promotion, candidate = p.spec.promotion, p.status.candidate
    if promotion.mode == "Automatic" or candidate is None:
        return True
    if promotion.approve == candidate.sha256:
        p.condition("Promoted", "Unknown", "Approved", f"{candidate.sha256} is approved")
        return True
    chosen = p.status.stages[-1].completed_at
    at = after(chosen, promotion.approval_timeout_seconds) if chosen else p.now
    if p.now >= at:
        message = f"nobody approved {candidate.sha256} within {promotion.approval_timeout_seconds} s"
        withheld = Promotion(
            phase="Withheld",
            adapter=_value(candidate.adapter, candidate.sha256),
            started_at=p.now_written,
            reason="ApprovalTimedOut",
            message=message,
        )
        p.set(promotion=withheld)
        return True
    p.wake(at)
    p.set(state="AwaitingApproval")
    message = f"set spec.promotion.approve to {candidate.sha256} (refrain cycle approve {p.cycle.name})"
    if promotion.approve:
        message = f"{promotion.approve} is approved, but the candidate is another: {message}"
    p.progressing("Unknown", "AwaitingApproval", message)
    return False


def _announce(p: Planning, inference: Inference) -> None:
    """Write down what is served now, before anything is changed."""
    candidate = p.status.candidate
    assert candidate is not None
    value = _value(candidate.adapter, candidate.sha256)
    promotion = Promotion(phase="Announced", adapter=value, former=inference.adapter, started_at=p.now_written)
    p.set(state="Running", promotion=promotion)
    p.progressing("True", "RollingOut", f"{name(inference.deployment)} is brought to {candidate.sha256[:16]}")
    p.condition("Promoted", "Unknown", "RollingOut", f"{name(inference.deployment)} does not answer with it yet")


def _roll_out(p: Planning, inference: Inference, promotion: Promotion) -> None:
    if inference.is_swapped:
        _swap(p, inference, promotion)
    elif inference.adapter == promotion.adapter:
        seen = promotion.model_copy(update={"phase": "RollingOut"})
        p.set(promotion=seen)
        _verify(p, inference, seen)
    elif promotion.phase == "Announced":
        p.actions.append(SetAdapter(promotion.adapter, {"cycle": p.cycle.uid, "former": promotion.former}))
        p.wake(after(promotion.started_at, p.spec.promotion.timeout_seconds))
    else:  # the marker says nothing here: `kubectl rollout undo` takes it away too
        message = f"somebody set {name(inference.deployment)} back to {inference.adapter or 'nothing'}; that stays"
        _withhold(p, promotion, "RolledBackExternally", message)


def _verify(p: Planning, inference: Inference, promotion: Promotion) -> None:
    """Every ready pod with the adapter is asked, and must answer with it."""
    pods = [pod for pod in inference.pods_with(promotion.adapter) if not is_deleting(pod)]
    digest = promotion.adapter.rpartition("@")[2]
    for pod in filter(is_ready, pods):
        answer = inference.answers.get((uid(pod), promotion.adapter))
        if answer is None:
            p.actions.append(Ask(pod, promotion.adapter))
        elif not answer.problem and answer.adapter != digest:
            found = answer.adapter[:16] or "the bare base model"
            _take_back(p, inference, promotion, "WrongAdapter", f"{name(pod)} answers with {found}")
            return
    right = [pod for pod in pods if _answers(inference, pod, promotion.adapter)]
    if inference.is_rolled_out and len(right) >= inference.num_replicas:
        _record(p, promotion)
        return
    if p.now >= after(promotion.started_at, p.spec.promotion.timeout_seconds):
        _take_back(p, inference, promotion, *_why_not_ready(p, inference, pods, promotion.adapter))
        return
    p.actions += [
        Ask(pod, promotion.adapter)
        for pod in filter(is_ready, pods)
        if (answer := inference.answers.get((uid(pod), promotion.adapter))) and answer.problem
    ]
    p.wake(after(p.now_written, _POLL_SECONDS))


def _answers(inference: Inference, pod: Any, adapter: str) -> bool:
    answer = inference.answers.get((uid(pod), adapter))
    return answer is not None and not answer.problem


def _why_not_ready(p: Planning, inference: Inference, pods: list[Any], adapter: str) -> tuple[str, str]:
    seconds = p.spec.promotion.timeout_seconds
    for pod in pods:
        scheduled = is_false(pod, "PodScheduled")
        if scheduled and scheduled.get("reason") == "Unschedulable":
            hint = "give the inference Deployment room for one more pod, or set its mode to Swap"
            return "NoSpareCapacity", f"{name(pod)}: {scheduled.get('message')}; {hint}"
    for pod in pods:
        answer = inference.answers.get((uid(pod), adapter))
        if answer is not None and answer.problem:
            return "NoAnswer", f"{name(pod)} gave no answer within {seconds} s: {answer.problem}"
    stalled = condition(inference.deployment, "ReplicaFailure")
    said = f": {stalled.get('message')}" if stalled else ""
    return "NotReady", f"{name(inference.deployment)} was not ready with it within {seconds} s{said}"


def _swap(p: Planning, inference: Inference, promotion: Promotion) -> None:
    """Every pod is told to load the adapter, then asked."""
    if not _marker_of(inference):
        p.actions.append(SetAdapter("", {"cycle": p.cycle.uid, "former": promotion.former, "swap": True}))
        return
    pods = [pod for pod in inference.pods if is_ready(pod)]
    digest = promotion.adapter.rpartition("@")[2]
    num_right = 0
    for pod in pods:
        swapped = inference.swaps.get((uid(pod), promotion.adapter))
        answer = inference.answers.get((uid(pod), promotion.adapter))
        if swapped is None:
            p.actions.append(Swap(pod, promotion.adapter))
        elif swapped:
            _take_back(p, inference, promotion, "NotLoaded", f"{name(pod)}: {swapped}")
            return
        elif answer is None:
            p.actions.append(Ask(pod, promotion.adapter))
        elif answer.problem or answer.adapter != digest:
            problem = answer.problem or f"it answers with {answer.adapter[:16] or 'the bare base model'}"
            _take_back(p, inference, promotion, "WrongAdapter", f"{name(pod)}: {problem}")
            return
        else:
            num_right += 1
    if pods and num_right == len(pods) >= inference.num_replicas:
        _record(p, promotion)
    elif p.now >= after(promotion.started_at, p.spec.promotion.timeout_seconds):
        _take_back(p, inference, promotion, *_why_not_ready(p, inference, pods, promotion.adapter))
    else:
        p.wake(after(p.now_written, _POLL_SECONDS))


def _record(p: Planning, promotion: Promotion) -> None:
    p.set(promotion=promotion.model_copy(update={"phase": "Recording"}))
    p.progressing("True", "Recording", "every pod answers with it; the promotion is written down")


def _take_back(p: Planning, inference: Inference, promotion: Promotion, reason: str, message: str) -> None:
    changed = promotion.model_copy(update={"phase": "Restoring", "reason": reason, "message": shortened(message)})
    p.set(promotion=changed)
    p.progressing("True", reason, f"{message}; the former adapter is brought back")
    p.emit(reason, f"{message}; the former adapter is brought back", is_warning=True)
    _restore(p, inference, changed)


def _restore(p: Planning, inference: Inference, promotion: Promotion) -> None:
    """Bring back what was served before; when that is done, the candidate is withheld."""
    if inference.is_swapped:
        left = [
            pod for pod in inference.pods if is_ready(pod) and inference.swaps.get((uid(pod), promotion.former)) is None
        ]
        p.actions += [Swap(pod, promotion.former) for pod in left]
        if not left:
            _withhold(p, promotion, promotion.reason, promotion.message)
    elif inference.adapter == promotion.adapter:
        p.actions.append(SetAdapter(promotion.former, None))
    else:
        _withhold(p, promotion, promotion.reason, promotion.message)


def _withhold(p: Planning, promotion: Promotion, reason: str, message: str) -> None:
    changed = promotion.model_copy(update={"phase": "Withheld", "reason": reason, "message": shortened(message)})
    p.set(promotion=changed)
    p.condition("Promoted", "False", reason, message)


def heal(inference: Inference | None, cycles: Iterable[Cycle]) -> tuple[Action, ...]:
    """What is to be done about a promotion whose cycle has ended, or is there no longer.

    One that came to its end is only forgotten; what a deleted cycle had begun is taken back.
    """
    marker = _marker_of(inference) if inference is not None else {}
    if inference is None or not marker:
        return ()
    owner = next((one for one in cycles if one.uid == marker.get("cycle")), None)
    if owner is None:
        former = str(marker.get("former", ""))
        swaps = [Swap(pod, former) for pod in inference.pods if is_ready(pod)] if inference.is_swapped else []
        return (*swaps, SetAdapter("" if inference.is_swapped else former, None))
    if owner.status.state not in ENDED:
        return ()
    recorded = owner.status.state == "Promoted"
    promotion = owner.status.promotion
    if promotion is not None and not recorded and inference.adapter == promotion.adapter and not inference.is_swapped:
        return (SetAdapter(promotion.former, None),)
    return (SetAdapter(inference.adapter, None),)


def _marker_of(inference: Inference) -> dict[str, Any]:
    text = annotations_of(inference.deployment).get(PROMOTION)
    try:
        value = json.loads(text) if text else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _value(adapter: str | None, sha256: str) -> str:
    return f"{adapter or ''}@{sha256}"
