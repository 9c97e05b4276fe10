"""Where and in which precision a model computes, and what makes it compute the same again."""

from __future__ import annotations

import os
import random

import numpy as np
import torch

from jobs.contracts.errors import ConfigError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def choose_device(asked: str | None = None) -> torch.device:
    """The device of that name, else CUDA, Apple's MPS or the CPU, whichever is there first; ConfigError."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if asked is None:
        asked = next(name for name, there in available.items() if there)
    if not available.get(asked.partition(":")[0], False):
        there = ", ".join(name for name, is_there in available.items() if is_there)
        raise ConfigError(f"no such device here: {asked}", where="--device", hint=f"there is: {there}")
    if asked == "cuda":  # one of the node's, where several processes share it
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device(asked)


def dtype_for(precision: str, device: torch.device) -> torch.dtype:
    """The type of the frozen weights: what was asked for where the device computes in it, else fp32."""
    dtype = _DTYPES[precision]
    if device.type == "cpu":
        return torch.float32
    if device.type == "cuda" and dtype is torch.bfloat16 and not torch.cuda.is_bf16_supported():
        return torch.float16
    return dtype


def make_deterministic(seed: int) -> None:
    """Seed python, numpy and torch, and refuse operations that would not give the same bits again.

    To be called before CUDA starts: cuBLAS reads its setting then.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - what libraries draw from
    torch.manual_seed(seed)
