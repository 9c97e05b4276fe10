"""transformers' Trainer, walking a list of steps exactly.

The data loader yields one whole optimiser step at a time, as a list of micro-batches, and Trainer sees
one epoch of as many items as there are steps: none of its own arithmetic of epochs, accumulation and
processes is left that could skip or repeat a batch. Random numbers (dropout) are drawn anew from
(seed, step, process) in every step, so that nothing of them need be saved.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer

from jobs.contracts.errors import InputError
from jobs.ml.adapters import adapter_weights
from jobs.ml.batching import collate, token_batches
from jobs.ml.encoding import IGNORED, NO_MESSAGE, Example
from jobs.ml.model_state import evaluating
from jobs.ml.training.arguments import trainer_arguments
from jobs.ml.training.callbacks import StepEnd
from jobs.ml.training.checkpoints import Checkpoints, Seen, TrainingState, snapshot_of
from jobs.ml.training.data import TrainingData
from jobs.ml.training.loss_model import LossModel
from jobs.ml.training.progress import Progress
from jobs.ml.training.rates import rate_factor
from jobs.ml.training.settings import Hyperparameters
from jobs.ml.training.sharding import is_sharded
from jobs.ml.training.steps import ChunkIds, epochs_after, micro_batches, seen_digest, steps_to_save
from jobs.ml.training.world import World

_NOTHING = Example("", np.zeros(2, np.int32), np.full(2, IGNORED, np.int32), np.full(2, NO_MESSAGE, np.int16))
"""What a process computes while it has nothing to do but others have."""


class Ended(Exception):  # noqa: N818 - no error: it takes the way out of Trainer's loop
    """Training ends before its last step: by a signal, or by early stopping. No step is half done."""


class StepTrainer(Trainer):
    """Trains a LossModel by steps; see the module. The model is on its device already."""

    def __init__(
        self,
        model: LossModel,
        data: TrainingData,
        *,
        settings: Hyperparameters,
        state: TrainingState,
        world: World,
        device: torch.device,
        scratch: Path,
        checkpoints: Checkpoints | None = None,
        resume_from: Path | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        progress: Progress | None = None,
    ) -> None:
        self.data = data
        self.settings = settings
        self.run_state = state
        self.world = world
        self.checkpoints = checkpoints
        self.progress = progress
        self.due = steps_to_save(data.steps, settings.save_steps)
        self.epochs = epochs_after(data.steps)
        self.control: Any
        self.told_to_stop = False
        """All processes know."""
        self._should_stop = should_stop
        self._seen = _continued(state, world, settings.micro_batch_tokens)
        self._evaluation = token_batches([len(one) for one in data.val_examples], settings.eval_tokens)
        self.last_loss = math.nan
        """Of the last step, in nats per target token."""
        self.last_grad_norm = math.nan
        """Of the last step, before it was clipped."""
        self.last_learning_rate = math.nan
        self.saved_step = state.step
        """The step of the newest checkpoint."""
        super().__init__(
            model=model,
            args=trainer_arguments(settings, len(data.steps), device=device, world=world, scratch=scratch),
            train_dataset=_Steps(self, state.step),
            callbacks=[StepEnd(self, resume_from)],
        )
        self.pop_callback(PrinterCallback)
        if is_sharded(model):
            self.accelerator.prepare_model = lambda model, **_: model  # it would wrap it as for copies

    # What Trainer calls.

    def get_train_dataloader(self) -> DataLoader[list[ChunkIds]]:
        """The steps that are left, each a list of what this process computes."""
        # A generator of its own: the loader draws a number from the global one otherwise.
        return DataLoader(self.train_dataset, batch_size=None, collate_fn=_as_it_is, generator=torch.Generator())

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The learning rate's: a function of the step alone."""
        asked = self.settings
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer or self.optimizer,
            lambda step: rate_factor(step, num_training_steps, asked.learning_rate_schedule, asked.warmup_ratio),
        )
        return self.lr_scheduler

    def training_step(self, model: Any, inputs: list[ChunkIds], num_items_in_batch: Any = None) -> torch.Tensor:
        """The gradients of one whole step, clipped; its mean loss per target token.

        Raises InputError where the loss or a gradient is not finite, before any weight changes, and Ended
        where the process was told to stop, or early stopping has had its say: then no weight changes either.
        """
        number = self.state.global_step
        self._end_if_told()
        if number == len(self.data.steps):  # all that was left to do was behind the last one
            raise Ended
        self.last_learning_rate = self._get_learning_rate()
        model.train()
        _seed_step(self.settings.seed, number, self.world.rank)
        total = torch.zeros((), device=self.args.device)
        seen: list[str] = []
        for turn, micro_batch in enumerate(inputs):
            if self.world.size == 1:
                self._end_if_told()
            examples = [self.data.examples[name] for name in micro_batch]
            seen += [example.chunk_id for example in examples]
            with self._synchronised(model, is_last=turn == len(inputs) - 1):
                loss = model(**self._tensors(examples))
                self.accelerator.backward(loss)
            total += loss.detach()
        num_targets = max(1, self.data.num_targets(self.data.steps[number]))
        self._finish_gradients(num_targets)
        told = self.world.size > 1 and self._should_stop()
        loss_sum, num_told = self.world.total(total.item(), float(told))
        self.told_to_stop |= num_told > 0
        self.last_loss = loss_sum / num_targets
        if not (math.isfinite(self.last_loss) and math.isfinite(self.last_grad_norm)):
            raise self._not_finite(number)
        self._seen.digests[self.world.rank] = seen_digest(self._seen.digests[self.world.rank], seen)
        self._seen.upto_step = number + 1
        return total

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The loss per target token of the val set: total loss / total tokens. Ended where told to stop meanwhile."""
        total = 0.0
        with evaluating(self.model), torch.no_grad():
            for first in range(0, len(self._evaluation), self.world.size):
                if self.world.size == 1:
                    self._end_if_told()
                if self.progress is not None:
                    self.progress.scored(first, len(self._evaluation))
                mine = self._evaluation[first : first + self.world.size][self.world.rank :][:1]
                examples = [self.data.val_examples[number] for batch in mine for number in batch]
                total += self.model(**self._tensors(examples)).item()
        if self.progress is not None:
            self.progress.scored(len(self._evaluation), len(self._evaluation))
        num_targets = sum(example.num_targets for example in self.data.val_examples)
        metrics = {"eval_loss": self.world.total(total)[0] / num_targets}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Remember a line of the log, and hand it to the callbacks. No times: a log is equal for equal runs."""
        if "train_loss" in logs:  # Trainer's summary, of this process's run alone
            return
        number = self.state.global_step
        line = {**logs, "epoch": self.epochs[number]}
        self.run_state.log_history.append({**line, "step": number})
        self.state.log_history.append({**line, "step": number})
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, line)

    def save(self, *, is_settled: bool) -> None:
        """Begin to write a checkpoint. All processes must call this."""
        run = self.run_state
        run.step, run.is_settled = self.state.global_step, is_settled
        self.saved_step = run.step
        self._seen.digests = self.world.gather(self._seen.digests[self.world.rank])
        weights = adapter_weights(self.model.peft_model)
        settings = self.model.peft_model.peft_config["default"].to_dict()
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        snapshot = snapshot_of(weights, settings, optimizer, run)
        if self.checkpoints is not None:
            self.checkpoints.save(snapshot)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.save(is_settled=True)

    def _wrap_model(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        return model if is_sharded(model) else super()._wrap_model(model, *args, **kwargs)

    def _move_model_to_device(self, model: Any, device: torch.device) -> None:
        """It is there."""

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted here."""
        return 0

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> None:
        return None

    # What it is made of.

    def shares(self, number: int) -> list[ChunkIds]:
        """What this process computes of the step with that number, counted from 0."""
        return micro_batches(
            self.data.steps[number],
            self.data.lengths,
            rank=self.world.rank,
            num_ranks=self.world.size,
            max_tokens=self.settings.micro_batch_tokens,
        )

    @property
    def has_stopped_early(self) -> bool:
        """Whether the val loss has not improved for as long as the settings bear."""
        patience = self.settings.patience
        return patience is not None and self.run_state.bad_evaluations >= patience

    def _end_if_told(self) -> None:
        if self.world.size == 1:
            self.told_to_stop |= self._should_stop()
        if self.told_to_stop or self.has_stopped_early:
            raise Ended

    def _synchronised(self, model: Any, *, is_last: bool) -> Any:
        """Processes add up their gradients once in a step, behind its last micro-batch."""
        if is_sharded(self.model):
            self.model.set_requires_gradient_sync(is_last)
            return nullcontext()
        return nullcontext() if is_last else self.accelerator.no_sync(model)

    def _finish_gradients(self, num_targets: int) -> None:
        """From sums of losses, averaged over the processes, to the step's mean loss per target token; clipped."""
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(self.world.size / num_targets)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.settings.max_grad_norm)
        self.last_grad_norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def _tensors(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        tensors = collate(examples or [_NOTHING])
        return {name: tensor.to(self.args.device, non_blocking=True) for name, tensor in tensors.items()}

    def _not_finite(self, number: int) -> InputError:
        chunk_ids = list(self.data.steps[number].chunk_ids)
        named = ", ".join(chunk_ids[:8]) + (f" and {len(chunk_ids) - 8} more" if len(chunk_ids) > 8 else "")
        return InputError(
            f"the loss is {self.last_loss} and the gradient's norm {self.last_grad_norm} at step {number + 1}; "
            "no weight was changed by it",
            where=f"chunks {named}",
            hint="lower the learning rate, or look at those texts; the checkpoints before it are kept",
        )


class _Steps(Dataset[list[ChunkIds]]):
    """The steps that are left, each as what this process computes of it."""

    def __init__(self, trainer: StepTrainer, first: int) -> None:
        self._trainer = trainer
        self._first = first

    def __len__(self) -> int:
        return max(1, len(self._trainer.data.steps) - self._first)

    def __getitem__(self, index: int) -> list[ChunkIds]:
        number = self._first + index
        return self._trainer.shares(number) if number < len(self._trainer.data.steps) else []


def _as_it_is(item: list[ChunkIds]) -> list[ChunkIds]:
    return item


def _continued(state: TrainingState, world: World, max_tokens: int | None) -> Seen:
    """The record that these processes write: the newest, or one of their own where they are other ones."""
    newest = state.seen[-1] if state.seen else None
    if newest is None or (newest.num_processes, newest.max_tokens) != (world.size, max_tokens):
        newest = Seen(world.size, max_tokens, state.step, [""] * world.size)
        state.seen.append(newest)
    return newest


def _seed_step(seed: int, step: int, rank: int) -> None:
    """Random numbers of a step are a function of (seed, step, process): what was drawn before does not matter."""
    digest = hashlib.sha256(f"{seed} {step} {rank}".encode()).digest()
    number = int.from_bytes(digest[:8], "big")
    torch.manual_seed(number % 2**63)
    np.random.seed(number % 2**32)
    random.seed(number)
