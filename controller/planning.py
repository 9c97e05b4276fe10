"""A plan in the making: the status as it is to be, and what is to be done for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from controller.actions import Action, Emit, PatchStatus, Plan
from controller.cycles import Cycle
from controller.objects import written
from controller.observed import Observed
from controller.settings import Settings
from controller.status import Truth, condition_of, ended, shortened, with_condition, without_condition
from jobs.contracts.cycle import CycleSpec
from jobs.contracts.cycle.status import CycleStatus, StageStatus, State


@dataclass
class Planning:
    """Collects what a plan decides about one cycle."""

    cycle: Cycle
    observed: Observed
    settings: Settings
    now: datetime
    status: CycleStatus = field(init=False)
    actions: list[Action] = field(default_factory=list)
    _wakes: list[datetime] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.status = self.cycle.status

    @property
    def spec(self) -> CycleSpec:
        """The cycle's spec, which can be read."""
        assert self.cycle.spec is not None
        return self.cycle.spec

    @property
    def entry(self) -> StageStatus | None:
        """The stage that was begun last, as it is to be said."""
        return self.status.stages[-1] if self.status.stages else None

    def set(self, **fields: Any) -> None:
        """Change fields of the status."""
        self.status = self.status.model_copy(update=fields)

    def set_entry(self, **fields: Any) -> StageStatus:
        """Change the newest stage's entry."""
        changed = self.status.stages[-1].model_copy(update=fields)
        self.set(stages=[*self.status.stages[:-1], changed])
        return changed

    def condition(self, kind: str, truth: Truth, reason: str, message: str = "") -> None:
        """Say something of the cycle."""
        self.status = with_condition(
            self.status, kind, truth, reason, message, now=self.now, generation=self.cycle.generation
        )

    def forget(self, *kinds: str) -> None:
        """Say it no longer."""
        self.status = without_condition(self.status, *kinds)

    def progressing(self, truth: Truth, reason: str, message: str) -> None:
        """Say how it goes on, and tell people, once, where it does not."""
        before = condition_of(self.status, "Progressing")
        self.condition("Progressing", truth, reason, message)
        if truth != "True" and (before is None or before.reason != reason):
            self.emit(reason, message, is_warning=truth == "False")

    def end(self, state: State, reason: str, message: str) -> None:
        """The cycle ends."""
        self.status = ended(self.status, state, reason, message, now=self.now, generation=self.cycle.generation)
        self.emit(reason if state != "Promoted" else "Promoted", f"{state}: {message}", is_warning=state == "Failed")

    def emit(self, reason: str, message: str, *, is_warning: bool = False) -> None:
        """An Event, once for this stage's run."""
        entry = self.entry
        place = f"{entry.name}.{entry.attempt}.{entry.run}" if entry else "cycle"
        self.actions.append(Emit(f"{place}.{reason}".lower(), reason, shortened(message), is_warning))

    def wake(self, at: datetime) -> None:
        """Look again then."""
        self._wakes.append(at)

    def plan(self) -> Plan:
        """The plan. The status is written last, where it differs: what it tells of has been done by then."""
        actions = list(self.actions)
        self._observe_generation()
        if self.status != self.cycle.status:
            actions.append(PatchStatus(self.cycle.name, self.cycle.resource_version, self.status))
        return Plan(tuple(actions), min(self._wakes, default=None))

    def _observe_generation(self) -> None:
        """What is said holds of the spec as it stands now: `kubectl wait` passes over a condition of an older one."""
        if not self.status.conditions:
            return
        generation = self.cycle.generation
        conditions = [one.model_copy(update={"observed_generation": generation}) for one in self.status.conditions]
        self.set(observed_generation=generation, conditions=conditions)

    @property
    def now_written(self) -> str:
        """The moment as it stands in a status."""
        return written(self.now)
