"""Where a cycle stands: read from its markers alone, in the shape of the resource's status."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from jobs.contracts.artifacts import finished_key
from jobs.contracts.records import Json
from jobs.contracts.stages import STAGES
from jobs.contracts.store import Store
from jobs.production import incumbent_of
from jobs.runner import read_marker

State = Literal["Pending", "Suspended", "Running", "AwaitingApproval", "Promoted", "NotPromoted", "Skipped", "Failed"]
ENDED: tuple[State, ...] = ("Promoted", "NotPromoted", "Skipped")
_FIRST_TRAINED = next(index for index, row in enumerate(STAGES) if row.is_retrained)


@dataclass(frozen=True, slots=True)
class Step:
    """A stage in one attempt of a cycle."""

    stage: str
    attempt: int = 0


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


def next_step(done: Step, result: Json) -> Step | None:
    """What follows a stage that gave this result; None behind the last, and where the cycle is skipped."""
    names = [row.name for row in STAGES]
    if done.stage == "window" and result.get("skipped"):
        return None
    if done.stage == "select" and result.get("outcome") == "Retrain":
        return Step(names[_FIRST_TRAINED], done.attempt + 1)
    for row in STAGES[names.index(done.stage) + 1 :]:
        if done.attempt == 0 or row.is_retrained or row.name == names[-1]:
            return Step(row.name, done.attempt)
    return None


def read_status(store: Store, cycle: str) -> Status:
    """The status of a cycle by what its store holds; that of one which has ended stays when its artifacts go."""
    if store.exists(finished_key(cycle)):
        return _finished(orjson.loads(store.get(finished_key(cycle))))
    status = Status(step=Step(STAGES[0].name))
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


def is_waiting(step: Step, result: Json) -> bool:
    """Whether a stage has finished without an end: a promotion that a person has yet to approve."""
    return step.stage == STAGES[-1].name and result.get("outcome") == "AwaitingApproval"


def _message(step: Step, marker: Json) -> str:
    """Why a cycle ends with a stage, in words; nothing for those that it does not end with."""
    result = marker["result"]
    if step.stage == "window" and result.get("skipped"):
        least = marker["config"]["min_new_messages"]
        return f"{result['num_new_train_messages']} new train messages came, and minNewMessages is {least}"
    return str(result.get("message", "")) if step.stage == STAGES[-1].name else ""


def _state(status: Status) -> State:
    window, promoted = status.result("window"), status.result("promote")
    if window is not None and window.get("skipped"):
        return "Skipped"
    if promoted is not None:
        return "Promoted" if promoted["outcome"] == "Promoted" else "NotPromoted"
    return "Running" if status.stages else "Pending"


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
