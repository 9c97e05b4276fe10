"""What transformers' Trainer is told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from transformers import TrainingArguments

from jobs.ml.training.settings import Hyperparameters
from jobs.ml.training.world import World

if TYPE_CHECKING:
    import torch


def trainer_arguments(
    settings: Hyperparameters, num_steps: int, *, device: torch.device, world: World, scratch: Path
) -> TrainingArguments:
    """One epoch of `num_steps` items, a step each; saving, evaluating and logging are StepTrainer's own.

    `scratch` is where integrations may write.
    """
    arguments = TrainingArguments(
        output_dir=str(scratch),
        max_steps=num_steps,
        per_device_train_batch_size=1,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        optim="adamw_torch",
        max_grad_norm=0,  # clipped in training_step, where it is looked at
        seed=settings.seed % 2**32,
        use_cpu=device.type == "cpu",
        ddp_backend="gloo" if device.type == "cpu" and world.size > 1 else None,
        ddp_find_unused_parameters=False,
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        report_to=list(settings.report_to) or "none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        logging_nan_inf_filter=False,
    )
    # Of a process that sees several GPUs Trainer would make threads (nn.DataParallel): a process has one.
    arguments._n_gpu = 1  # noqa: SLF001 - as Trainer itself does for what it must not wrap
    return arguments
