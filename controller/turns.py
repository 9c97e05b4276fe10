"""Whose turn it is: of one archive's cycles one at a time, in order of creation. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from controller.accepting import refused
from controller.cycles import Cycle, distinct
from controller.objects import CYCLE, label_value, labels
from controller.observed import Observed
from controller.settings import Settings
from jobs.contracts.cycle.status import MOST_SOURCES, MOST_SUPERSEDED


@dataclass(frozen=True, slots=True)
class Turn:
    """Whether a cycle may go on, and if not, what it waits for."""

    is_come: bool
    reason: str = ""
    message: str = ""
    takes: tuple[Cycle, ...] = ()
    """Queued cycles whose sources it takes over."""


def turn_of(cycle: Cycle, observed: Observed, settings: Settings) -> Turn:
    """A cycle's turn. It comes when no other of its archive runs, and no pod of it is left.

    Failed cycles do not block; suspended ones and those that wait for approval do. Of several that wait, the
    newest takes the sources of the others, which are superseded. Two that have begun at once (two controllers)
    go on in order.
    """
    holders = [one for one in observed.cycles if one.is_active and not one.is_deleting]
    if not holders:
        return _next_turn(cycle, observed, settings)
    first = min(holders, key=_hold)
    return Turn(is_come=True) if first.uid == cycle.uid else _behind(first)


def _hold(holder: Cycle) -> tuple[bool, str, tuple[str, str]]:
    """Of several that hold their archive the least one has it: a retried one may be suspended while it waits."""
    if not holder.is_at_rest:
        return False, "", holder.order
    return True, holder.status.started_at or "", holder.order


def _next_turn(cycle: Cycle, observed: Observed, settings: Settings) -> Turn:
    """The turn of a cycle that waits while no other runs."""
    waiting = [one for one in observed.cycles if _waits(one) and refused(one, settings) is None]
    blocking = next((one for one in waiting if _is_suspended(one) and one.order < cycle.order), None)
    # One that is retried has its mail already, and goes on before new ones begin.
    blocking = blocking or next((one for one in waiting if one.has_started and one.uid != cycle.uid), None)
    if blocking is not None and not (cycle.has_started and cycle.order < blocking.order):
        return _behind(blocking)
    if left := next((one for one in observed.live_pods() if labels(one).get(CYCLE) != label_value(cycle.name)), None):
        return Turn(is_come=False, reason="PodsLeft", message=f"waits for {observed.called(left)} to end")
    if cycle.has_started:
        return Turn(is_come=True)
    fresh = [one for one in waiting if not _is_suspended(one)]
    newest = max(fresh, key=lambda one: one.order)
    if newest.uid != cycle.uid:
        return Turn(is_come=False, reason="Superseded", message=f"{newest.name} is newer and takes its sources")
    return Turn(is_come=True, takes=tuple(_that_fit(cycle, [one for one in fresh if one.uid != cycle.uid])))


def _that_fit(cycle: Cycle, others: list[Cycle]) -> Iterator[Cycle]:
    """The cycles over the same store that one cycle's status can hold; the rest have a turn of their own later."""
    assert cycle.spec is not None
    taken = cycle.sources
    alike = [one for one in others if one.spec is not None and one.spec.store == cycle.spec.store]
    for one in alike[: MOST_SUPERSEDED - len(cycle.status.supersedes)]:
        taken = distinct(taken, one.sources)
        if len(taken) > MOST_SOURCES:
            return
        yield one


def superseding(cycle: Cycle, observed: Observed) -> Cycle | None:
    """The cycle that has taken the sources of this one, which has not begun."""
    if cycle.has_started:
        return None
    return next((one for one in observed.cycles if cycle.uid in one.status.supersedes), None)


def _waits(cycle: Cycle) -> bool:
    return not (cycle.has_ended or cycle.is_active or cycle.is_deleting)


def _is_suspended(cycle: Cycle) -> bool:
    return cycle.spec is not None and cycle.spec.suspend


def _behind(other: Cycle) -> Turn:
    state = "suspended" if _is_suspended(other) else other.status.state
    return Turn(is_come=False, reason="Queued", message=f"waits for {other.name}, which is {state}")
