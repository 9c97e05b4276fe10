"""What to do next about a cycle. Pure: it reads no clock, no cluster and no store.

plan       one cycle, from apply to its end
turns      whose turn it is
running    the Job of one stage, and what comes behind it
promoting  the inference Deployment, between `select` and `promote`
healing    a promotion that no cycle pursues any more
"""

from __future__ import annotations

from datetime import datetime

from controller.accepting import refused
from controller.actions import DeleteCycle, ForgetRefusal, Plan
from controller.cycles import Cycle, distinct
from controller.deadlines import late_cycle
from controller.healing import heal
from controller.manifests import ranks_service
from controller.objects import RETRY, after, name
from controller.observed import Observed
from controller.planning import Planning
from controller.promoting import give_up
from controller.running import advance, note_finished, run_out, stop
from controller.settings import Settings
from controller.status import condition_of
from controller.turns import superseding, turn_of

__all__ = ["heal", "plan"]


def plan(cycle: Cycle, observed: Observed, settings: Settings, now: datetime) -> Plan:
    """The actions that bring a cycle one step further, none where nothing has changed.

    Doing them once more, all or some, does no harm: names are functions of what they stand for.
    """
    planning = Planning(cycle, observed, settings, now)
    if not (cycle.is_deleting or settings.paused or cycle.status_problem):
        _decide(planning)
    return planning.plan()


def _decide(p: Planning) -> None:
    if p.cycle.has_ended:
        _after_the_end(p)
        return
    if _is_accepted(p):
        _follow(p)
    elif p.cycle.has_started:
        _stand_still(p)
    _note_retry(p)


def _follow(p: Planning) -> None:
    other = superseding(p.cycle, p.observed)
    if other is not None:
        p.end("Skipped", "Superseded", f"{other.name} was newer and has taken its sources")
    elif late := _late(p):
        run_out(p, late)
    elif p.spec.suspend:
        _suspend(p)
    else:
        _take_turn(p)


def _late(p: Planning) -> str:
    """That the cycle has had its time, in words. What is retried has its own from when its turn comes again."""
    return late_cycle(p) if p.cycle.is_active else ""


def _is_accepted(p: Planning) -> bool:
    """Whether the spec can be followed; what cannot be is said, and left to a controller that can."""
    if (why := refused(p.cycle, p.settings)) is not None:
        before = condition_of(p.status, "Accepted")
        p.condition("Accepted", "False", *why)
        if before is None or before.reason != why[0]:
            p.emit(*why, is_warning=True)
        return False
    if p.cycle.unknown:
        fields = ", ".join(p.cycle.unknown[:10])
        message = f"written by a newer version; fields that are not known here are passed over: {fields}"
        p.condition("Accepted", "True", "UnknownFields", message)
    else:
        p.condition("Accepted", "True", "Accepted", "the spec is followed as it stands")
    return True


def _stand_still(p: Planning) -> None:
    """What has begun and is not accepted any more may be suspended, and has its deadline; its Job runs to its end."""
    give_up(p)
    is_read = p.cycle.spec is not None
    if is_read and (late := _late(p)):
        run_out(p, late)
    elif is_read and p.spec.suspend:
        _suspend(p)
    elif said := condition_of(p.status, "Accepted"):
        p.condition("Progressing", "False", said.reason, f"{said.message}; until then no further stage is begun")


def _note_retry(p: Planning) -> None:
    """A retry that nothing had failed for is remembered as seen, so that it does not come into effect later.

    Where the failure is seen just now, a person may have seen it before: then the retry counts.
    """
    asked = p.cycle.annotations.get(RETRY, "")
    if asked != p.status.retry and p.status.state != "Failed":
        p.set(retry=asked[:253])


def _suspend(p: Planning) -> None:
    """Stop what runs; the Job is deleted with its pods, which save."""
    note_finished(p)
    stop(p)
    give_up(p)
    if (entry := p.entry) is not None and entry.state == "Running":
        p.set_entry(state="Suspended", completed_at=p.now_written, asks="", message="")
    p.set(state="Suspended", progress=None)
    p.progressing("False", "Suspended", "spec.suspend is true: set it to false to go on")


def _take_turn(p: Planning) -> None:
    turn = turn_of(p.cycle, p.observed, p.settings)
    if not turn.is_come:
        p.set(state="Queued")
        p.progressing("Unknown", turn.reason, turn.message)
        return
    if not p.cycle.is_active:
        p.set(state="Running", started_at=p.now_written)
    if p.cycle.is_active or (p.cycle.has_started and p.status.stages):
        advance(p)
        return
    taken = distinct(p.status.taken_sources, *(one.sources for one in turn.takes))
    p.set(
        supersedes=[*p.status.supersedes, *(one.uid for one in turn.takes)],
        taken_sources=taken,
    )
    names = ", ".join(one.name for one in turn.takes)
    said = f"its turn has come; it takes the sources of {names}" if names else "its turn has come"
    p.progressing("True", "Started", said)
    p.emit("Started", said)


def _after_the_end(p: Planning) -> None:
    """Retry what failed, or delete what has stayed long enough."""
    asked = p.cycle.annotations.get(RETRY, "")[:253]
    if p.status.state == "Failed" and asked and asked != p.status.retry and p.cycle.spec is not None:
        _retry(p, asked)
        return
    if p.cycle.spec is None or p.status.completed_at is None:
        return
    at = after(p.status.completed_at, p.spec.ttl_seconds_after_finished)
    p.wake(at)
    if p.now >= at:
        p.actions.append(DeleteCycle(p.cycle.name, p.cycle.uid))


def _retry(p: Planning, asked: str) -> None:
    """From the failed stage on; what has succeeded is kept. It waits for its turn as any other."""
    if (entry := p.entry) is not None and entry.state == "Failed":
        p.set_entry(state="Suspended", losses=0, lost_seconds=0, message="", asks="")
    if p.entry is not None and (service := ranks_service(p, p.entry)) is not None:
        p.actions.append(ForgetRefusal(name(service)))  # each run has a Job of its own, but all have this one
    p.set(state="Queued", started_at=p.now_written, completed_at=None, retry=asked, promotion=None)
    p.forget("Complete", "Succeeded", "Promoted")
    p.condition("Progressing", "Unknown", "Retried", f"retried: {RETRY}={asked}")
    p.emit(f"Retried-{asked}"[:63], f"goes on from {p.entry.name if p.entry else 'the beginning'}")
