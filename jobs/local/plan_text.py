"""A plan as people read it."""

from __future__ import annotations

from collections.abc import Iterator

from jobs.contracts.records import Json
from jobs.contracts.words import counted
from jobs.local.planning import Plan
from jobs.local.telling import duration

_WIDTH = 11
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def plan_text(plan: Plan, *, jobs: bool = False) -> str:
    """A line or a few for each group of figures, with a cluster's Jobs if asked for; what is not known comes last."""
    return "\n".join(f"{name:<{_WIDTH}}{text}".rstrip() for name, text in _rows(plan, jobs=jobs))


def size(num_bytes: float) -> str:
    """As people read it: 512 bytes, 1.4 MiB."""
    unit = 0
    while num_bytes >= 1024 and unit < len(_UNITS) - 1:
        num_bytes /= 1024
        unit += 1
    return f"{num_bytes:.1f} {_UNITS[unit]}" if unit else f"{num_bytes:.0f} bytes"


def _rows(plan: Plan, *, jobs: bool) -> Iterator[tuple[str, str]]:
    yield "cycle", f"{plan.cycle}, archive {plan.archive}"
    yield "state", plan.state + (f": {plan.message}" if plan.message else "")
    yield "done", ", ".join(plan.done) or "nothing yet"
    if plan.mail:
        yield "mail", _mail(plan.mail)
        yield "window", _window(plan.window)
    if plan.training:
        yield "rehearsal", _rehearsal(plan.rehearsal)
        yield from _training(plan.training)
    if plan.memory_bytes:
        parts = ", ".join(f"{name} {size(number)}" for name, number in plan.memory_bytes.items() if name != "total")
        processes = plan.training["num_processes"]
        where = f" in each of {processes} processes" if processes > 1 else ""
        yield "memory", f"about {size(plan.memory_bytes['total'])} to train{where}: {parts}"
    if plan.disk_bytes:
        yield "disk", ", ".join(f"{name.replace('_', ' ')} {size(n)}" for name, n in plan.disk_bytes.items())
    if jobs:
        yield from _jobs(plan.jobs)
    for warning in plan.warnings:
        yield "note", warning
    for unknown in plan.unknown:
        yield "not known", unknown


def _jobs(jobs: list[Json]) -> Iterator[tuple[str, str]]:
    yield "jobs", f"{'stage':<10}{'image':<7}{'device':<8}{'pods':>4}  deadline, on a cluster"
    for job in jobs:
        state = "  done" if job["is_done"] else ""
        deadline = duration(job["deadline_seconds"])
        yield "", f"{job['stage']:<10}{job['image']:<7}{job['device']:<8}{job['pods']:>4}  {deadline}{state}"


def _mail(mail: Json) -> str:
    if not mail["num_sources"]:
        return "no sources: the cycle works on what the log holds"
    parts = [f"{counted(mail['num_kept'], 'mail')} in {counted(mail['num_sources'], 'source')}"]
    for what, name in (("rejected", "num_rejected"), ("left out", "num_filtered")):
        if number := sum(mail[name].values()):
            parts.append(f"{number:,} {what}")
    parts.append(f"{mail['num_new']:,} of them new, in {counted(mail['num_threads'], 'thread')}")
    return ", ".join(parts)


def _window(window: Json) -> str:
    new = counted(window["num_new_train_messages"], "new train message")
    chunks = counted(window["num_new_train_chunks"], "chunk")
    sets = f"{window['num_val_chunks']:,} val and {window['num_test_chunks']:,} test chunks to score"
    return f"{window['window_idx']}: {new} in {chunks}; {sets}"


def _rehearsal(rehearsal: Json) -> str:
    return (
        f"{rehearsal['quota']:,} of {counted(rehearsal['num_old_chunks'], 'old chunk')} an epoch: "
        f"{rehearsal['share_chunks']:.1%} of the chunks, {rehearsal['share_tokens']:.1%} of the tokens"
    )


def _training(training: Json) -> Iterator[tuple[str, str]]:
    steps = f"{counted(training['num_steps'], 'step')} in {counted(training['num_epochs'], 'epoch')}"
    tokens = f"{training['num_tokens']:,} tokens ({training['num_padded_tokens']:,} with padding)"
    yield "training", f"{steps}, {tokens}, {counted(training['num_checkpoints'], 'checkpoint')}"
    if "num_trainable" in training:
        share = training["num_trainable"] / max(1, training["num_parameters"])
        base = f"{share:.2%} of the base's {training['num_parameters']:,}"
        at_once = f"up to {training['num_tokens_at_once']:,} tokens go through it at once"
        yield "", f"{training['num_trainable']:,} parameters are trained, {base}; {at_once}"
    if training["seconds"] is not None:
        rate = f"{training['tokens_per_second']:,.0f} tokens a second"
        attempts = f"{counted(training['max_attempts'], 'attempt')} at most"
        yield "time", f"about {duration(training['seconds'])} an attempt, at {rate}; {attempts}"
