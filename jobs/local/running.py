"""All stages of a cycle, one after another, until it has ended or has to wait for somebody."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from jobs.assignments.archive import Archive
from jobs.contracts.artifacts import artifact_key
from jobs.contracts.cycle import RetrainCycle
from jobs.contracts.errors import ConfigError
from jobs.contracts.markers import forget_after
from jobs.contracts.progression import FIRST_STEP, Step, is_waiting, next_step
from jobs.contracts.records import Json
from jobs.contracts.shares import Gathering, Share
from jobs.local.configs import Machine, stage_config
from jobs.local.places import USES_BASE, pinned, pinned_embedding
from jobs.local.spec_fields import field_of
from jobs.local.speed import note_speed
from jobs.local.status import Status, read_status
from jobs.runner import FINISHED_BEFORE, OtherSettingsError, run_in_archive
from jobs.shares import read_shares, run_share


@dataclass(frozen=True, slots=True)
class Done:
    """A stage that has just finished, or had finished before."""

    step: Step
    result: Json
    seconds: float
    had_finished: bool


@dataclass(slots=True)
class CycleRun:
    """Runs the stages of one cycle over one archive; what is finished already is not done again."""

    cycle: RetrainCycle
    """With its paths located (`jobs.local.places`)."""
    archive: Archive
    tell: Callable[[Done], object] = lambda _done: None
    """Called after every stage."""
    begin: Callable[[Step], object] = lambda _step: None
    """Called when a stage begins."""
    check: Callable[[], object] = lambda: None
    """Called before every stage: raises where this run must not go on."""
    machine: Machine = field(default_factory=Machine)
    again: bool = False
    """Do each stage once more, finished or not; what comes behind it has not finished any more."""
    withhold: str | None = None
    """`Reason: message`: why promote is to keep the winner out of service."""
    share: Share | Gathering | None = None
    """Of a stage that several machines do: which share of it, or that they are put together; None: all of it."""
    current: Step | None = None
    """The stage that is running, or that failed."""

    def run(self, until: str | None = None) -> Status:
        """Run what is left of the cycle, up to and including a stage; how it stands then.

        With `until` a stage of the first attempt is meant; `select` ends with the last attempt's. Raises what
        the stages raise.
        """
        step: Step | None = FIRST_STEP
        while step is not None:
            result = self.run_one(step)
            following = None if is_waiting(step, result) else next_step(step, result)
            if step.stage == until and not (following and following.attempt > step.attempt):
                break
            step = following
        return read_status(self.archive.store, self.cycle.metadata.name)

    def run_one(self, step: Step) -> Json:
        """Run one stage, whatever comes behind it; its result."""
        self.check()
        self.current = step
        self.begin(step)
        if self.again or step.stage in USES_BASE:  # before split's marker, which says the commit, is forgotten
            self.cycle = pinned(self.cycle, self.archive.store)
        if step.stage == "index":
            self.cycle = pinned_embedding(self.cycle, self.archive.store)
        if self.again:
            forget_after(self.archive.store, self.cycle.metadata.name, step)
        is_begun = step.stage == "train" and self._has_checkpoints(step)
        started = time.monotonic()
        result = self._result_of(step)
        done = Done(step, result, time.monotonic() - started, bool(result.pop(FINISHED_BEFORE, False)))
        if step.stage == "train" and not (done.had_finished or is_begun):
            note_speed(self.archive.store, result, done.seconds)
        self.tell(done)
        return result

    def _result_of(self, step: Step) -> Json:
        config = self._config(step)
        place: dict[str, Any] = {"cycle": self.cycle.metadata.name, "attempt": step.attempt}
        try:
            if isinstance(self.share, Share):
                return run_share(step.stage, config, self.archive, **place, share=self.share, again=self.again)
            parts = read_shares(step.stage, config, self.archive, **place, gathering=self.share) if self.share else None
            return run_in_archive(step.stage, config, self.archive, **place, again=self.again, once=True, parts=parts)
        except OtherSettingsError as error:
            raise _by_the_file(error, step) from error

    def _config(self, step: Step) -> Any:
        config = stage_config(step.stage, self.cycle, step.attempt, self.machine)
        return replace(config, withhold=self.withhold) if step.stage == "promote" else config

    def _has_checkpoints(self, step: Step) -> bool:
        """Whether a run before this one has trained a part already."""
        prefix = artifact_key(self.cycle.metadata.name, step.stage, "checkpoints", step.attempt)
        return any(True for _ in self.archive.store.list(f"{prefix}/"))


def _by_the_file(error: OtherSettingsError, step: Step) -> ConfigError:
    """The same in the words of the cycle's file."""
    changed = [
        f"{field_of(setting) or setting} from {_shown(before)} to {_shown(asked)}"
        for setting, (before, asked) in error.changed.items()
    ]
    attempt = f" --attempt {step.attempt}" if step.attempt else ""
    return ConfigError(
        f"{step.stage} has finished, and the file has changed since: {', '.join(changed)}",
        where="spec",
        hint="set it back; or give the file another metadata.name, for a new cycle; or run the stage anew: "
        f"refrain run --only {step.stage}{attempt} --again",
    )


def _shown(value: Any) -> str:
    """A setting as a file has it."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()
