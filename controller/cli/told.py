"""A cycle in words: as it stands, and what has changed about it. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from datetime import datetime

from controller.cli.advice import what_to_do
from controller.cli.tables import age, at, duration, plain, progress_words, result_words, stage_table, took
from controller.cycles import Cycle
from controller.objects import Json, moment
from controller.status import condition_of
from jobs.contracts.cycle.status import Adapter, Condition, StageStatus
from jobs.contracts.errors import RefrainError, TransientError

_EXIT_CODE = re.compile(r"\(exit code (\d+)\)")
_STEP_PERCENT = 10


def described(cycle: Cycle, events: Collection[Json], now: datetime) -> Iterator[str]:
    """A cycle for `show`."""
    yield from _fields(_essentials(cycle, now))
    if cycle.status.stages:
        yield ""
        yield from stage_table(cycle.status.stages, now)
    if cycle.status.conditions:
        yield ""
        yield "CONDITIONS"
    for one in cycle.status.conditions:
        yield from _condition(cycle, one, now)
    if events:
        yield ""
        yield "EVENTS"
    for event in events:
        said = f"{event.get('type', '')} {event.get('reason', '')}: {event.get('message', '')}"
        yield f"  {_ago(_moment_of(event), now)}  {plain(said)}"


def _fields(fields: Iterator[tuple[str, str]]) -> Iterator[str]:
    for label, text in fields:
        if text:
            yield f"{label:<10}{plain(text)}"


def _essentials(cycle: Cycle, now: datetime) -> Iterator[tuple[str, str]]:
    status, metadata = cycle.status, cycle.raw["metadata"]
    yield "cycle", f"{cycle.name} in namespace {cycle.namespace}, created {_ago(metadata['creationTimestamp'], now)}"
    yield "state", state_words(cycle)
    if cycle.spec is None:
        yield "problem", cycle.problem
    else:
        spec = cycle.spec
        yield "archive", f"{cycle.archive} in {spec.store.url}"
        yield "sources", ", ".join(map(str, cycle.sources)) or "none: what is in the log already"
        yield "model", f"{spec.model.base}, from {spec.model.start_from}"
        yield "promotion", f"{spec.promotion.mode}"
    yield "window", str(status.window_idx) if status.window_idx is not None else ""
    yield "candidate", adapter_words(status.candidate)
    yield "incumbent", adapter_words(status.incumbent)
    yield "decision", decision_words(cycle)


def state_words(cycle: Cycle) -> str:
    """Where it stands: `Running: train, attempt 1, 43%, 21m left`."""
    status = cycle.status
    parts = [status.stage or "", f"attempt {status.attempt}" if status.attempt else ""]
    parts += [progress_words(status.progress)] if status.progress else []
    said = ", ".join(filter(None, parts))
    return f"{status.state}: {said}" if said else status.state


def adapter_words(adapter: Adapter | None) -> str:
    """An adapter with its digest and scores."""
    if adapter is None:
        return ""
    scores = ", ".join(f"{name} {value:.4g}" for name, value in adapter.scores.items() if isinstance(value, float))
    return " ".join(filter(None, (adapter.adapter or "the bare base model", adapter.sha256, scores)))


def decision_words(cycle: Cycle) -> str:
    """What `select` decided: `Promote (Better): +0.1000 (+0.0500 to +0.1500): …`."""
    decision = cycle.status.decision
    if decision is None:
        return ""
    interval = decision.interval or []
    ends = f" ({interval[0]:+.4f} to {interval[1]:+.4f})" if len(interval) == 2 else ""
    gain = f": {decision.delta:+.4f}{ends}" if decision.delta is not None else ""
    reason = f" ({decision.reason})" if decision.reason else ""
    return f"{decision.outcome}{reason}{gain}" + (f": {decision.message}" if decision.message else "")


def _condition(cycle: Cycle, one: Condition, now: datetime) -> Iterator[str]:
    yield f"  {one.type} {one.status}: {one.reason}, {_ago(one.last_transition_time, now)}"
    if one.message:
        yield f"    {plain(one.message)}"
    todo = what_to_do(one.reason, cycle.name, cycle.status.stage or "STAGE")
    if todo and not (cycle.has_ended and one.type not in ("Succeeded", "Accepted")):
        yield f"    → {todo}"


def _moment_of(event: Json) -> str:
    return str(
        event.get("lastTimestamp")
        or event.get("eventTime")
        or event.get("firstTimestamp")
        or event["metadata"]["creationTimestamp"]
    )


def newest(events: Collection[Json], most: int) -> list[Json]:
    """The newest events, the oldest of them first."""
    return sorted(events, key=lambda event: moment(_moment_of(event)))[-most:]


def _ago(time: str, now: datetime) -> str:
    return f"{age(time, now)} ago"


def changes(before: Cycle | None, after: Cycle, now: datetime) -> Iterator[str]:
    """What is new about a cycle since it was read before, a line each, with the moment of each."""
    known = {(one.name, one.attempt): one for one in before.status.stages} if before else {}
    for entry in after.status.stages:
        former = known.get((entry.name, entry.attempt))
        if former is None or (former.run, former.state) != (entry.run, entry.state):
            yield _stage_line(entry, now)
    yield from _progressing_line(before, after)
    yield from _progress_line(before, after)


def _stage_line(entry: StageStatus, now: datetime) -> str:
    label = f"{entry.name}, attempt {entry.attempt}" if entry.attempt else entry.name
    time = at(entry.completed_at or entry.started_at)
    match entry.state:
        case "Running":
            return f"{time}  {label}: runs as {entry.job}"
        case "Succeeded":
            said = result_words(entry.result)
            return f"{time}  {label}: done in {took(entry, now)}" + (f": {said}" if said else "")
        case "Suspended":
            return f"{time}  {label}: stopped"
        case _:
            return f"{time}  {label}: failed after {took(entry, now)}"


def _progressing_line(before: Cycle | None, after: Cycle) -> Iterator[str]:
    one = condition_of(after.status, "Progressing")
    former = condition_of(before.status, "Progressing") if before else None
    if one is None or one.reason == "StageRunning" or (former and former.reason == one.reason):
        return
    todo = what_to_do(one.reason, after.name, after.status.stage or "STAGE") if one.status != "True" else ""
    yield f"{at(one.last_transition_time)}  {one.reason}: {plain(one.message)}" + (f"; {todo}" if todo else "")


def _progress_line(before: Cycle | None, after: Cycle) -> Iterator[str]:
    """A line for every ten percent."""
    progress, former = after.status.progress, before.status.progress if before else None
    if progress is None or progress.percent is None:
        return
    same_stage = before is not None and before.status.stage == after.status.stage
    last = former.percent if same_stage and former and former.percent is not None else -1.0
    if progress.percent // _STEP_PERCENT > last // _STEP_PERCENT:
        yield f"{at(progress.at or '')}  {after.status.stage}: {progress_words(progress)}"


def status_line(cycle: Cycle, now: datetime) -> str:
    """What a terminal shows while nothing changes: a bar where the stage tells how far it is."""
    entry, progress = cycle.entry, cycle.status.progress
    if progress is not None and progress.percent is not None:
        done = round(progress.percent / 5)
        return f"{cycle.status.stage} {'█' * done}{'░' * (20 - done)} {progress_words(progress)}"
    if entry is not None and entry.state == "Running":
        return f"{state_words(cycle)}, for {took(entry, now)}"
    since = condition_of(cycle.status, "Progressing")
    waits = f", for {duration((now - moment(since.last_transition_time)).total_seconds())}" if since else ""
    return f"{state_words(cycle)}{waits}"


def end_words(cycle: Cycle) -> str:
    """How it ended, and why."""
    one = condition_of(cycle.status, "Complete")
    return f"{cycle.status.state}: {plain(one.message) or one.reason}" if one else cycle.status.state


def failure(cycle: Cycle) -> RefrainError:
    """The error of a cycle that has failed: with the exit code of its stage, or that of what a retry may help."""
    one = condition_of(cycle.status, "Succeeded")
    message = one.message if one else ""
    hint = what_to_do(one.reason, cycle.name, cycle.status.stage or "STAGE") if one else ""
    code = _EXIT_CODE.search(message)
    kind = _kind_of(int(code[1])) if code else TransientError
    return kind(plain(message) or "it has failed", where=cycle.name, hint=hint)


def _kind_of(code: int) -> type[RefrainError]:
    pending: list[type[RefrainError]] = [RefrainError]
    while pending:
        kind = pending.pop(0)
        if kind.exit_code == code:
            return kind
        pending += kind.__subclasses__()
    return TransientError
