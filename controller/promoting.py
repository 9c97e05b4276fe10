"""Between `select` and `promote`: approval, and the inference Deployment brought to the candidate. Pure.

The annotation `refrain.dev/adapter` of the Deployment's pod template says what its pods serve. While a
promotion is under way, the Deployment's own annotation `refrain.dev/promotion` says whose it is and what stood
there before, in the same write: so that it can be taken back whatever happens to the cycle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from controller.actions import Ask, Forget, SetAdapter, Swap
from controller.former import former_of, parted, value_of
from controller.objects import after, condition, is_deleting, is_false, is_ready, may_serve, name, uid
from controller.observed import Inference, Refusal, Swapped, refusal_key
from controller.status import shortened
from jobs.contracts.cycle.status import Promotion

if TYPE_CHECKING:
    from controller.planning import Planning

_POLL_SECONDS = 5
_ASK_SECONDS = 60
"""How long an answer is waited for, where there is time."""
_REFUSED_SECONDS = 30


def is_cleared(p: Planning) -> bool:
    """Whether the promote stage may run now: it records what serves already, or why nothing came of it."""
    decision = p.status.decision
    if decision is None or decision.outcome != "Promote":
        return True
    if p.status.promotion is None and not _is_approved(p):
        return False
    promotion, inference = p.status.promotion, p.observed.inference
    if promotion is not None and promotion.phase == "Withheld":
        return True
    if inference is None:
        return _wait_for_it(p, promotion) if _is_served(p) else True
    if promotion is None or (promotion.phase == "Announced" and not _is_as_announced(inference, promotion)):
        _announce(p, inference)
    elif promotion.phase == "Recording":
        return _is_marked(p, inference, promotion)
    elif promotion.phase == "Restoring":
        _restore(p, inference, promotion)
    else:
        _roll_out(p, inference, promotion)
    return p.status.promotion is not None and p.status.promotion.phase == "Withheld"


def give_up(p: Planning) -> None:
    """Forget a roll-out that has not come to its end: `heal` takes it back, and later it is announced anew."""
    promotion = p.status.promotion
    if promotion is not None and promotion.phase in ("Announced", "RollingOut"):
        p.set(promotion=None)


def _is_served(p: Planning) -> bool:
    said = p.settings.inference
    return said is not None and said.archive == p.spec.archive


def _wait_for_it(p: Planning, promotion: Promotion | None) -> bool:
    """The Deployment of the settings is not there: wait for it, then withhold the candidate, which nobody serves."""
    said, candidate = p.settings.inference, p.status.candidate
    assert said is not None
    assert candidate is not None
    message = f"the controller's settings name Deployment {said.deployment}, and there is none"
    if promotion is None:
        value = value_of(candidate.adapter, candidate.sha256)
        promotion = Promotion(phase="Announced", adapter=value, started_at=p.now_written, reason="InferenceMissing")
        p.set(state="Running", promotion=promotion)
    if promotion.phase == "Recording" and _has_begun(p, promotion):
        return True
    at = after(promotion.started_at, p.spec.promotion.timeout_seconds)
    if p.now >= at:
        _withhold(p, promotion, promotion.reason or "InferenceMissing", promotion.message or message)
        return True
    p.progressing("False", "InferenceMissing", message)
    p.wake(at)
    return False


def _is_approved(p: Planning) -> bool:
    """Whether a person has approved, where one has to. A time-out withholds the candidate."""
    promotion, candidate = p.spec.promotion, p.status.candidate
    if promotion.mode == "Automatic" or candidate is None:
        return True
    if promotion.approve == candidate.sha256:
        p.condition("Promoted", "Unknown", "Approved", f"{candidate.sha256} is approved")
        return True
    # A retry asks again.
    since = max(p.status.stages[-1].completed_at or "", p.status.started_at or "") or p.now_written
    at = after(since, promotion.approval_timeout_seconds)
    if p.now >= at:
        message = f"nobody approved {candidate.sha256} within {promotion.approval_timeout_seconds} s"
        withheld = Promotion(
            phase="Withheld",
            adapter=value_of(candidate.adapter, candidate.sha256),
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
    value = value_of(candidate.adapter, candidate.sha256)
    if inference.marker and not inference.is_swapped:  # of what went before; `heal` is about to take it back
        if (refusal := _refusal(p, inference)) is not None:
            _wait_refused(p, inference, value, refusal)
        p.wake(after(p.now_written, _POLL_SECONDS))
        return
    former = former_of(inference, p.status)
    promotion = Promotion(phase="Announced", adapter=value, former=former, started_at=p.now_written)
    message = f"{name(inference.deployment)} does not answer with it yet"
    if (said := parted(inference, p.status)) is not None:
        reason, difference = said
        p.emit(reason, difference, is_warning=True)
        message = f"{message}; {difference}"
    p.actions.append(Forget())
    p.set(state="Running", promotion=promotion)
    p.progressing("True", "RollingOut", _rolling_out(inference, promotion))
    p.condition("Promoted", "Unknown", "RollingOut", message)


def _wait_refused(p: Planning, inference: Inference, value: str, refusal: Refusal) -> None:
    """What went before cannot be taken back: say so, and withhold the candidate when the time is up."""
    message = _refused(inference, refusal)
    promotion = p.status.promotion
    if promotion is None:
        promotion = Promotion(phase="Announced", adapter=value, started_at=p.now_written, reason="DeploymentRefused")
        p.set(state="Running", promotion=promotion)
    if _is_late(p, promotion):
        _withhold(p, promotion, "DeploymentRefused", message)
    else:
        p.progressing("False", "DeploymentRefused", message)


def _rolling_out(inference: Inference, promotion: Promotion) -> str:
    return f"{name(inference.deployment)} is brought to {promotion.adapter.rpartition('@')[2][:16]}"


def _is_as_announced(inference: Inference, promotion: Promotion) -> bool:
    """Whether what stood there then stands there yet, so that nobody's change is taken for ours, or lost."""
    if promotion.reason:  # it was announced while there was no Deployment
        return False
    is_known = inference.adapter in (promotion.former, promotion.adapter)
    return inference.is_swapped or is_known or bool(inference.marker)


def _set(p: Planning, inference: Inference, adapter: str, marker: dict[str, Any] | None) -> bool:
    """Change the Deployment. False where that was refused before: it is said, and tried again."""
    p.actions.append(SetAdapter(adapter, marker, inference.version))
    refusal = _refusal(p, inference)
    if refusal is not None:
        p.progressing("False", "DeploymentRefused", _refused(inference, refusal))
        p.wake(after(p.now_written, _REFUSED_SECONDS))
    return refusal is None


def _refusal(p: Planning, inference: Inference) -> Refusal | None:
    return p.observed.refusals.get(refusal_key(name(inference.deployment)))


def _refused(inference: Inference, refusal: Refusal) -> str:
    return f"{name(inference.deployment)} may not be changed: {refusal.message}"


def _is_late(p: Planning, promotion: Promotion) -> bool:
    return p.now >= after(promotion.started_at, p.spec.promotion.timeout_seconds)


def _is_refused_too_long(p: Planning, inference: Inference, promotion: Promotion) -> bool:
    """Whether the Deployment may not be changed, and the time is up: then the candidate is withheld."""
    refusal = _refusal(p, inference)
    if refusal is None or not _is_late(p, promotion):
        return False
    _take_back(p, promotion, "DeploymentRefused", _refused(inference, refusal))
    return True


def _marker(p: Planning, promotion: Promotion, **more: Any) -> dict[str, Any]:
    return {"cycle": p.cycle.uid, "adapter": promotion.adapter, "former": promotion.former} | more


def _roll_out(p: Planning, inference: Inference, promotion: Promotion) -> None:
    under_way = promotion.model_copy(update={"phase": "RollingOut"})
    if inference.is_swapped:
        _swap(p, inference, under_way)
    elif inference.adapter == promotion.adapter:
        p.set(promotion=under_way)
        _verify(p, inference, under_way)
    elif promotion.phase == "Announced" and not inference.marker:
        if (refusal := _refusal(p, inference)) and _is_late(p, promotion):
            _withhold(p, promotion, "DeploymentRefused", _refused(inference, refusal))
        elif _set(p, inference, promotion.adapter, _marker(p, promotion)):
            p.set(promotion=under_way)
        p.wake(after(promotion.started_at, p.spec.promotion.timeout_seconds))
    else:
        _leave(p, inference, promotion)


def _leave(p: Planning, inference: Inference, promotion: Promotion) -> None:
    """A person has set something else, with the marker or without: `kubectl rollout undo` takes it away too."""
    message = f"somebody set {name(inference.deployment)} back to {inference.adapter or 'nothing'}; that stays"
    _withhold(p, promotion, "RolledBackExternally", message)


def _verify(p: Planning, inference: Inference, promotion: Promotion) -> None:
    """Every ready pod with the adapter is asked, and must answer with it."""
    pods = [pod for pod in inference.pods_with(promotion.adapter) if not is_deleting(pod)]
    _judge(p, inference, promotion, pods, [pod for pod in pods if is_ready(pod)], is_there=inference.is_rolled_out)


def _judge(
    p: Planning, inference: Inference, promotion: Promotion, pods: list[Any], ready: list[Any], *, is_there: bool
) -> None:
    """Ask the ready pods; record where all that are to be there answer with it, take back a wrong answer.

    One without an answer is asked again until the time is up, or until the Deployment is about to let a former pod
    go for it. In a look that asks for the first time it is not: a controller that was away has heard nothing yet.
    """
    digest = promotion.adapter.rpartition("@")[2]
    answers = {uid(pod): inference.answers.get((uid(pod), promotion.adapter)) for pod in ready}
    for pod in ready:
        answer = answers[uid(pod)]
        if answer is not None and not answer.problem and answer.adapter != digest:
            found = answer.adapter[:16] or "the bare base model"
            _take_back(p, promotion, "WrongAdapter", f"{name(pod)} answers with {found}")
            return
    open_ones = [pod for pod in ready if (answer := answers[uid(pod)]) is None or answer.problem]
    num_right = len(ready) - len(open_ones)
    if is_there and not open_ones and num_right >= max(1, inference.num_replicas):
        _record(p, inference, promotion)
        return
    has_heard = all(answers[uid(pod)] is not None for pod in ready)
    left = {uid(pod): _seconds_left(p, inference, pod) for pod in open_ones}
    is_counted_on = any(0 < seconds <= 2 * _POLL_SECONDS for seconds in left.values())
    if has_heard and (_is_late(p, promotion) or is_counted_on):
        _take_back(p, promotion, *_why_not_ready(p, inference, pods, promotion.adapter))
        return
    p.actions += [Ask(pod, promotion.adapter, _patience(left[uid(pod)])) for pod in open_ones]
    _wait_on(p, inference, promotion)


def _seconds_left(p: Planning, inference: Inference, pod: Any) -> float:
    """Until the Deployment takes a ready pod for available, and lets a former pod go; 0 where it has done so."""
    seconds, ready = inference.deployment["spec"].get("minReadySeconds", 0), condition(pod, "Ready")
    if not seconds or not ready:
        return 0.0
    return max(0.0, (after(str(ready["lastTransitionTime"]), seconds) - p.now).total_seconds())


def _patience(seconds_left: float) -> float:
    """How long a pod's answer is waited for: a look has to come behind it while the former pods are all there."""
    return min(_ASK_SECONDS, max(1.0, seconds_left - _POLL_SECONDS)) if seconds_left else _ASK_SECONDS


def _wait_on(p: Planning, inference: Inference, promotion: Promotion) -> None:
    if inference.num_replicas == 0:
        p.progressing("False", "NoReplicas", _no_replicas(inference))
    else:
        p.progressing("True", "RollingOut", _rolling_out(inference, promotion))
    p.wake(after(p.now_written, _POLL_SECONDS))


def _no_replicas(inference: Inference) -> str:
    return f"{name(inference.deployment)} has 0 replicas: nothing answers with the candidate"


def _why_not_ready(p: Planning, inference: Inference, pods: list[Any], adapter: str) -> tuple[str, str]:
    seconds = p.spec.promotion.timeout_seconds
    if inference.num_replicas == 0:
        return "NoReplicas", _no_replicas(inference)
    for pod in pods:
        scheduled = is_false(pod, "PodScheduled")
        if scheduled and scheduled.get("reason") == "Unschedulable":
            hint = "give the inference Deployment room for one more pod, or set its mode to Swap"
            return "NoSpareCapacity", f"{name(pod)}: {scheduled.get('message')}; {hint}"
    for pod in pods:
        answer = inference.answers.get((uid(pod), adapter))
        if answer is not None and answer.problem:
            return "NoAnswer", f"{name(pod)} is ready, and gave no answer: {answer.problem}"
    stalled = condition(inference.deployment, "ReplicaFailure")
    said = f": {stalled.get('message')}" if stalled else ""
    return "NotReady", f"{name(inference.deployment)} was not ready with it within {seconds} s{said}"


def _swap(p: Planning, inference: Inference, promotion: Promotion) -> None:
    """Every pod is told to load the adapter, then asked. A busy one is told again until the time is up."""
    p.set(promotion=promotion)
    if inference.marker != _marker(p, promotion):
        if not _is_refused_too_long(p, inference, promotion):
            _set(p, inference, "", _marker(p, promotion))
        return
    pods = [pod for pod in inference.pods if is_ready(pod)]
    said = {uid(pod): inference.swaps.get((uid(pod), promotion.adapter)) for pod in pods}
    for pod in pods:
        one = said[uid(pod)]
        if one is not None and one.problem and (one.is_final or _is_late(p, promotion)):
            _take_back(p, promotion, "NotLoaded", f"{name(pod)}: {one.problem}")
            return
    if left := [pod for pod in pods if (one := said[uid(pod)]) is None or one.problem]:
        p.actions += [Swap(pod, promotion.adapter) for pod in left]
        _wait_on(p, inference, promotion)
    else:
        _judge(p, inference, promotion, list(inference.pods), pods, is_there=True)


def _record(p: Planning, inference: Inference, promotion: Promotion) -> None:
    p.set(promotion=promotion.model_copy(update={"phase": "Recording"}))
    p.progressing("True", "Recording", "every pod answers with it; the promotion is written down")
    _set(p, inference, inference.adapter, _marker(p, promotion, recording=True))


def _is_marked(p: Planning, inference: Inference, promotion: Promotion) -> bool:
    """Whether the Deployment says that its adapter is being recorded: then it stays, whatever becomes of the cycle."""
    if _has_begun(p, promotion):
        return True
    if not inference.is_swapped and inference.adapter != promotion.adapter:
        _leave(p, inference, promotion)
        return True
    if inference.marker == _marker(p, promotion, recording=True):
        return True
    if not _is_refused_too_long(p, inference, promotion):
        _set(p, inference, inference.adapter, _marker(p, promotion, recording=True))
    return False


def _has_begun(p: Planning, promotion: Promotion) -> bool:
    """Whether this promotion's record may have been written."""
    entry = p.entry
    return entry is not None and entry.name == "promote" and entry.started_at > promotion.started_at


def _take_back(p: Planning, promotion: Promotion, reason: str, message: str) -> None:
    """Write down why it is taken back. That is done at the next look, which knows its own write by it."""
    if promotion.former == promotion.adapter:  # it stood there before
        _withhold(p, promotion, reason, message)
        return
    changed = promotion.model_copy(update={"phase": "Restoring", "reason": reason, "message": shortened(message)})
    p.set(promotion=changed)
    p.progressing("True", reason, f"{message}; the former adapter is brought back")
    p.emit(reason, f"{message}; the former adapter is brought back", is_warning=True)
    p.wake(p.now)


def _restore(p: Planning, inference: Inference, promotion: Promotion) -> None:
    """Bring back what was served before; when that is done, the candidate is withheld.

    A pod that takes no requests, and cannot be told, is not waited for: `heal` goes on telling it.
    """
    if inference.is_swapped:
        left = not_swapped_back(inference, promotion.former)
        p.actions += [Swap(pod, promotion.former) for pod in left]
        p.wake(after(p.now_written, _POLL_SECONDS))
        if not any(is_ready(pod) or (uid(pod), promotion.former) not in inference.swaps for pod in left):
            away = f"; {name(left[0])} is not ready, and has yet to load the former adapter" if left else ""
            _withhold(p, promotion, promotion.reason, f"{promotion.message}{away}")
        elif problem := next((one.problem for one in _said(inference, left, promotion.former) if one.problem), ""):
            message = f"{promotion.message}; the former adapter is not loaded: {problem}; a pod that is deleted has it"
            p.progressing("True", promotion.reason, message)
    elif inference.adapter == promotion.adapter:
        _set(p, inference, promotion.former, None)
    else:
        _withhold(p, promotion, promotion.reason, promotion.message)


def not_swapped_back(inference: Inference, former: str) -> list[Any]:
    """The pods that have yet to load what was served before: one that is not ready may be again, with the candidate."""
    return [pod for pod in inference.pods if may_serve(pod) and inference.swaps.get((uid(pod), former)) != Swapped()]


def _said(inference: Inference, pods: list[Any], adapter: str) -> list[Swapped]:
    """What pods said that were told to load an adapter."""
    return [one for pod in pods if (one := inference.swaps.get((uid(pod), adapter)))]


def _withhold(p: Planning, promotion: Promotion, reason: str, message: str) -> None:
    changed = promotion.model_copy(update={"phase": "Withheld", "reason": reason, "message": shortened(message)})
    p.set(promotion=changed)
    p.condition("Promoted", "False", reason, message)
