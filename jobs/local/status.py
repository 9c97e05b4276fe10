"""Where a cycle stands: read from its markers alone, in the shape of the resource's status."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from jobs.contracts.artifacts import finished_key
from jobs.contracts.cycle.status import ENDED, State
from jobs.contracts.markers import read_marker
from jobs.contracts.progression import FIRST_STEP, Step, ended_as, is_waiting, next_step, why_skipped
from jobs.contracts.records import Json
from jobs.contracts.stages import STAGES
from jobs.contracts.store import Store
from jobs.production import incumbent_of


@dataclass(slots=True)
class Status:
    """How far a cycle has come."""

    state: State = "Pending"
    step: Step | None = None
    """What comes next; None where nothing does."""
    stages: list[Json] = field(default_factory=list)
    """Those that have finished, in the order in which they ran: name, attempt, result."""
    message: str = ""
    """Why it ended as it did."""

    def result(self, stage: str) -> Json | None:
        """What the newest attempt of a stage gave back; None where it has not finished."""
        return next((one["result"] for one in reversed(self.stages) if one["name"] == stage), None)

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left to do."""
        return self.state in ENDED


def read_status(store: Store, cycle: str) -> Status:
    """The status of a cycle by what its store holds; that of one which has ended stays when its artifacts go."""
    if store.exists(finished_key(cycle)):
        return _finished(orjson.loads(store.get(finished_key(cycle))))
    status = Status(step=FIRST_STEP)
    while status.step is not None:
        step = status.step
        marker = read_marker(store, step.stage, cycle, step.attempt if step.stage != STAGES[-1].name else 0)
        if marker is None:
            break
        status.message = _message(step, marker)
        if is_waiting(step, marker["result"]):
            status.state = "AwaitingApproval"
            return status
        entry = {"name": step.stage, "state": "Succeeded", "attempt": step.attempt, "result": marker["result"]}
        status.stages.append(entry)
        status.step = next_step(step, marker["result"])
    status.state = _state(status)
    return status


def _message(step: Step, marker: Json) -> str:
    """Why a cycle ends with a stage, in words; nothing for those that it does not end with."""
    result = marker["result"]
    if step.stage == "window" and result.get("skipped"):
        return why_skipped(result, marker["config"]["min_new_messages"])
    return str(result.get("message", "")) if step.stage == STAGES[-1].name else ""


def _state(status: Status) -> State:
    ended = ended_as({one["name"]: one["result"] for one in status.stages})
    return ended or ("Running" if status.stages else "Pending")


def write_finished(store: Store, cycle: str, status: Status) -> None:
    """Keep how a cycle has ended. Writing it again changes nothing."""
    data = orjson.dumps(_plain(status), option=orjson.OPT_INDENT_2)
    if not store.exists(finished_key(cycle)):
        store.put(finished_key(cycle), data)


def _plain(status: Status) -> Json:
    return {"state": status.state, "message": status.message, "stages": status.stages}


def _finished(value: Json) -> Status:
    return Status(value["state"], None, value["stages"], value["message"])


def report(store: Store | None, cycle: str, status: Status) -> Json:
    """The status as JSON, in the shape of the resource's."""
    window, decision = status.result("window"), status.result("select")
    incumbent = incumbent_of(store, cycle) if store else None
    said: dict[str, Any] = {
        "state": status.state,
        "stage": status.step.stage if status.step else None,
        "attempt": status.step.attempt if status.step else None,
        "windowIdx": window["window_idx"] if window else None,
        "message": status.message,
        "stages": status.stages,
        "candidate": decision.get("candidate") if decision else None,
        "incumbent": {"adapter": incumbent.adapter, "sha256": incumbent.sha256} if incumbent else None,
        "decision": decision,
    }
    return said
