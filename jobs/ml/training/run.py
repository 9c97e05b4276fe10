"""One run of training, from encoded texts to published checkpoints."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.contracts.errors import IntegrityError, StoppedError
from jobs.contracts.records import Json
from jobs.items import Items
from jobs.ml.adapters import AdapterSwitch, add_adapter, load_adapter
from jobs.ml.base_model import Base, load_model
from jobs.ml.devices import choose_device, make_deterministic
from jobs.ml.encoding import Example
from jobs.ml.loss import target_losses
from jobs.ml.training.checkpoints import Checkpoints, TrainingState
from jobs.ml.training.fast_lora import speed_up
from jobs.ml.training.loss_model import LossModel
from jobs.ml.training.settings import Hyperparameters
from jobs.ml.training.steps import Step
from jobs.ml.training.trainer import StepTrainer, log_interval, seen_digest

_WARM_START_EXAMPLES = 8
_WARM_START_TOLERANCE = 1e-3
"""Nats per token that merged and unmerged weights may differ by, in relation to the loss."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """The adapter that is trained: fresh, or where it starts from."""

    rank: int
    alpha: float
    dropout: float
    target_modules: str
    start_from: Path | None
    gradient_checkpointing: bool = False
    quantization: str | None = None


def train_adapter(
    base: Base,
    adapter: Adapter,
    steps: Sequence[Step],
    examples: Mapping[str, Example],
    val_examples: Sequence[Example],
    *,
    settings: Hyperparameters,
    items: Items,
    run_digest: str,
    device: str | None,
    should_stop: Callable[[], bool],
    scratch: Path,
) -> Json:
    """Train, or go on from the newest checkpoint of the same run; the trainer's state, as transformers writes it.

    Raises StoppedError once `should_stop` says so and a checkpoint is saved, InputError for a loss that is
    not finite, IntegrityError where what was seen is not the schedule, and what loading and saving raise.
    """
    chosen = choose_device(device)
    make_deterministic(settings.seed)
    checkpoints = Checkpoints(items, base)
    found = checkpoints.newest(run_digest)
    resume_from, state = found or (None, TrainingState(run_digest))
    model = load_model(base, device=chosen, precision=settings.precision, quantization=adapter.quantization)
    if resume_from is not None:
        peft_model = load_adapter(model, resume_from, base=base, trainable=True)
    elif adapter.start_from is not None:
        peft_model = _warm_start(model, base, adapter, list(val_examples) or list(examples.values()))
    else:
        peft_model = _fresh(model, adapter, settings.seed)
    speed_up(peft_model)
    if adapter.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    with _quietly():
        trainer = StepTrainer(
            LossModel(peft_model),
            steps,
            examples,
            val_examples,
            settings=settings,
            checkpoints=checkpoints,
            state=state,
            resume_from=resume_from,
            should_stop=should_stop,
            scratch=scratch,
        )
        try:
            if state.step < len(steps) and not _is_done(state, settings):
                trainer.train()
        finally:
            checkpoints.finish()
    if should_stop() and trainer.state.global_step < len(steps) and not _is_done(state, settings):
        raise StoppedError(
            f"told to stop at step {state.step} of {len(steps)}", hint="the same command again goes on from there"
        )
    _require_seen(state, steps)
    return _trainer_state(steps, state, settings)


def _fresh(model: Any, adapter: Adapter, seed: int) -> Any:
    return add_adapter(
        model,
        rank=adapter.rank,
        alpha=adapter.alpha,
        dropout=adapter.dropout,
        target_modules=adapter.target_modules,
        seed=seed,
    )


def _warm_start(model: Any, base: Base, adapter: Adapter, probe: Sequence[Example]) -> Any:
    """The incumbent, trainable, once its loss is found equal to that of the incumbent merged into the base.

    A base model in four bits cannot be merged into: there it is loaded without that check.
    """
    folder = adapter.start_from
    assert folder is not None
    probe = probe[:_WARM_START_EXAMPLES]
    expected = None
    if adapter.quantization is None:
        switch = AdapterSwitch(model, base)
        expected = _mean_loss(switch.use(folder), probe)
        switch.use(None)
    peft_model = load_adapter(model, folder, base=base, trainable=True)
    peft_model.eval()
    found = _mean_loss(peft_model.get_base_model(), probe)
    if expected is not None and abs(found - expected) > _WARM_START_TOLERANCE * max(1.0, expected):
        raise IntegrityError(
            f"the adapter in service has a loss of {expected:.4f} here, but {found:.4f} as it was loaded to train",
            where=str(folder),
            hint="start from the base model (startFrom: Base)",
        )
    return peft_model


def _mean_loss(model: Any, examples: Sequence[Example]) -> float:
    parts = target_losses(model, examples, max_tokens=max(map(len, examples)))
    return float(sum(part.sum() for part in parts)) / max(1, sum(map(len, parts)))


def _is_done(state: TrainingState, settings: Hyperparameters) -> bool:
    """Whether early stopping has ended the run."""
    return settings.patience is not None and state.bad_evaluations >= settings.patience


def _require_seen(state: TrainingState, steps: Sequence[Step]) -> None:
    planned = ""
    for step in steps[: state.step]:
        planned = seen_digest(planned, step)
    if planned != state.seen:
        raise IntegrityError(
            f"the {state.step} steps that were trained are not those of the schedule", hint="a defect: please report it"
        )


def _trainer_state(steps: Sequence[Step], state: TrainingState, settings: Hyperparameters) -> Json:
    """What transformers writes as trainer_state.json, without times and paths of this machine."""
    best = None if state.best_step is None else f"step_{state.best_step}"
    return {
        "best_global_step": state.best_step,
        "best_metric": state.best_loss,
        "best_model_checkpoint": best,
        "epoch": state.log_history[-1]["epoch"] if state.log_history else 0.0,
        "eval_steps": settings.save_steps,
        "global_step": state.step,
        "is_hyper_param_search": False,
        "is_local_process_zero": True,
        "is_world_process_zero": True,
        "log_history": state.log_history,
        "logging_steps": log_interval(len(steps)),
        "max_steps": len(steps),
        "num_train_epochs": steps[-1].epoch + 1,
        "save_steps": settings.save_steps,
    }


class _quietly(warnings.catch_warnings):  # noqa: N801 - used like a function
    """Without the libraries' advice to those who call them otherwise."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        warnings.simplefilter("ignore")
        return entered
