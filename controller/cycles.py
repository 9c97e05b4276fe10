"""A RetrainCycle as the API server holds it, read leniently: a newer version may have written it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from controller.objects import Json, annotations_of, is_deleting, name, uid
from jobs.contracts.cycle import CycleSpec
from jobs.contracts.cycle.data import Source
from jobs.contracts.cycle.status import ENDED, CycleStatus, StageStatus

_MOST_UNKNOWN = 100
_HOLDING = ("Running", "AwaitingApproval", "Suspended")


@dataclass(frozen=True)
class Cycle:
    """One cycle, as it was read."""

    raw: Json
    spec: CycleSpec | None
    """None where it cannot be read: `problem` says why."""
    status: CycleStatus
    problem: str = ""
    unknown: tuple[str, ...] = ()
    """Fields of the spec that this version does not know; they are passed over."""
    status_problem: str = ""
    """Why its status cannot be read: another version is at work, and this one keeps its hands off."""

    @property
    def name(self) -> str:
        """Its name."""
        return name(self.raw)

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return str(self.raw["metadata"]["namespace"])

    @property
    def uid(self) -> str:
        """Its uid."""
        return uid(self.raw)

    @property
    def archive(self) -> str:
        """Which archive it works on."""
        return str((self.raw.get("spec") or {}).get("archive", ""))

    @property
    def order(self) -> tuple[str, str]:
        """Cycles of an archive have their turns in this order."""
        return str(self.raw["metadata"]["creationTimestamp"]), self.uid

    @property
    def generation(self) -> int:
        """Of the spec."""
        return int(self.raw["metadata"].get("generation", 0))

    @property
    def resource_version(self) -> str:
        """Of the object."""
        return str(self.raw["metadata"]["resourceVersion"])

    @property
    def annotations(self) -> Mapping[str, str]:
        """Its annotations."""
        return annotations_of(self.raw)

    @property
    def is_deleting(self) -> bool:
        """Whether it is on its way out."""
        return is_deleting(self.raw)

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left to do, a retry aside."""
        return self.status.state in ENDED

    @property
    def has_started(self) -> bool:
        """Whether its turn has come."""
        return self.status.started_at is not None

    @property
    def is_active(self) -> bool:
        """Whether it holds its archive: no other may run."""
        return self.has_started and not self.has_ended and (self._is_running or self.status.state in _HOLDING)

    @property
    def is_at_rest(self) -> bool:
        """Whether it is suspended, and nothing of it runs."""
        return self.status.state == "Suspended" and not self._is_running

    @property
    def _is_running(self) -> bool:
        return self.entry is not None and self.entry.state == "Running"

    @cached_property
    def entry(self) -> StageStatus | None:
        """The stage that was begun last."""
        return self.status.stages[-1] if self.status.stages else None

    @property
    def sources(self) -> list[Source]:
        """Its own sources behind those that it has taken over."""
        assert self.spec is not None
        return distinct(self.status.taken_sources, self.spec.sources)


def distinct(*lists: Iterable[Source]) -> list[Source]:
    """The sources of several lists in their order, each once."""
    return list(dict.fromkeys(source for one in lists for source in one))


def read_cycle(raw: Json) -> Cycle:
    """The cycle. Never raises: what cannot be read is said in `problem`, what is not known in `unknown`."""
    status, status_problem = _status(raw.get("status"))
    spec: Json = copy.deepcopy(raw.get("spec") or {})
    unknown: list[str] = []
    while len(unknown) < _MOST_UNKNOWN:
        try:
            read = CycleSpec.model_validate(spec)
            return Cycle(raw, read, status, unknown=tuple(unknown), status_problem=status_problem)
        except ValidationError as error:
            extra = [one["loc"] for one in error.errors() if one["type"] == "extra_forbidden"]
            if not extra:
                return Cycle(raw, None, status, _words(error), tuple(unknown), status_problem)
            for location in extra:
                unknown.append(f"spec.{'.'.join(map(str, location))}")
                _drop(spec, location)
    return Cycle(raw, None, status, "hardly any of its fields is known", tuple(unknown), status_problem)


def _status(raw: Any) -> tuple[CycleStatus, str]:
    """The status, and why it cannot be read. What another version has begun and not ended holds its archive."""
    try:
        return CycleStatus.model_validate(raw or {}), ""
    except ValidationError as error:
        said = raw if isinstance(raw, dict) else {}
        state = "Pending" if not said.get("startedAt") else "Failed" if said.get("completedAt") else "Running"
        started_at = str(said.get("startedAt") or "")[:32] or None
        return CycleStatus(state=state, started_at=started_at), _words(error)  # type: ignore[arg-type]


def _drop(spec: Any, location: tuple[int | str, ...]) -> None:
    for step in location[:-1]:
        if isinstance(spec, list) and not isinstance(step, int):
            continue
        spec = spec[step] if not isinstance(spec, dict) or step in spec else spec
    if isinstance(spec, dict):
        spec.pop(location[-1], None)


def _words(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, ("spec", *first["loc"])))
    return f"{place}: {first['msg']}"
