"""What happens before the first step and behind each one: going on from a checkpoint, logs, evaluation, saving."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from jobs.ml.training.checkpoints import load_optimizer
from jobs.ml.training.steps import num_tokens

if TYPE_CHECKING:
    from jobs.ml.training.trainer import StepTrainer

MAX_LOGGED_STEPS = 1000
"""How many steps a log holds at most; of a longer run it has every n-th."""


def log_interval(num_steps: int) -> int:
    """Every how many steps a line is logged."""
    return math.ceil(num_steps / MAX_LOGGED_STEPS)


class StepEnd(TrainerCallback):
    """Begins where the checkpoint stopped, and says after each step whether to evaluate, save or stop."""

    def __init__(self, trainer: StepTrainer, resume_from: Path | None) -> None:
        self._trainer = trainer
        self._resume_from = resume_from

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Bring optimiser, learning rate and log to where the checkpoint was, and do what it had no time for."""
        trainer = self._trainer
        run = trainer.run_state
        state.global_step = run.step
        state.log_history = list(run.log_history)
        if self._resume_from is not None:
            load_optimizer(getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"]), self._resume_from)
            kwargs["lr_scheduler"].last_epoch = run.step - 1
            kwargs["lr_scheduler"].step()
        if trainer.progress is not None:
            trainer.progress.begin(run.step, trainer.epochs[run.step])
        if not run.is_settled and run.step in trainer.due:
            if trainer.data.val_examples:
                trainer.evaluate()
            trainer.save(is_settled=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log; evaluate and save where that is due."""
        trainer = self._trainer
        self._tell(state.global_step)
        num_steps = len(trainer.data.steps)
        if state.global_step in (1, num_steps) or state.global_step % log_interval(num_steps) == 0:
            last = {"grad_norm": trainer.last_grad_norm, "learning_rate": trainer.last_learning_rate}
            trainer.log({"loss": trainer.last_loss, **last})
        is_due = state.global_step in trainer.due
        control.should_evaluate = is_due and bool(trainer.data.val_examples)
        control.should_save = is_due

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any, **kwargs: Any) -> None:
        """Whether it has become better, and how long it has not."""
        trainer = self._trainer
        run, loss = trainer.run_state, metrics["eval_loss"]
        if run.best_loss is None or loss < run.best_loss - trainer.settings.min_delta:
            run.bad_evaluations = 0
        else:
            run.bad_evaluations += 1
        if run.best_loss is None or loss < run.best_loss:
            run.best_loss, run.best_step = loss, state.global_step
        if trainer.progress is not None:
            trainer.progress.eval_loss = loss

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End where patience has: only now, for the checkpoint is to tell of it."""
        if self._trainer.has_stopped_early:
            control.should_training_stop = True

    def _tell(self, step: int) -> None:
        trainer = self._trainer
        if trainer.progress is None:
            return
        read = num_tokens(
            trainer.data.steps[step - 1],
            trainer.data.lengths,
            trainer.world.size,
            trainer.settings.micro_batch_tokens,
        )
        trainer.progress.step_done(
            step,
            epoch=trainer.epochs[step],
            loss=trainer.last_loss,
            learning_rate=trainer.last_learning_rate,
            tokens=read[0],
            padded=read[1],
        )
