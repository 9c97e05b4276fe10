"""What `refrain run` does with a cycle: owns its archive, runs it, tells of it, and cleans up behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from jobs.assignments.archive import Archive
from jobs.contracts.artifacts import finished_key
from jobs.contracts.cycle import RetrainCycle
from jobs.contracts.errors import MissingInputError, RefrainError, StoppedError
from jobs.contracts.markers import read_result
from jobs.contracts.progression import FIRST_STEP, Step
from jobs.contracts.records import Json
from jobs.contracts.shares import Gathering, Share
from jobs.contracts.stages import stage
from jobs.contracts.store import Store, StoreOptions, open_store
from jobs.contracts.words import counted
from jobs.local.cautions import older_windows
from jobs.local.configs import Machine, ignored_fields
from jobs.local.owner import claimed, owned, require_own, require_unclaimed
from jobs.local.places import USES_BASE, reach, require_base
from jobs.local.retention import clean_up
from jobs.local.running import CycleRun, Done
from jobs.local.status import Status, read_status, report, write_finished
from jobs.local.telling import lines_of, name_of, note_line
from jobs.stages import promote


@dataclass(slots=True)
class Session:
    """One call of `refrain run`."""

    cycle: RetrainCycle
    """With its paths located."""
    url: str
    """The archive's."""
    say: Callable[[str], object]
    """Takes a line for the user."""
    machine: Machine = field(default_factory=Machine)
    again: bool = False
    cleanup: bool = True
    owner: str | None = None
    """Who runs the stages of this archive one by one, and holds others off it."""
    withhold: str | None = None
    """`Reason: message`: why the winner is not put into service after all."""
    share: Share | Gathering | None = None
    """Of the one stage that is run: the share that this machine does, or that the shares are put together."""
    begin: Callable[[str], object] = lambda _name: None
    """Takes the name of a stage that begins."""
    file: str = ""
    """The cycle's, for errors to name it."""
    result: Json | None = field(default=None, init=False)
    """What the one stage gave back that was run alone; None where there was nothing to do."""
    _options: StoreOptions = field(init=False)
    _run: CycleRun | None = None

    def __post_init__(self) -> None:
        self._options = reach(self.cycle.spec.store)

    def run(self, until: str | None = None, *, take_over: bool = False) -> Status:
        """Run what is left of the cycle; how it stands then. Raises what the stages raise, and `owned`."""
        if self.cycle.spec.suspend:
            return self._suspended()
        if (status := self._finished_before()) is not None:
            return status
        require_base(self.cycle, self.file)
        if ignored := ignored_fields(self.cycle.spec):
            self.say(f"note: without a cluster these fields do nothing: {', '.join(ignored)}")
        with owned(self.url, self._name, self._options, say=self.say, take_over=take_over) as own:
            run = self._begin(own.store, own.check)
            return self._close(own.store, run.run(until))

    def run_only(self, step: Step, *, take_over: bool = False) -> Status:
        """Run one stage, for who schedules stages; how the cycle stands then.

        With an `owner` the archive is claimed for them, and stays so; without one they hold others off it
        themselves. Whether the cycle is suspended is for them to see: a stage that they start has to run. Raises
        what the stage raises, and `claimed`.
        """
        if (status := self._finished_before()) is not None:
            if self.owner and not take_over:  # a cycle of that name which ended there is not theirs
                require_own(open_store(self.url, self._options, read_only=True), self.owner)
            self.result = self._finished_result(step)
            return status
        if step.stage in USES_BASE and not isinstance(self.share, Gathering):
            require_base(self.cycle, self.file)
        if stage(step.stage).after:  # only the first stage may begin an archive: a mistyped URL must not
            open_store(self.url, self._options, read_only=True)
        store = self._claimed(take_over=take_over)
        self.result = self._begin(store, lambda: None).run_one(step)
        return self._close(store, read_status(store, self._name))

    def _claimed(self, *, take_over: bool) -> Store:
        if self.owner:
            owner, say = self.owner, self.say
            return claimed(self.url, self._name, self._options, owner=owner, say=say, take_over=take_over)
        store = open_store(self.url, self._options)
        require_unclaimed(store, take_over=take_over)
        return store

    def _finished_result(self, step: Step) -> Json | None:
        """The stage's result in a cycle that has ended; ConfigError where its promotion is to be withheld now."""
        store = open_store(self.url, self._options, read_only=True)
        result = read_result(store, step.stage, self._name, step.attempt)
        if step.stage == "promote" and result is not None:
            promote.check_finished(promote.Config(withhold=self.withhold), result)
        return result

    @property
    def _name(self) -> str:
        return self.cycle.metadata.name

    def _suspended(self) -> Status:
        """The status of a cycle that is suspended; nothing is done."""
        self.say(f"{self._name}: spec.suspend is true: nothing is done until it is false")
        status = self._status()
        return status if status.has_ended else Status("Suspended", status.step, status.stages)

    def _finished_before(self) -> Status | None:
        """The status of a cycle that has ended; None where there is something to do."""
        if self.again or not self._is_finished():
            return None
        status = self._status()
        self.say(f"{self._name} has finished: {_ending(status)}. Nothing was done now; --again runs it once more")
        return status

    def _is_finished(self) -> bool:
        """Whether the cycle has ended and that is written down: a run that was killed in between does so."""
        try:
            return open_store(self.url, self._options, read_only=True).exists(finished_key(self._name))
        except MissingInputError:
            return False

    def _status(self) -> Status:
        """How the cycle stands, without touching the archive."""
        try:
            return read_status(open_store(self.url, self._options, read_only=True), self._name)
        except MissingInputError:
            return Status(step=FIRST_STEP)

    def _begin(self, store: Store, check: Callable[[], object]) -> CycleRun:
        if self.again:
            store.delete(finished_key(self._name))
        self._run = CycleRun(
            self.cycle, Archive(store), self._tell, check=check, machine=self.machine, again=self.again
        )
        self._run.begin = lambda step: self.begin(name_of(step))
        self._run.withhold = self.withhold
        self._run.share = self.share
        return self._run

    def _tell(self, done: Done) -> None:
        for line in lines_of(done):
            self.say(line)
        if done.step.stage == "window" and not done.had_finished:
            for note in older_windows(self._split_result(), done.result, self.cycle.spec.window.period):
                self.say(note_line(note))

    def _split_result(self) -> Json:
        assert self._run is not None
        return read_result(self._run.archive.store, "split", self._name, 0) or {}

    def _close(self, store: Store, status: Status) -> Status:
        """Tell how the cycle stands. Where it has ended, delete what is not to be kept, and write its end down last."""
        if not status.has_ended:
            following = f"next is {status.step.stage}" if status.step else "nothing is left to run"
            self.say(f"{self._name}: {_ending(status) if status.state == 'AwaitingApproval' else following}")
            return status
        self.say(f"{self._name}: {_ending(status)}")
        if self.cleanup and (num_deleted := clean_up(store, self.cycle.spec.retention, (self._name, status))):
            self.say(f"retention: {counted(num_deleted, 'object')} of old cycles and checkpoints deleted")
        write_finished(store, self._name, status)
        return status

    def report(self, status: Status) -> Json:
        """The status as JSON."""
        try:
            return report(open_store(self.url, self._options, read_only=True), self._name, status)
        except MissingInputError:
            return report(None, self._name, status)

    def failed(self, error: RefrainError) -> Json:
        """The status as JSON after an error."""
        status = self._status()
        if isinstance(error, StoppedError):  # it has saved, and goes on another time
            return self.report(status)
        step = self._run.current if self._run else None
        return self.report(Status("Failed", step or status.step, status.stages, str(error)))


def _ending(status: Status) -> str:
    return f"{status.state}: {status.message}" if status.message else status.state
