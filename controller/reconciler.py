"""The loop: archives that may have changed are observed, planned and applied, each by one worker at a time.

Events only say where to look. Every archive is looked at again every few minutes, for events get lost, and
whenever a plan asked for it. What goes wrong is tried again, later and later. Looks that are routine hold up
no others: with a thousand archives they take a while.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from controller import metrics
from controller.actions import Action, CreateJob, DeleteJob, PatchStatus, Plan
from controller.api import Api, ApiError
from controller.apply import Applier
from controller.cycles import Cycle
from controller.objects import STAGE, labels, moment, name
from controller.observe import Memory, archives, observe
from controller.observed import Observed
from controller.plan import heal, plan
from controller.settings import Settings
from jobs.contracts.cycle.status import State
from jobs.contracts.errors import RefrainError, TransientError

logger = logging.getLogger("refrain.controller")

_NUM_WORKERS = 8
"""For archives that have changed."""
_NUM_ROUTINE_WORKERS = 2
"""For those of which nothing is known but that they are there."""
_ROUTINE_PAUSE_SECONDS = 0.1
"""Between two of them, so that those that have changed find a thread; less where there are so many that a round of all
would take longer than the time between two rounds: settings are read, and liveness is told, once a round."""
_MOST_DELAY_SECONDS = 60.0
_SOON_SECONDS = 0.2
_HEAL_SECONDS = 5
_MOST_CONFLICTS = 10


@dataclass
class Reconciler:
    """Keeps one namespace's cycles going."""

    api: Api
    read_settings: Callable[[], Settings]
    settings: Settings
    last_resync: float = field(default_factory=time.monotonic)
    """When everything was last listed without an error, by the monotonic clock."""
    _memories: dict[str, Memory] = field(default_factory=dict)
    """By archive, while one of its cycles goes on."""
    _changed: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    _routine: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    _waiting: dict[str, asyncio.Queue[str]] = field(default_factory=dict)
    """By archive, the more urgent of the queues that it stands in; whichever it is taken from, it is taken once."""
    _working: set[str] = field(default_factory=set)
    _again: set[str] = field(default_factory=set)
    _failures: dict[str, int] = field(default_factory=dict)
    _timers: dict[str, asyncio.TimerHandle] = field(default_factory=dict)
    _held: set[str] = field(default_factory=set)
    """Archives that the API server has asked to wait with: no event cuts their time short."""

    def mark(self, archive: str, *, is_routine: bool = False) -> None:
        """An archive may have changed, or is looked at as a matter of routine. Called in the event loop's thread."""
        queue = self._routine if is_routine else self._changed
        if not archive or archive in self._held or self._waiting.get(archive) in (queue, self._changed):
            return
        if archive in self._working:
            self._again.add(archive)
            return
        self._waiting[archive] = queue
        queue.put_nowait(archive)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._resync())
            for _ in range(_NUM_WORKERS):
                group.create_task(self._work(self._changed))
            for _ in range(_NUM_ROUTINE_WORKERS):
                group.create_task(self._work(self._routine))

    async def _resync(self) -> None:
        most_pause = 0.0  # after a start all are looked at at once
        while True:
            await self._read_settings()
            try:
                found = await asyncio.to_thread(archives, self.api)
                self.last_resync = time.monotonic()
                if self.settings.inference is not None:  # whose last cycle may be gone
                    self.mark(self.settings.inference.archive)
                for archive in found:
                    self.mark(archive, is_routine=True)
                    await asyncio.sleep(min(most_pause, self.settings.resync_seconds / len(found)))
                most_pause = _ROUTINE_PAUSE_SECONDS
            except (ApiError, RefrainError) as error:
                logger.warning("resync: %s", error)
            except Exception:
                logger.exception("resync: a defect; please report it")
            await asyncio.sleep(self.settings.resync_seconds)

    async def _read_settings(self) -> None:
        """Read them again; where they cannot be read, those from before hold."""
        try:
            self.settings = await asyncio.to_thread(self.read_settings)
        except Exception as error:  # noqa: BLE001 - a typo in them must not stop what runs
            logger.error("the settings stay as they were: %s", error)

    async def _work(self, queue: asyncio.Queue[str]) -> None:
        while True:
            archive = await queue.get()
            if self._waiting.pop(archive, None) is None:  # it was taken from the other queue
                continue
            self._working.add(archive)
            delay = await self._safely(archive)
            self._working.discard(archive)
            has_changed = archive in self._again
            self._again.discard(archive)
            if has_changed and archive not in self._held:
                self.mark(archive)
            elif delay is not None:
                self._later(archive, delay)

    def _later(self, archive: str, seconds: float) -> None:
        if timer := self._timers.pop(archive, None):
            timer.cancel()
        self._timers[archive] = asyncio.get_running_loop().call_later(max(_SOON_SECONDS, seconds), self._wake, archive)

    def _wake(self, archive: str) -> None:
        self._held.discard(archive)
        self.mark(archive)

    async def _safely(self, archive: str) -> float | None:
        """Reconcile; in how many seconds to look again, None where events will say."""
        began = time.monotonic()
        try:
            wake = await asyncio.to_thread(self.reconcile, archive)
            self._failures.pop(archive, None)
            metrics.RECONCILES.labels("done").inc()
        except (ApiError, TransientError) as error:
            metrics.RECONCILES.labels("failed").inc()
            return self._backoff(archive, error)
        except Exception:
            metrics.RECONCILES.labels("defect").inc()
            logger.exception("archive %s: a defect; please report it", archive, extra={"archive": archive})
            return self._backoff(archive, None)
        finally:
            metrics.SECONDS.observe(time.monotonic() - began)
        return None if wake is None else (wake - datetime.now(UTC)).total_seconds()

    def _backoff(self, archive: str, error: Exception | None) -> float:
        failures = self._failures[archive] = self._failures.get(archive, 0) + 1
        if isinstance(error, ApiError) and error.status == 409 and failures <= _MOST_CONFLICTS:
            return _SOON_SECONDS  # written meanwhile: look again
        delay = float(min(_MOST_DELAY_SECONDS, 2.0 ** min(failures - 1, 10)))
        if isinstance(error, ApiError) and error.retry_after:
            delay = max(delay, error.retry_after)
            self._held.add(archive)
        if error is not None:
            logger.warning("archive %s: %s; again in %.0f s", archive, error, delay, extra={"archive": archive})
        return delay

    def reconcile(self, archive: str) -> datetime | None:
        """Look at one archive once, and do what is to be done; when to look again.

        Raises ApiError and TransientError; what was done before stands.
        """
        settings, now = self.settings, datetime.now(UTC)
        memory = self._memories.setdefault(archive, Memory())
        observed = observe(self.api, archive, settings, memory, now)
        is_promoting = observed.inference is not None and observed.inference.marker
        if all(cycle.has_ended for cycle in observed.cycles) and not is_promoting:
            del self._memories[archive]
        _note(archive, observed.cycles)
        healing = () if settings.paused else heal(observed.inference, observed.cycles)
        wakes: list[datetime] = [now + timedelta(seconds=_HEAL_SECONDS)] if healing else []
        errors: list[Exception] = []
        try:
            Applier(self.api, settings, memory, metrics.note_write).apply(healing, None)
        except Exception as error:  # noqa: BLE001 - the Deployment's trouble is not the cycles'
            errors.append(error)
        for cycle in observed.cycles:
            try:
                planned = self._plan(cycle, observed, settings, now)
                self._apply(planned, cycle, settings, memory)
            except Exception as error:  # noqa: BLE001 - one cycle's trouble is not the others'
                errors.append(error)
            else:
                wakes += [planned.wake] if planned.wake else []
        if errors:
            raise errors[0]
        return min(wakes, default=None)

    def _plan(self, cycle: Cycle, observed: Observed, settings: Settings, now: datetime) -> Plan:
        began = time.monotonic()
        planned = plan(cycle, observed, settings, now)
        metrics.PLAN_SECONDS.observe(time.monotonic() - began)
        return planned

    def _apply(self, planned: Plan, cycle: Cycle, settings: Settings, memory: Memory) -> None:
        for action in planned.actions:
            _log(action, cycle)
        Applier(self.api, settings, memory, metrics.note_write).apply(planned.actions, cycle)


def _note(archive: str, cycles: Sequence[Cycle]) -> None:
    """What metrics say of an archive."""
    metrics.note_states(archive, (cycle.status.state for cycle in cycles))
    created = (moment(cycle.order[0]).timestamp() for cycle in cycles)
    metrics.note_promotions(archive, _ends(cycles, "Promoted"), created)
    metrics.note_failures(archive, _ends(cycles, "Failed"))


def _ends(cycles: Sequence[Cycle], state: State) -> list[float]:
    """When those that ended in that state did."""
    ends = (cycle.status.completed_at for cycle in cycles if cycle.status.state == state)
    return [moment(ended).timestamp() for ended in ends if ended]


def _log(action: Action, cycle: Cycle) -> None:
    """A line for what begins, stops and changes; everything with --verbose."""
    told: dict[str, str] = {"cycle": cycle.name, "archive": cycle.archive}
    match action:
        case CreateJob():
            told |= {"stage": labels(action.manifest)[STAGE], "job": name(action.manifest)}
            logger.info("%s: %s begins as %s", cycle.name, told["stage"], told["job"], extra=told)
        case DeleteJob():
            logger.info("%s: %s is stopped", cycle.name, action.name, extra=told | {"job": action.name})
        case PatchStatus() if action.status.state != cycle.status.state:
            told |= {"stage": action.status.stage or "", "state": action.status.state}
            logger.info("%s: %s, was %s", cycle.name, action.status.state, cycle.status.state, extra=told)
        case _:
            logger.debug("%s: %s", cycle.name, type(action).__name__, extra=told)
