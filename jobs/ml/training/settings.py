"""What training depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Adapter:
    """The adapter that is trained; see `jobs.stages.train.Config` for each."""

    rank: int
    alpha: float
    dropout: float
    target_modules: str
    gradient_checkpointing: bool = False
    quantization: str | None = None


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """How weights are changed; see `jobs.stages.train.Config` for each."""

    learning_rate: float
    learning_rate_schedule: Literal["cosine", "linear", "constant"]
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    save_steps: int
    patience: int | None
    min_delta: float
    seed: int
    precision: str
    micro_batch_tokens: int | None = None
    eval_tokens: int = 16_384
    """Tokens, padding included, that go through the model at once when it is evaluated."""
    report_to: tuple[str, ...] = ()
    shard_model: bool = False
    """Cut the model's weights over the processes (FSDP2) instead of giving each a copy."""
