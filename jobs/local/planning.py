"""What a cycle would do, found out without doing it.

The data stages cost little, so they are run for real, over a copy-on-write view of the archive whose
writes go to scratch: window, chunks, tokens and schedule are the very ones that `run` would make.
Training is reckoned from them and from the numbers of the base model.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson

from jobs.assignments.archive import Archive
from jobs.contracts.artifacts import artifact_key
from jobs.contracts.cycle import CycleSpec, RetrainCycle
from jobs.contracts.cycle.learning import rank_notes
from jobs.contracts.errors import MissingInputError
from jobs.contracts.folder_store import FolderStore
from jobs.contracts.records import Json
from jobs.contracts.stages import STAGES
from jobs.contracts.store import Store, StoreOptions, open_store
from jobs.files import scratch_folder
from jobs.local.base_facts import BaseFacts, base_facts
from jobs.local.cautions import older_windows, too_little_to_judge
from jobs.local.configs import Machine
from jobs.local.estimates import checkpoint_bytes, num_checkpoints, num_processes, one_gpu_notes, training_memory
from jobs.local.overlay_store import OverlayStore
from jobs.local.places import reach, require_base
from jobs.local.running import CycleRun
from jobs.local.speed import tokens_per_second as measured
from jobs.local.status import Status, read_status
from jobs.ml.training.steps import plan_steps

_DATA_HALF = "sample"
"""The last stage that is run."""


@dataclass(slots=True)
class Plan:
    """What is known of a cycle before it runs, in groups of figures; what is not known is said."""

    cycle: str
    archive: str
    state: str
    """As it is now."""
    message: str = ""
    done: list[str] = field(default_factory=list)
    """Stages that have finished already."""
    mail: Json = field(default_factory=dict)
    window: Json = field(default_factory=dict)
    rehearsal: Json = field(default_factory=dict)
    training: Json = field(default_factory=dict)
    memory_bytes: Json = field(default_factory=dict)
    disk_bytes: Json = field(default_factory=dict)
    jobs: list[Json] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def as_json(self) -> Json:
        """All of it."""
        return asdict(self)


def plan_cycle(
    cycle: RetrainCycle,
    url: str,
    *,
    machine: Machine | None = None,
    tokens_per_second: float | None = None,
    file: str = "",
) -> Plan:
    """The plan of a located cycle over the archive at `url`, which is left as it is, or as it is not there.

    `file` is the cycle's, for errors to name it. Raises what `require_base` and the data stages raise: their
    input is read as `run` would read it.
    """
    options = reach(cycle.spec.store)
    below = _existing(url, options)
    status = read_status(below, cycle.metadata.name) if below else Status()
    plan = Plan(cycle.metadata.name, url, status.state, status.message, [one["name"] for one in status.stages])
    plan.jobs = [_job(cycle.spec, row.name, plan.done) for row in STAGES]
    if status.has_ended:
        return plan
    require_base(cycle, file)
    with scratch_folder("refrain-plan-") as scratch:
        store = OverlayStore(below, FolderStore(scratch / "archive"))
        run = CycleRun(cycle, Archive(store), machine=machine or Machine())
        would_be = run.run(until=_DATA_HALF)
        _tell_data(plan, would_be)
        plan.warnings += _cautions(cycle, store, would_be)
        plan.disk_bytes = dict(_grown(scratch / "archive"))
        if would_be.state == "Skipped":
            plan.message = f"it would be skipped: {would_be.message}"
            return plan
        _tell_training(plan, run.cycle, store, options, tokens_per_second or measured(store))
    return plan


def _existing(url: str, options: StoreOptions) -> Store | None:
    try:
        return open_store(url, options, read_only=True)
    except MissingInputError:
        return None


def _job(spec: CycleSpec, name: str, done: list[str]) -> Json:
    """What a cluster would start for a stage."""
    row = next(row for row in STAGES if row.name == name)
    override = spec.stages.get(row.name)  # type: ignore[call-overload]
    deadline = override.deadline_seconds if override and override.deadline_seconds else row.deadline_seconds
    pods = {"train": spec.training.nodes, "evaluate": spec.evaluation.pods}.get(name, 1)
    return {
        "stage": name,
        "image": row.image,
        "device": row.device,
        "pods": pods,
        "deadline_seconds": deadline,
        "is_done": name in done,
    }


def _tell_data(plan: Plan, status: Status) -> None:
    parsed, split, window = (status.result(name) or {} for name in ("parse", "split", "window"))
    plan.mail = {name: parsed[name] for name in ("num_sources", "num_kept", "num_rejected", "num_filtered")}
    plan.mail |= {name: split[name] for name in ("num_new", "num_in_archive_or_twice", "num_threads", "num_windows")}
    plan.window = {name: value for name, value in window.items() if name != "notes"}
    rehearsed = status.result("rehearse")
    if rehearsed:
        plan.rehearsal = {name: rehearsed[name] for name in ("num_old_chunks", "num_manifest_chunks")}


def _cautions(cycle: RetrainCycle, store: Store, status: Status) -> list[str]:
    """What its mail lets a user expect of a cycle whose stages up to `window` are done."""
    split, window = (status.result(name) or {} for name in ("split", "window"))
    val_set = orjson.loads(store.get(artifact_key(cycle.metadata.name, "window", "val_set")))
    threads = {entry["thread_id"] for entry in val_set}
    return [
        *older_windows(split, window, cycle.spec.window.period),
        *too_little_to_judge(threads, cycle.spec.promotion.gate.min_threads),
    ]


def _tell_training(plan: Plan, cycle: RetrainCycle, store: Store, options: StoreOptions, speed: float | None) -> None:
    name, spec = cycle.metadata.name, cycle.spec
    plan.warnings += rank_notes(spec.model.lora.rank)
    schedule = orjson.loads(store.get(artifact_key(name, "sample", "schedule")))
    figures = schedule["report"]
    plan.rehearsal |= {"quota": schedule["quota"]} | {key: figures[key] for key in ("share_chunks", "share_tokens")}
    steps = Counter(step.epoch for step in plan_steps(schedule, spec.training.gradient_accumulation))
    num_tokens = figures["num_new_tokens"] + figures["num_replay_tokens"]
    at_once = _tokens_at_once(cycle, store, schedule)
    plan.training = {
        "num_epochs": len(steps),
        "num_batches": figures["num_batches"],
        "num_steps": steps.total(),
        "num_tokens": num_tokens,
        "num_padded_tokens": figures["num_padded_tokens"],
        "num_tokens_at_once": at_once,
        "num_checkpoints": num_checkpoints(list(steps.values()), spec.training.save_steps),
        "max_attempts": 1 + spec.selection.max_retrain_attempts,
        "num_processes": num_processes(spec.training),
        "seconds": round(num_tokens / speed) if speed else None,
        "tokens_per_second": speed,
    }
    if speed is None:
        plan.unknown.append(
            "how long it takes: no cycle of this archive has trained here yet; --tokens-per-second tells it"
        )
    try:
        facts = base_facts(spec.model, options)
    except MissingInputError as error:
        plan.unknown.append(f"parameters and memory: {error.where}: {error.what}")
        return
    if facts is None:
        plan.unknown.append(f"parameters and memory: the weights of {spec.model.base} have not been fetched yet")
        return
    _tell_size(plan, spec, facts, at_once)


def _tell_size(plan: Plan, spec: CycleSpec, facts: BaseFacts, at_once: int) -> None:
    plan.warnings += one_gpu_notes(facts, spec.training)
    trainable = facts.num_trainable(spec.model.lora)
    memory = training_memory(facts, trainable, spec.training, at_once)
    plan.training |= {"num_parameters": facts.num_parameters, "num_trainable": trainable}
    plan.memory_bytes = asdict(memory) | {"total": memory.total}
    made = plan.training["num_checkpoints"] * checkpoint_bytes(trainable)
    plan.disk_bytes["checkpoints"] = made * plan.training["max_attempts"]
    plan.disk_bytes["checkpoints_kept"] = checkpoint_bytes(trainable) * min(
        spec.retention.checkpoints, plan.training["num_checkpoints"]
    )


def _tokens_at_once(cycle: RetrainCycle, store: Store, schedule: Json) -> int:
    """The tokens, padding included, of the largest batch that goes through the model at once."""
    name = cycle.metadata.name
    lengths: dict[str, int] = {}
    for stage, kind in (("window", "new_train"), ("rehearse", "manifest")):
        entries = orjson.loads(store.get(artifact_key(name, stage, kind)))
        lengths |= {entry["chunk_id"]: entry["num_tokens"] for entry in entries}
    batches = [
        [lengths[one] for one in batch["chunk_ids"]] for epoch in schedule["epochs"] for batch in epoch["batches"]
    ]
    largest = max((len(batch) * max(batch) for batch in batches), default=0)
    limit = cycle.spec.training.micro_batch_tokens
    return largest if limit is None else min(largest, max(limit, max(map(max, batches), default=0)))


def _grown(folder: Path) -> Counter[str]:
    """Bytes that the data stages have written, by what they are of."""
    sizes: Counter[str] = Counter()
    for path in folder.rglob("*"):
        if path.is_file():
            top = path.relative_to(folder).parts[0]
            sizes["cycle" if top == "cycles" else "archive"] += path.stat().st_size
    return sizes
