"""The tensors of an adapter's file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from jobs.contracts.errors import InputError
from jobs.ml.adapter_files import CONFIG, WEIGHTS


def read_weights(folder: Path, settings: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of an adapter, by PEFT's names; InputError where one is not finite, or not of the adapter's rank."""
    path = folder / WEIGHTS
    try:
        weights: dict[str, torch.Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"the file is damaged: {error}", where=str(path), hint="fetch it again") from error
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"{name} has numbers that are not finite", where=str(path))
        rank = tensor.shape[0 if ".lora_A." in name else -1] if tensor.dim() == 2 else None
        if rank != settings["r"]:
            raise InputError(f"{name} is of rank {rank}, but {CONFIG} says {settings['r']}", where=str(path))
    return weights
