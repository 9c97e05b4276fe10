"""The model that a run begins with: a fresh adapter, the incumbent's, or that of a checkpoint; checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jobs.contracts.errors import ConfigError, IntegrityError
from jobs.ml.adapters import AdapterSwitch, add_adapter, load_adapter, num_trainable, require_adapter
from jobs.ml.base_model import Base, load_model, require_length
from jobs.ml.encoding import Example
from jobs.ml.loss import target_losses
from jobs.ml.training.settings import Adapter, Hyperparameters

_TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2, "fp16": 5e-3}
"""How far, in relation to it, the loss with the adapter beside the base's weights may be from that with it merged."""


@dataclass(frozen=True, slots=True)
class Start:
    """A model that is ready to be trained, and what was found of it."""

    peft_model: Any
    num_trainable: int
    """Weights that are trained."""
    loss: float | None = None
    """Of the adapter that a warm start begins with, on what it was checked with; None where it was not."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be trained, and where it will compute."""

    base: Base
    adapter: Adapter
    settings: Hyperparameters
    device: Any
    longest: int
    """Tokens of the longest text."""


def fresh_start(wanted: Wanted) -> Start:
    """A new adapter: it changes nothing yet. For errors see `load_model` and `add_adapter`."""
    peft_model = _fresh(_model(wanted), wanted)
    return Start(peft_model, num_trainable(peft_model))


def resumed_start(wanted: Wanted, folder: Path) -> Start:
    """The adapter of a folder, trained on: a checkpoint of this very run, or what another process has checked."""
    peft_model = _loaded(_model(wanted), wanted, folder)
    return Start(peft_model, num_trainable(peft_model))


def warm_start(wanted: Wanted, folder: Path, probe: Sequence[Example]) -> Start:
    """The adapter in service, to be trained further, once it is found to be what it was.

    It must have just the weights that the settings ask for (ConfigError), and beside the base's weights
    its loss on the probe must be the one that it has merged into them (IntegrityError). A base model in
    four bits cannot be merged into, and one that is to be cut up computes nothing before it is: there the
    second check is left out.
    """
    is_sharded = wanted.settings.shard_model
    _require_same_shape(require_adapter(folder, wanted.base), wanted.adapter, folder)
    fresh = _fresh(_model(wanted), wanted)
    shapes = _shapes(fresh)
    model = fresh.unload()
    is_left_out = wanted.adapter.quantization or is_sharded
    expected = None if is_left_out else _merged_loss(model, wanted.base, folder, probe)
    peft_model = _loaded(model, wanted, folder)
    if _shapes(peft_model) != shapes:
        raise ConfigError(
            f"the adapter in service has {num_trainable(peft_model):,} weights in {len(_shapes(peft_model))} matrices, "
            f"with target_modules {wanted.adapter.target_modules} there would be "
            f"{sum(map(_size, shapes.values())):,} in {len(shapes)}",
            where=str(folder),
            hint="name its target modules, or start from the base model (startFrom: Base)",
        )
    if is_sharded:
        return Start(peft_model, num_trainable(peft_model))
    loss = mean_loss(peft_model, probe)
    if expected is not None and abs(loss - expected) > _TOLERANCE[wanted.settings.precision] * max(expected, 0.1):
        raise IntegrityError(
            f"the adapter in service has a loss of {expected:.5f} here, but {loss:.5f} as it was loaded to be trained",
            where=str(folder),
            hint="start from the base model (startFrom: Base)",
        )
    return Start(peft_model, num_trainable(peft_model), loss)


def mean_loss(model: Any, examples: Sequence[Example]) -> float:
    """Loss per target token, in nats."""
    parts = target_losses(model, examples, max_tokens=max(map(len, examples)))
    return float(sum(part.sum() for part in parts)) / max(1, sum(map(len, parts)))


def _model(wanted: Wanted) -> Any:
    settings = wanted.settings
    at = torch.device("cpu") if settings.shard_model else None  # it need not fit on one device before it is cut up
    model = load_model(
        wanted.base,
        device=wanted.device,
        precision=settings.precision,
        quantization=wanted.adapter.quantization,
        at=at,
    )
    require_length(model, wanted.longest - 1)  # nothing is foretold from the last token
    return model


def _fresh(model: Any, wanted: Wanted) -> Any:
    adapter = wanted.adapter
    return add_adapter(
        model,
        rank=adapter.rank,
        alpha=adapter.alpha,
        dropout=adapter.dropout,
        target_modules=adapter.target_modules,
        seed=wanted.settings.seed,
    )


def _loaded(model: Any, wanted: Wanted, folder: Path) -> Any:
    return load_adapter(model, folder, base=wanted.base, trainable=True, dropout=wanted.adapter.dropout)


def _merged_loss(model: Any, base: Base, folder: Path, probe: Sequence[Example]) -> float:
    switch = AdapterSwitch(model, base)
    try:
        return mean_loss(switch.use(folder), probe)
    finally:
        switch.use(None)


def _require_same_shape(own: Any, adapter: Adapter, folder: Path) -> None:
    if (own["r"], float(own["lora_alpha"])) != (adapter.rank, float(adapter.alpha)):
        raise ConfigError(
            f"the adapter in service has rank {own['r']} and alpha {own['lora_alpha']:g}, "
            f"the settings say rank {adapter.rank} and alpha {adapter.alpha:g}",
            where=str(folder),
            hint="keep its rank and alpha, or start from the base model (startFrom: Base)",
        )


def _shapes(peft_model: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(one.shape) for name, one in peft_model.named_parameters() if one.requires_grad}


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for one in shape:
        size *= one
    return size
