"""transformers' Trainer, walking a list of steps exactly.

The data loader yields one whole optimiser step at a time, as a list of micro-batches, and Trainer sees
one epoch of as many items as there are steps: none of its own arithmetic of epochs, accumulation and
processes is left that could skip or repeat a batch. Random numbers (dropout) are drawn anew from
(seed, step, process) in every step, so that nothing of them need be saved.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from jobs.contracts.errors import InputError, IntegrityError
from jobs.contracts.records import Json
from jobs.ml.batching import collate
from jobs.ml.encoding import IGNORED, NO_MESSAGE, Example
from jobs.ml.loss import target_losses
from jobs.ml.training.checkpoints import Checkpoints, TrainingState, load_optimizer
from jobs.ml.training.loss_model import LossModel
from jobs.ml.training.settings import Hyperparameters
from jobs.ml.training.steps import ChunkIds, Step, micro_batches

MAX_LOGGED_STEPS = 1000
"""How many steps a log holds at most; of a longer run it has every n-th."""
_NOTHING = Example("", np.zeros(2, np.int32), np.full(2, IGNORED, np.int32), np.full(2, NO_MESSAGE, np.int16))
"""What a process computes while it has nothing to do but others have."""

_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


class StepTrainer(Trainer):
    """Trains a LossModel by steps; see the module."""

    def __init__(
        self,
        model: LossModel,
        steps: Sequence[Step],
        examples: Mapping[str, Example],
        val_examples: Sequence[Example],
        *,
        settings: Hyperparameters,
        checkpoints: Checkpoints,
        state: TrainingState,
        resume_from: Path | None,
        should_stop: Callable[[], bool],
        scratch: Path,
    ) -> None:
        self.steps = steps
        self.examples = examples
        self.val_examples = val_examples
        self.settings = settings
        self.checkpoints = checkpoints
        self.run_state = state
        self.should_stop = should_stop
        self._lengths = {name: len(example) for name, example in examples.items()}
        self.last_loss = math.nan
        """Of the last step, in nats per target token."""
        self.last_grad_norm = math.nan
        """Of the last step, before it was clipped."""
        super().__init__(
            model=model,
            args=_arguments(settings, steps, scratch),
            train_dataset=_StepDataset([], state.step),
            callbacks=[_StepEnd(self, resume_from)],
        )
        self.pop_callback(PrinterCallback)

    # What Trainer calls.

    def get_train_dataloader(self) -> DataLoader[list[ChunkIds]]:
        """The steps that are left, each a list of what this process computes."""
        args = self.args
        shares = [
            micro_batches(
                step,
                self._lengths,
                rank=args.process_index,
                num_ranks=args.world_size,
                max_tokens=self.settings.micro_batch_tokens,
            )
            for step in self.steps
        ]
        # A generator of its own: the loader draws a number from the global one otherwise.
        dataset = _StepDataset(shares, self.run_state.step)
        return DataLoader(dataset, batch_size=None, collate_fn=_as_it_is, generator=torch.Generator())

    def training_step(self, model: Any, inputs: list[ChunkIds], num_items_in_batch: Any = None) -> torch.Tensor:
        """The gradients of one whole step, clipped; its mean loss per target token.

        Raises InputError where the loss or a gradient is not finite, before any weight changes.
        """
        model.train()
        number = self.state.global_step
        step = self.steps[number]
        self._require_planned(step, inputs)
        _seed_step(self.settings.seed, number, self.args.process_index)
        num_targets = sum(self.examples[name].num_targets for name in step.chunk_ids)
        # Processes average their gradients; we want the sum over all of them.
        scale = self.args.world_size / max(1, num_targets)
        total = torch.zeros((), device=self.args.device)
        for turn, micro_batch in enumerate(inputs):
            is_last = turn == len(inputs) - 1
            with nullcontext() if is_last else self.accelerator.no_sync(model), self.compute_loss_context_manager():
                loss = model(**self._tensors(micro_batch))
                self.accelerator.backward(loss * scale)
            total += loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(self._trainable(), self.settings.max_grad_norm)
        self.last_loss = self.accelerator.reduce(total, "sum").item() / max(1, num_targets)
        self.last_grad_norm = float(norm)
        if not (math.isfinite(self.last_loss) and math.isfinite(self.last_grad_norm)):
            raise _not_finite(self.last_loss, self.last_grad_norm, number + 1, list(step.chunk_ids))
        self.run_state.seen = seen_digest(self.run_state.seen, step)
        return total.detach()

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The loss per target token of the val set: total loss / total tokens."""
        self.model.eval()
        model = self.model.causal_model
        with torch.inference_mode(), self.compute_loss_context_manager():
            parts = target_losses(model, self.val_examples, max_tokens=self.settings.eval_tokens)
        num_targets = sum(map(len, parts))
        metrics = {"eval_loss": float(sum(part.sum() for part in parts)) / num_targets}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Remember a line of the log, and hand it to the callbacks. No times: a log is equal for equal runs."""
        if "train_loss" in logs:  # Trainer's summary, of this process's run alone
            return
        number = self.state.global_step
        line: Json = {**logs, "epoch": _epoch_at(self.steps, number), "step": number}
        self.run_state.log_history.append(line)
        self.state.log_history.append(line)
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, line)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.run_state.step = self.state.global_step
        if self.args.should_save:
            optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
            self.checkpoints.save(self.model.peft_model, optimizer, self.run_state)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted here."""
        return 0

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> None:
        return None

    # What it is made of.

    def _tensors(self, micro_batch: ChunkIds) -> dict[str, torch.Tensor]:
        chosen = [self.examples[name] for name in micro_batch] or [_NOTHING]
        device = self.args.device
        return {name: tensor.to(device, non_blocking=True) for name, tensor in collate(chosen).items()}

    def _trainable(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def _require_planned(self, step: Step, inputs: list[ChunkIds]) -> None:
        args = self.args
        planned = micro_batches(
            step,
            self._lengths,
            rank=args.process_index,
            num_ranks=args.world_size,
            max_tokens=self.settings.micro_batch_tokens,
        )
        if planned != inputs:
            raise IntegrityError(
                f"step {self.state.global_step + 1} was given other chunks than the schedule has there",
                hint="a defect: please report it",
            )


def _as_it_is(item: list[ChunkIds]) -> list[ChunkIds]:
    return item


class _StepDataset(Dataset[list[ChunkIds]]):
    def __init__(self, shares: Sequence[list[ChunkIds]], first: int) -> None:
        self._shares = shares
        self._first = first

    def __len__(self) -> int:
        return max(1, len(self._shares) - self._first)

    def __getitem__(self, index: int) -> list[ChunkIds]:
        return self._shares[self._first + index]


class _StepEnd(TrainerCallback):
    """Begins where the checkpoint stopped, and says after each step whether to evaluate, save or stop."""

    def __init__(self, trainer: StepTrainer, resume_from: Path | None) -> None:
        self._trainer = trainer
        self._resume_from = resume_from
        self._irregular: int | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        run = self._trainer.run_state
        state.global_step = run.step
        state.log_history = list(run.log_history)
        if self._resume_from is None:
            return
        load_optimizer(getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"]), self._resume_from)
        for _ in range(run.step):
            kwargs["lr_scheduler"].step()
        if not run.is_regular:
            self._irregular, run.is_regular = run.step, True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self._trainer
        step = trainer.steps[state.global_step - 1]
        is_last = state.global_step == len(trainer.steps)
        is_due = state.global_step % trainer.settings.save_steps == 0 or step.is_last_of_epoch
        if is_last or state.global_step % log_interval(len(trainer.steps)) == 0:
            rate = kwargs["lr_scheduler"].get_last_lr()[0]
            trainer.log({"loss": trainer.last_loss, "grad_norm": trainer.last_grad_norm, "learning_rate": rate})
        control.should_evaluate = is_due and bool(trainer.val_examples)
        control.should_save = is_due
        if trainer.should_stop() and not is_last:
            control.should_training_stop = True
            if not is_due:
                trainer.run_state.is_regular, control.should_save = False, True

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any, **kwargs: Any) -> None:
        run, settings = self._trainer.run_state, self._trainer.settings
        loss = metrics["eval_loss"]
        if run.best_loss is None or loss < run.best_loss - settings.min_delta:
            run.bad_evaluations = 0
        else:
            run.bad_evaluations += 1
        if run.best_loss is None or loss < run.best_loss:
            run.best_loss, run.best_step = loss, state.global_step
        if settings.patience is not None and run.bad_evaluations >= settings.patience:
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._irregular is not None and self._trainer.run_state.is_regular:
            self._trainer.checkpoints.delete(self._irregular)
            self._irregular = None


def seen_digest(before: str, step: Step) -> str:
    """The chained digest of what was seen, one step further."""
    return hashlib.sha256(before.encode() + orjson.dumps(list(step.chunk_ids))).hexdigest()


def _arguments(settings: Hyperparameters, steps: Sequence[Step], scratch: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(scratch),
        max_steps=len(steps),
        per_device_train_batch_size=1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=_SCHEDULES[settings.learning_rate_schedule],
        warmup_steps=math.ceil(len(steps) * settings.warmup_ratio),
        weight_decay=settings.weight_decay,
        max_grad_norm=0,  # clipped in training_step, where it is looked at
        seed=settings.seed % 2**32,
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        report_to=list(settings.report_to) or "none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        logging_nan_inf_filter=False,
    )


def _seed_step(seed: int, step: int, rank: int) -> None:
    """Random numbers of a step are a function of (seed, step, process): what was drawn before does not matter."""
    digest = hashlib.sha256(f"{seed} {step} {rank}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big") % 2**63)


def log_interval(num_steps: int) -> int:
    """Every how many steps a line is logged."""
    return math.ceil(num_steps / MAX_LOGGED_STEPS)


def _epoch_at(steps: Sequence[Step], number: int) -> float:
    """How many epochs of the schedule lie behind after so many steps, with the share of the one begun."""
    if not number:
        return 0.0
    epoch = steps[number - 1].epoch
    of_epoch = [index for index, step in enumerate(steps) if step.epoch == epoch]
    return epoch + (number - of_epoch[0]) / len(of_epoch)


def _not_finite(loss: float, grad_norm: float, step: int, chunk_ids: list[str]) -> InputError:
    named = ", ".join(chunk_ids[:4]) + (f" and {len(chunk_ids) - 4} more" if len(chunk_ids) > 4 else "")
    return InputError(
        f"the loss is {loss} and the gradient's norm {grad_norm} at step {step}; no weight was changed by it",
        where=f"chunks {named}",
        hint="lower the learning rate, or look at those texts; the checkpoints before it are kept",
    )
