"""One run of training, from encoded texts to published checkpoints, in one process or several."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import integrations

from jobs.contracts.errors import ConfigError, IntegrityError, StoppedError
from jobs.contracts.records import Json
from jobs.files import read_json, write_json
from jobs.items import Items
from jobs.ml.base_model import Base, find_base
from jobs.ml.devices import choose_device, make_deterministic
from jobs.ml.quiet import quiet_libraries
from jobs.ml.training.callbacks import log_interval
from jobs.ml.training.checkpoints import Checkpoints, TrainingState, step_name
from jobs.ml.training.data import TrainingData
from jobs.ml.training.fast_lora import speed_up
from jobs.ml.training.loss_model import LossModel
from jobs.ml.training.progress import Progress
from jobs.ml.training.settings import Adapter, Hyperparameters
from jobs.ml.training.sharding import shard
from jobs.ml.training.start import Start, Wanted, fresh_start, resumed_start, warm_start
from jobs.ml.training.steps import micro_batches, seen_digest, steps_to_save
from jobs.ml.training.trainer import Ended, StepTrainer
from jobs.ml.training.world import World, joined

_JOB = "job.json"
_START = "start"
LOG_FOLDER = "TENSORBOARD_LOGGING_DIR"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run."""

    trainer_state: Json
    """As transformers writes it, without times and paths of this machine."""
    num_steps: int
    """Fewer than the schedule has where early stopping had its say."""
    num_trainable: int
    """Weights that were trained."""


@dataclass(frozen=True)
class Run:
    """All that a run depends on, and how it works."""

    base: Base
    adapter: Adapter
    settings: Hyperparameters
    data: TrainingData
    run_digest: str = ""
    """Of all that the outcome depends on."""
    start_from: Path | None = None
    """Folder of the adapter that a warm start begins with; None: a fresh one."""
    device: str | None = None
    processes: int = 1
    in_use: frozenset[str] = frozenset()
    """Names of checkpoints that are in service, or were and may come back: they are never deleted."""
    report_folder: Path | None = None
    """Where TensorBoard's files go unless its environment says otherwise."""


def train_adapter(
    run: Run,
    items: Items,
    *,
    scratch: Path,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
    say: Callable[[str], object] = lambda _text: None,
) -> Outcome:
    """Train, or go on from the newest checkpoint of the same run.

    Raises StoppedError once `should_stop` says so and a checkpoint is saved, ConfigError where a checkpoint of
    another run that is in use stands in the way, InputError for a loss that is not finite, IntegrityError where
    what was seen is not the schedule, TransientError where one of several processes is lost, and what loading
    and saving raise.
    """
    due = steps_to_save(run.data.steps, run.settings.save_steps)
    with _told_where_to_log(run), joined(choose_device(run.device).type, run.processes) as world:
        _require_someone_to_share_with(run.settings, world)
        checkpoints = Checkpoints(items, run.base, due, run.in_use)
        try:
            trainer, start = _first_process(
                run, world, checkpoints, scratch=scratch, should_stop=should_stop, progress=progress, say=say
            )
        except BaseException:
            checkpoints.abandon()
            raise
        checkpoints.finish()
    _require_end(trainer)
    _require_seen(trainer.run_state, run.data)
    return Outcome(_trainer_state(run, trainer.run_state, start, due), trainer.run_state.step, start.num_trainable)


def _first_process(
    run: Run, world: World, checkpoints: Checkpoints, *, scratch: Path, say: Callable[[str], object], **others: Any
) -> tuple[StepTrainer, Start]:
    found = checkpoints.resume(run.run_digest)
    folder, state = found or (None, TrainingState(run.run_digest))
    if folder is not None:
        say(f"goes on from step {state.step} of {len(run.data.steps)}")
    if world.size > 1:
        _share(run, world, state, folder or run.start_from, scratch)
    device = _prepare(run)
    wanted = Wanted(run.base, run.adapter, run.settings, device, run.data.longest)
    if folder is not None:
        start = resumed_start(wanted, folder)
    elif run.start_from is not None:
        start = warm_start(wanted, run.start_from, _probe(run.data, run.settings))
        say(f"starts from the adapter in service{'' if start.loss is None else f'; its loss is {start.loss:.4f}'}")
    else:
        start = fresh_start(wanted)
    others |= {"checkpoints": checkpoints, "resume_from": folder}
    return _train(run, start, state, world=world, device=device, scratch=scratch, **others), start


def follow(device_kind: str | None, scratch: Path, should_stop: Callable[[], bool]) -> None:
    """What all processes but the first do: take what that one sends, and train with it. They write nothing.

    Raises StoppedError where any of the processes was told to stop: none of them must pass for one that is done.
    """
    with joined(choose_device(device_kind).type) as world:
        folder = world.share_folder(scratch / "job")
        said = read_json(folder / _JOB)
        base = find_base(said["base"], said["revision"])
        if base.digest != said["base_digest"]:
            raise ConfigError("the base model here is another than the first process has", where=base.name)
        settings = Hyperparameters(**said["settings"])
        run = Run(base, Adapter(**said["adapter"]), settings, TrainingData.read(folder), device=device_kind)
        state = TrainingState.from_json(said["state"])
        device = _prepare(run)
        wanted = Wanted(base, run.adapter, settings, device, run.data.longest)
        start = resumed_start(wanted, folder / _START) if said["has_start"] else fresh_start(wanted)
        others: dict[str, Any] = {"should_stop": should_stop, "resume_from": folder / _START if state.step else None}
        trainer = _train(run, start, state, world=world, device=device, scratch=scratch, **others)
    _require_end(trainer)


def _share(run: Run, world: World, state: TrainingState, start: Path | None, scratch: Path) -> None:
    """Send the others all that they need; what needs a store or the archive is the first one's alone."""
    folder = scratch / "job"
    folder.mkdir()
    run.data.write(folder)
    if start is not None:
        shutil.copytree(start, folder / _START)
    said = {
        "base": run.base.name,
        "revision": run.base.revision,
        "base_digest": run.base.digest,
        "adapter": asdict(run.adapter),
        "settings": asdict(run.settings),
        "state": asdict(state),
        "has_start": start is not None,
    }
    write_json(folder / _JOB, said)
    world.share_folder(folder)


def _train(
    run: Run, start: Start, state: TrainingState, *, world: World, device: torch.device, **others: Any
) -> StepTrainer:
    """The same in every process."""
    speed_up(start.peft_model)
    if run.adapter.gradient_checkpointing:
        with quiet_libraries():  # the new name of it is newer than the oldest library that we take
            start.peft_model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    loss_model = LossModel(start.peft_model)
    if run.settings.shard_model:
        shard(loss_model, device, world.size)
    with quiet_libraries(), _memory_told():
        trainer = StepTrainer(
            loss_model, run.data, settings=run.settings, state=state, world=world, device=device, **others
        )
        if state.is_settled and _is_over(trainer):
            return trainer
        try:
            trainer.train()
        except Ended:
            if trainer.told_to_stop and trainer.state.global_step > trainer.saved_step:
                trainer.save(is_settled=False)
    return trainer


def _require_someone_to_share_with(settings: Hyperparameters, world: World) -> None:
    if settings.shard_model and world.size == 1:
        hint = "start more (--processes, training.processesPerNode), or leave shard_model out"
        raise ConfigError("the model is to be cut over the processes, and there is one alone", where="train", hint=hint)


def _require_end(trainer: StepTrainer) -> None:
    """StoppedError, in every process, where one was told to stop before the end."""
    if trainer.told_to_stop and not _is_over(trainer):
        at = f"at step {trainer.run_state.step} of {len(trainer.data.steps)}"
        raise StoppedError(f"told to stop {at}; all is saved", hint="the same command again goes on from there")


def _is_over(trainer: StepTrainer) -> bool:
    run = trainer.run_state
    return run.is_settled and (run.step == len(trainer.data.steps) or trainer.has_stopped_early)


def _prepare(run: Run) -> torch.device:
    _require_tools(run.settings.report_to)
    chosen = choose_device(run.device)
    make_deterministic(run.settings.seed)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    return chosen


def _probe(data: TrainingData, settings: Hyperparameters) -> Sequence[Any]:
    """What a warm start is checked with: the val set, or the first batch, as much as is evaluated at once."""
    chosen = data.val_examples or [data.examples[name] for name in data.steps[0].batches[0]]
    num_fitting = max(1, settings.eval_tokens // max(map(len, chosen)))
    return chosen[:num_fitting]


def _require_seen(state: TrainingState, data: TrainingData) -> None:
    """IntegrityError unless the processes have put through the model what the schedule says, and nothing else."""
    first = 0
    for record in state.seen:
        for rank, digest in enumerate(record.digests):
            planned = ""
            for step in data.steps[first : record.upto_step]:
                shares = micro_batches(
                    step, data.lengths, rank=rank, num_ranks=record.num_processes, max_tokens=record.max_tokens
                )
                planned = seen_digest(planned, [name for share in shares for name in share])
            if planned != digest:
                raise _not_the_schedule(f"steps {first + 1} to {record.upto_step} of process {rank}")
        first = record.upto_step
    if first != state.step:
        raise _not_the_schedule(f"{first} of {state.step} steps")


def _not_the_schedule(which: str) -> IntegrityError:
    return IntegrityError(
        f"what was trained on in {which} is not what the schedule has there", hint="a defect: report it"
    )


def _trainer_state(run: Run, state: TrainingState, start: Start, due: frozenset[int]) -> Json:
    """What transformers writes as trainer_state.json, without times and paths of this machine."""
    steps = run.data.steps
    return {
        "best_global_step": state.best_step,
        "best_metric": state.best_loss,
        "best_model_checkpoint": None if state.best_step is None else step_name(state.best_step),
        "epoch": state.log_history[-1]["epoch"] if state.log_history else 0.0,
        "eval_steps": run.settings.save_steps,
        "global_step": state.step,
        "is_hyper_param_search": False,
        "is_local_process_zero": True,
        "is_world_process_zero": True,
        "log_history": state.log_history,
        "logging_steps": log_interval(len(steps)),
        "max_steps": len(steps),
        "num_train_epochs": len({step.epoch for step in steps}),
        "save_steps": run.settings.save_steps,
        "refrain": {
            "base": run.base.name,
            "base_digest": run.base.digest,
            "starts_from": "incumbent" if run.start_from else "base",
            "num_trainable": start.num_trainable,
            "checkpoints": [step_name(step) for step in sorted(due) if step <= state.step],
            "stopped_early": state.step < len(steps),
        },
    }


@contextmanager
def _told_where_to_log(run: Run) -> Iterator[None]:
    with ExitStack() as stack:
        wants = "tensorboard" in run.settings.report_to and run.report_folder and not os.environ.get(LOG_FOLDER)
        if wants:
            os.environ[LOG_FOLDER] = str(run.report_folder)
            stack.callback(os.environ.pop, LOG_FOLDER, None)
        yield


def _require_tools(report_to: Sequence[str]) -> None:
    """ConfigError where a tool that metrics are to be sent to is not installed, as transformers sees it."""
    for name in report_to:
        if not getattr(integrations, f"is_{name}_available")():
            raise ConfigError(
                f"{name} is not installed", where="report_to", hint=f"pip install {name}, or leave it out"
            )


@contextmanager
def _memory_told() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"the device's memory is too small: {str(error).splitlines()[0]}",
            where="train",
            hint="set fewer micro_batch_tokens, gradient_checkpointing, quantization: 4bit, or shard_model",
        ) from error
